"""The network: a frozen backbone (`base_model`, an ImageNet ResNet-50 by default) and a trained convolutional head."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from backbones.imagenet_weights import BackboneWeights
from backbones.names import RESNET, STRIDE
from backbones.resnet import ResNet50
from layers.conv3x3 import accelerate
from layers.distributed_norm import RowDropout

FEATURE_CHANNELS = 2048  # of ResNet-50's last stage
STAGE_INPUTS = {  # channels and stride of the feature maps that enter each stage
    "layer1": (64, 4),
    "layer2": (256, 4),
    "layer3": (512, 8),
    "layer4": (1024, 16),
}


class ActionNet(nn.Module):
    """Frozen ResNet-50 without its last two layers, then conv 2048→512, conv 512→256, average pooling, classifier.

    Frozen means that no parameter of `base_model` is trained and that its batch norms stay in evaluation mode, so that
    their running statistics do not change. Gradients still flow through it to the image, as Grad-CAM needs. From the
    stage `unfreeze` on, the convolutions of `base_model` are trained too; batch norms stay fixed everywhere.

    Args:
        num_classes: K, the number of logits.
        stride_on: see `backbones.resnet.ResNet50`.
        dropout: probability of dropping each of the 256 pooled features in training.
        channel_dropout: probability of dropping each channel of the feature maps in training.
        unfreeze: first trained stage, "layer1" to "layer4"; "none" trains the head alone.
        backbone: name of another backbone (see `backbones.timm_torchvision`), for images of side `size`.

    Attributes:
        temperature: `probabilities` divides logits by it; fitted on validation (`evaluation.calibration`).
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
            stages = list(ResNet50(stride_on).named_children())[:-2]  # without avgpool and fc
            self.base_model = nn.Sequential(OrderedDict(stages))
        else:
            from backbones.timm_torchvision import LibraryBackbone, as_base_model  # takes seconds to import

            self.base_model = as_base_model(LibraryBackbone(backbone, size))
        self.base_model.requires_grad_(False)
        names = [name for name, _ in self.base_model.named_children()]
        self.cut = names.index(unfreeze) if unfreeze != "none" else len(names)
        for layer in self.base_model[self.cut :].modules():
            if isinstance(layer, nn.Conv2d):
                layer.requires_grad_(True)
        self.channel_dropout = RowDropout(channel_dropout)
        channels = FEATURE_CHANNELS if backbone == RESNET else self.base_model.network.channels
        self.conv1 = nn.Conv2d(channels, 512, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(512)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(512, 256, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(256)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = RowDropout(dropout)
        self.fc = nn.Linear(256, num_classes)
        self.train()

    def train(self, mode: bool = True) -> "ActionNet":
        """Sets the mode of the head; the backbone, batch norms included, stays in evaluation mode."""
        super().train(mode)
        self.base_model.eval()
        return self

    @property
    def backbone_title(self) -> str:
        """Short name for figures."""
        return "ResNet-50" if self.backbone == RESNET else "backbone"

    @property
    def frozen(self) -> nn.Sequential:
        """The part of `base_model` that is never trained: images (B, 3, S, S) to feature maps."""
        return self.base_model[: self.cut]

    def feature_shape(self, size: int) -> tuple[int, int]:
        """Channels and side of the feature maps that `frozen` outputs for images of side `size`."""
        if self.backbone != RESNET:
            return self.base_model.network.channels, self.base_model.network.side
        channels, stride = STAGE_INPUTS.get(self.unfreeze, (FEATURE_CHANNELS, STRIDE))
        return channels, size // stride

    def crop_size(self, size: int) -> int:
        """Side in pixels of cached random crops for images of side `size`: about 4/5 of it.

        Objects appear larger in a crop than in the full image; smaller crops compensate (Touvron et al. 2019,
        https://arxiv.org/abs/1906.06423) and take two thirds of the time.
        """
        return max(2, round(0.8 * size / STRIDE)) * STRIDE if self.backbone == RESNET else size

    def from_features(self, features: Tensor) -> Tensor:
        """Feature maps of `frozen` (B, C, h, h) to logits (B, K)."""
        return self.head(self.base_model[self.cut :](features))

    def head(self, features: Tensor) -> Tensor:
        """Backbone feature maps (B, C, h, w) to logits (B, K)."""
        x = self.channel_dropout(features)
        x = self.relu1(self.bn1(self.conv1(x)))  # (B, 512, h, w)
        x = self.relu2(self.bn2(self.conv2(x)))  # (B, 256, h, w)
        x = self.avgpool(x).flatten(1)  # (B, 256)
        return self.fc(self.dropout(x))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) to logits (B, K)."""
        return self.head(self.base_model(images))  # feature maps (B, 2048, S / 32, S / 32)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (…, K) to calibrated probabilities (…, K)."""
        return (logits / self.temperature).softmax(-1)

    def trained_parameters(self) -> list[list[nn.Parameter]]:
        """Parameters of the head, then those of each fine-tuned stage, the last stage first."""
        parts = [part for name, part in self.named_children() if name != "base_model"]
        groups = [parts, *([stage] for stage in reversed(self.base_model[self.cut :]))]
        return [[p for part in group for p in part.parameters() if p.requires_grad] for group in groups]

    def is_frozen(self, name: str) -> bool:
        """Whether a layer, or an entry of the state dict, belongs to `frozen`."""
        if name == "base_model":
            return self.cut == len(self.base_model)
        return f"{name}.".startswith(tuple(f"base_model.{stage}." for stage, _ in self.frozen.named_children()))

    def trained_state(self) -> dict[str, Tensor]:
        """The state dict without `frozen`."""
        return {key: value for key, value in self.state_dict().items() if not self.is_frozen(key)}


def build_model(
    weights: BackboneWeights,
    num_classes: int,
    dropout: float = 0.0,
    channel_dropout: float = 0.0,
    unfreeze: str = "none",
    size: int = 224,
) -> ActionNet:
    """A network with the given backbone weights and a head initialised from torch's current seed."""
    model = ActionNet(num_classes, weights.stride_on, dropout, channel_dropout, unfreeze, weights.backbone, size)
    state = {key: value for key, value in weights.state.items() if not key.startswith("fc.")}
    model.base_model.load_state_dict(state)
    return accelerate(model).to(memory_format=torch.channels_last)
