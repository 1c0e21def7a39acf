"""The network: a frozen ImageNet ResNet-50 (`base_model`) and a trainable convolutional head."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, resnet50

from weights import BackboneWeights

MAP_CHANNELS = 2048  # what ResNet-50's last stage puts out
STRIDE = 32  # an image of side S gives maps of side S / 32


def resnet50_with_stride_on(conv: str) -> ResNet:
    """An untrained torchvision ResNet-50 whose stages 2 to 4 start with the stride on `conv`.

    "conv2" is torchvision's own ("v1.5"), "conv1" that of He et al. 2015 (https://arxiv.org/abs/1512.03385).
    """
    net = resnet50(weights=None)
    if conv == "conv1":
        for stage in (net.layer2, net.layer3, net.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    elif conv != "conv2":
        raise ValueError(f"stride_on is {conv!r}; it must be 'conv1' or 'conv2'")
    return net


class MapConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1 that a CPU computes, in float32, as one matrix product.

    On maps of 7x7 and less PyTorch's own convolution leaves half of a CPU idle; the product does not. Elsewhere, and
    for batches whose unfolded maps would fill the memory, it is PyTorch's.
    """

    MAX_POSITIONS = 8192  # unfolded, a position of 2048 channels takes 74 kB

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not plain or b * h * w > self.MAX_POSITIONS:
            return super().forward(x)
        x = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, h + 2, w + 2, C)
        taps = [x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        columns = torch.cat(taps, dim=-1).view(b * h * w, 9 * c)
        kernel = self.weight.permute(2, 3, 1, 0).reshape(9 * c, self.out_channels)
        return torch.addmm(self.bias, columns, kernel).view(b, h, w, self.out_channels).permute(0, 3, 1, 2)


class ActionNet(nn.Module):
    """ResNet-50 without its last two layers, frozen, then conv 2048→512, conv 512→256, pooling and a classifier.

    Frozen means both: no parameter of `base_model` asks for a gradient, and its batch norms keep to evaluation mode, so
    that their running statistics stand still. Gradients still flow *through* it to the image, as Grad-CAM needs.

    Args:
        num_classes: K, how many logits come out.
        stride_on: see `resnet50_with_stride_on`.
        dropout: share of the 256 pooled features dropped in training.
        channel_dropout: share of the 2048 map channels dropped in training, each as a whole.
    """

    def __init__(
        self, num_classes: int, stride_on: str = "conv2", dropout: float = 0.0, channel_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stride_on = stride_on
        stages = list(resnet50_with_stride_on(stride_on).named_children())[:-2]  # without avgpool and fc
        self.base_model = nn.Sequential(OrderedDict(stages)).requires_grad_(False)
        self.channel_dropout = nn.Dropout2d(channel_dropout)
        self.conv1 = MapConv2d(MAP_CHANNELS, 512)
        self.bn1 = nn.BatchNorm2d(512)
        self.relu1 = nn.ReLU()
        self.conv2 = MapConv2d(512, 256)
        self.bn2 = nn.BatchNorm2d(256)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(256, num_classes)
        self.train()

    def train(self, mode: bool = True) -> "ActionNet":
        super().train(mode)
        self.base_model.eval()
        return self

    def head(self, maps: Tensor) -> Tensor:
        """Backbone maps (B, 2048, h, w) to logits (B, K)."""
        x = self.channel_dropout(maps)
        x = self.relu1(self.bn1(self.conv1(x)))  # (B, 512, h, w)
        x = self.relu2(self.bn2(self.conv2(x)))  # (B, 256, h, w)
        x = self.avgpool(x).flatten(1)  # (B, 256)
        return self.fc(self.dropout(x))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) to logits (B, K)."""
        return self.head(self.base_model(images))  # maps (B, 2048, S / 32, S / 32)

    def head_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def build_model(
    weights: BackboneWeights, num_classes: int, dropout: float = 0.0, channel_dropout: float = 0.0
) -> ActionNet:
    """A new network: the given backbone, and a head drawn from torch's current seed."""
    model = ActionNet(num_classes, weights.stride_on, dropout, channel_dropout)
    state = {key: value for key, value in weights.state.items() if not key.startswith("fc.")}
    model.base_model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)
