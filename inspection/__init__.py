"""Numbers from inside a network: layer names, statistics of layers, attributions, and the images to inspect."""
