"""The default backbone's name and stride, for options: imports nothing, so that --help needs no torch."""

RESNET = "resnet50"
STRIDE = 32  # an image of side S gives feature maps of side S / 32
