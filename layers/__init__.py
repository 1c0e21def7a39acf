"""Layers that PyTorch lacks: fast 3x3 convolutions on CPUs, batch norm and dropout over several processes."""
