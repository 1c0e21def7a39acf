"""A frozen ResNet for inference on a GPU: batch norms folded into convolutions, each with its ReLU in one kernel."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class FusedConv2d(nn.Module):
    """A convolution and its frozen batch norm as one convolution, and the ReLU after it; on a GPU a single kernel."""

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d, dtype: torch.dtype) -> None:
        super().__init__()
        folded = fuse_conv_bn_eval(conv.eval(), bn.eval())
        self.weight = nn.Parameter(folded.weight.to(dtype, memory_format=torch.channels_last), requires_grad=False)
        self.bias = nn.Parameter(folded.bias.to(dtype), requires_grad=False)
        self.geometry = conv.stride, conv.padding, conv.dilation, conv.groups

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """ReLU of the convolution of x (B, C, H, W), plus `added` where given."""
        if added is not None and x.is_cuda:
            return torch.cudnn_convolution_add_relu(x, self.weight, added, 1.0, self.bias, *self.geometry)
        if x.is_cuda:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self.geometry)
        y = self.linear(x)
        return (y if added is None else y + added).relu_()

    def linear(self, x: Tensor) -> Tensor:
        """The convolution without ReLU."""
        return nn.functional.conv2d(x, self.weight, self.bias, *self.geometry)


class FusedBottleneck(nn.Module):
    """A bottleneck block of ResNet (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = FusedConv2d(block.conv1, block.bn1, dtype)
        self.conv2 = FusedConv2d(block.conv2, block.bn2, dtype)
        self.conv3 = FusedConv2d(block.conv3, block.bn3, dtype)
        self.shortcut = FusedConv2d(*block.downsample, dtype) if block.downsample else None

    def forward(self, x: Tensor) -> Tensor:
        added = self.shortcut.linear(x) if self.shortcut else x
        return self.conv3(self.conv2(self.conv1(x)), added)


def fuse_resnet(network: nn.Sequential, dtype: torch.dtype) -> nn.Sequential | None:
    """The first stages of a ResNet (conv1, bn1, relu, maxpool, layer1 …) in `dtype`; None for another network.

    Shares no parameters with `network`, which may go on being trained.
    """
    parts = dict(network.named_children())
    if not {"conv1", "bn1", "relu", "maxpool"} <= parts.keys():
        return None
    stem = [FusedConv2d(parts.pop("conv1"), parts.pop("bn1"), dtype), parts.pop("maxpool")]
    del parts["relu"]
    return nn.Sequential(*stem, *(FusedBottleneck(block, dtype) for stage in parts.values() for block in stage))
