"""The network: a frozen ImageNet ResNet-50 (`base_model`) and a trainable convolutional head."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, resnet50

from parallel import BatchNorm2d, RowDropout
from weights import BackboneWeights
from winograd import conv3x3

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
    """A 3x3 convolution with padding 1, whose batches a CPU computes with a third of the multiplications, in float32.

    For few maps the kernels' transform costs more than it saves, and for many the memory would not do: those go
    PyTorch's way.
    """

    POSITIONS = range(512, 8192)  # a position of 2048 channels takes up to 40 kB

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if plain and len(x) * x.shape[2] * x.shape[3] in self.POSITIONS:
            return conv3x3(x, self.weight, self.bias)
        return super().forward(x)


class ActionNet(nn.Module):
    """ResNet-50 without its last two layers, frozen, then conv 2048→512, conv 512→256, pooling and a classifier.

    Frozen means both: no parameter of `base_model` asks for a gradient, and its batch norms keep to evaluation mode, so
    that their running statistics stand still. Gradients still flow *through* it to the image, as Grad-CAM needs.

    Args:
        num_classes: K, how many logits come out.
        stride_on: see `resnet50_with_stride_on`.
        dropout: share of the 256 pooled features dropped in training.
        channel_dropout: share of the 2048 map channels dropped in training, each as a whole.

    Attributes:
        temperature: what `probabilities` divides logits by; fitted on validation (`trust.fit_temperature`).
    """

    def __init__(
        self, num_classes: int, stride_on: str = "conv2", dropout: float = 0.0, channel_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stride_on, self.temperature = stride_on, 1.0
        stages = list(resnet50_with_stride_on(stride_on).named_children())[:-2]  # without avgpool and fc
        self.base_model = nn.Sequential(OrderedDict(stages)).requires_grad_(False)
        self.channel_dropout = RowDropout(channel_dropout)
        self.conv1 = MapConv2d(MAP_CHANNELS, 512)
        self.bn1 = BatchNorm2d(512)
        self.relu1 = nn.ReLU()
        self.conv2 = MapConv2d(512, 256)
        self.bn2 = BatchNorm2d(256)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = RowDropout(dropout)
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

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (…, K) to calibrated probabilities (…, K)."""
        return (logits / self.temperature).softmax(-1)

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
