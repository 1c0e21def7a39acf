"""Console, errors, files, devices and processes: knows nothing of networks."""
