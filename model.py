"""The network: a frozen ImageNet ResNet-50 or another (`base_model`), and a trainable convolutional head."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, resnet50

from backbones.imagenet_weights import RESNET, BackboneWeights
from backbones.timm_torchvision import LibraryBackbone, sequential
from layers.conv3x3 import best_tile, conv3x3
from runtime.device import cpu_has
from runtime.distributed import BatchNorm2d, RowDropout

MAP_CHANNELS = 2048  # what ResNet-50's last stage puts out
STRIDE = 32  # an image of side S gives maps of side S / 32
STAGE_INPUT = {
    "layer1": (64, 4),
    "layer2": (256, 4),
    "layer3": (512, 8),
    "layer4": (1024, 16),
}  # channels, and the stride


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
    """A 3x3 convolution (padding 1, stride 1), whose batches a CPU computes in float32 with few of the products.

    That is faster than in bfloat16 with all of them, but where there are matrix units for it. For few maps the kernels'
    transform costs more than it saves; many go in parts, or, where gradients would keep all parts, PyTorch's way.
    """

    LEAST = 512  # positions
    MOST = 88_000_000  # transformed inputs with gradients, which take 350 MB
    PART = 26_000  # products a channel pair at a time without gradients

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        if b * h * w < self.LEAST or not wants_float32(x):
            return super().forward(x)
        of_one = best_tile(h, w).products(h, w)
        if not torch.is_grad_enabled() and of_one <= self.PART:
            return torch.cat([conv3x3(part, self.weight, self.bias) for part in x.split(self.PART // of_one)])
        if b * of_one * self.in_channels <= self.MOST:
            return conv3x3(x, self.weight, self.bias)
        return super().forward(x)


def wants_float32(x: Tensor) -> bool:
    """Whether a CPU is to multiply these maps in float32."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return x.device.type == "cpu" and x.dtype == torch.float32
    return cpu_has("avx512_bf16") and not cpu_has("amx_bf16")


