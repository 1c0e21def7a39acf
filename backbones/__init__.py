"""Pretrained frozen backbones: ResNet-50 with ImageNet weights, and any network of timm or torchvision."""