class ActionNet(nn.Module):
    """ResNet-50 without its last two layers, frozen, then conv 2048→512, conv 512→256, pooling and a classifier.

    Frozen means both: no parameter of `base_model` asks for a gradient, and its batch norms keep to evaluation mode, so
    that their running statistics stand still. Gradients still flow *through* it to the image, as Grad-CAM needs. From
    the stage `unfreeze` on, the convolutions of `base_model` are trained too; batch norms stay as they are everywhere.

    Args:
        num_classes: K, how many logits come out.
        stride_on: see `resnet50_with_stride_on`.
        dropout: share of the 256 pooled features dropped in training.
        channel_dropout: share of the map channels dropped in training, each as a whole.
        unfreeze: the first stage that is trained, "layer1" to "layer4"; "none": the head alone.
        backbone: another one than ResNet-50 (see `other_backbones`), for pictures of `size` pixels.

    Attributes:
        directions: where the head takes maps along these, not of all channels, orthonormal columns (see `narrow`).
        temperature: what `probabilities` divides logits by; fitted on validation (`trust.fit_temperature`).
    """

    def __init__(
        self,
        num_classes: int,
        stride_on: str = "conv2",
        dropout: float = 0.0,
        channel_dropout: float = 0.0,
        unfreeze: str = "none",
        backbone: str = RESNET,
        size: int = 224,
    ) -> None:
        super().__init__()
        self.stride_on, self.unfreeze, self.backbone, self.temperature = stride_on, unfreeze, backbone, 1.0
        if backbone == RESNET:
            stages = list(resnet50_with_stride_on(stride_on).named_children())[:-2]  # without avgpool and fc
            self.base_model = nn.Sequential(OrderedDict(stages))
        else:
            self.base_model = sequential(LibraryBackbone(backbone, size))
        self.base_model.requires_grad_(False)
        names = [name for name, _ in self.base_model.named_children()]
        self.cut = names.index(unfreeze) if unfreeze != "none" else len(names)
        for stage in self.base_model[self.cut :]:
            make_trainable(stage)
        self.channel_dropout = RowDropout(channel_dropout)
        self.conv1 = MapConv2d(MAP_CHANNELS if backbone == RESNET else self.base_model.network.channels, 512)
        self.bn1 = BatchNorm2d(512)
        self.relu1 = nn.ReLU()
        self.conv2 = MapConv2d(512, 256)
        self.bn2 = BatchNorm2d(256)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = RowDropout(dropout)
        self.fc = nn.Linear(256, num_classes)
        self.directions: Tensor | None = None  # see `narrow`
        self.train()

    def train(self, mode: bool = True) -> "ActionNet":
        super().train(mode)
        self.base_model.eval()
        return self

    @property
    def backbone_title(self) -> str:
        """Short, for figures."""
        return "ResNet-50" if self.backbone == RESNET else "backbone"

    @property
    def frozen(self) -> nn.Sequential:
        """The part of `base_model` that is never trained: images (B, 3, S, S) to maps."""
        return self.base_model[: self.cut]

    def map_shape(self, size: int) -> tuple[int, int]:
        """Channels and side of the maps that `frozen` puts out."""
        if self.backbone != RESNET:
            return self.base_model.network.channels, self.base_model.network.side
        channels, stride = STAGE_INPUT.get(self.unfreeze, (MAP_CHANNELS, STRIDE))
        return channels, size // stride

    def crop_size(self, size: int) -> int:
        """Side in pixels of the cached crops that go with pictures of `size`: of ResNet-50 about 4/5.

        What is shown in a crop comes out larger than in the whole; smaller crops make up for it (Touvron et al. 2019,
        https://arxiv.org/abs/1906.06423), and take two thirds of the time.
        """
        return max(2, round(0.8 * size / STRIDE)) * STRIDE if self.backbone == RESNET else size

    def rest(self, maps: Tensor) -> Tensor:
        """Maps of `frozen`, (B, C, h, h) as `map_shape` says, to logits (B, K)."""
        return self.head(self.base_model[self.cut :](maps))

    def head(self, maps: Tensor) -> Tensor:
        """Backbone maps (B, C, h, w) to logits (B, K)."""
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

    def narrow(self, directions: Tensor) -> None:
        """From now on, `rest` takes maps along these directions, orthonormal columns (C, K), in place of all channels.

        The head starts as what it was, but for what its first kernels say of other directions.
        """
        wide, self.directions = self.conv1, directions.to(self.conv1.weight.device)
        self.conv1 = MapConv2d(directions.shape[1], wide.out_channels)
        weight = torch.einsum("ochw,ck->okhw", wide.weight, self.directions)
        self.conv1.load_state_dict({"weight": weight, "bias": wide.bias})
        self.conv1.to(weight.device, memory_format=torch.channels_last)

    def wide(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state for maps of all channels."""
        if self.directions is None:
            return state
        return state | {"conv1.weight": torch.einsum("okhw,ck->ochw", state["conv1.weight"], self.directions)}

    def trained_parameters(self) -> list[list[nn.Parameter]]:
        """The head's, then those of each unfrozen stage, the last one first."""
        parts = [part for name, part in self.named_children() if name != "base_model"]
        groups = [parts, *([stage] for stage in reversed(self.base_model[self.cut :]))]
        return [[p for part in group for p in part.parameters() if p.requires_grad] for group in groups]

    def is_frozen(self, name: str) -> bool:
        """Whether a layer, or an entry of the state, belongs to `frozen`."""
        if name == "base_model":
            return self.cut == len(self.base_model)
        return f"{name}.".startswith(tuple(f"base_model.{stage}." for stage, _ in self.frozen.named_children()))

    def trained_state(self) -> dict[str, Tensor]:
        """The state without that of `frozen`."""
        return {key: value for key, value in self.state_dict().items() if not self.is_frozen(key)}


def make_trainable(stage: nn.Module) -> None:
    """Lets a stage's convolutions ask for gradients, and computes those of 3x3 as the head's are."""
    for block in stage:
        if block.conv2.stride == (1, 1):
            block.conv2 = MapConv2d(block.conv2.in_channels, block.conv2.out_channels, bias=False)
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                layer.requires_grad_(True)


def build_model(
    weights: BackboneWeights,
    num_classes: int,
    dropout: float = 0.0,
    channel_dropout: float = 0.0,
    unfreeze: str = "none",
    size: int = 224,
) -> ActionNet:
    """A new network: the given backbone, and a head drawn from torch's current seed."""
    model = ActionNet(num_classes, weights.stride_on, dropout, channel_dropout, unfreeze, weights.backbone, size)
    state = {key: value for key, value in weights.state.items() if not key.startswith("fc.")}
    model.base_model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)
