"""Other backbones by name: any network of timm or torchvision that outputs square feature maps or tokens."""

import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor

from backbones.imagenet_weights import BackboneWeights, WeightsUnavailable, read_state
from dataset import IMAGENET_MEAN, IMAGENET_STD
from runtime.errors import InputError, first_line

TORCHVISION = "torchvision/"  # prefix of torchvision's models; names without it are timm's
CLASSIFIERS = ("avgpool", "classifier", "fc", "head")  # layers at which the classifier of torchvision's networks begins


class LibraryBackbone(nn.Module):
    """A network without its classifier: images normalised as for ResNet-50 (B, 3, S, S) to feature maps (B, C, h, h).

    The feature maps of a vision transformer are its last patch tokens, in their places.

    Args:
        name: timm's, or torchvision's with the prefix "torchvision/".
        size: S.
        pretrained: load its library's default weights, downloading them unless they are cached.

    Attributes:
        channels, side: C and h.
        source: name of the weights.

    Raises: InputError where the library has no such network, or its feature maps at this size are not square; and
        whatever the library raises where a download fails.
    """

    def __init__(self, name: str, size: int, pretrained: bool = False) -> None:
        super().__init__()
        self.name, self.source = name, f"random weights ({name}, untrained, seed 0)"
        self.prefix = 0  # tokens before the patches (class, registers)
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if name.startswith(TORCHVISION):
            self.body = self.from_torchvision(name.removeprefix(TORCHVISION), pretrained)
        else:
            self.body = self.from_timm(name, size, pretrained)
            about = self.body.pretrained_cfg
            mean, std = about.get("mean") or mean, about.get("std") or std
        # From ResNet-50's normalisation to this network's.
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)
        self.eval()
        try:
            with torch.inference_mode():
                shape = self(torch.zeros(1, 3, size, size)).shape
        except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
            raise InputError(f"--backbone {name}: cannot take images of {size} pixels ({first_line(error)})") from error
        if len(shape) != 4 or shape[2] != shape[3] or shape[2] < 2:
            raise InputError(f"--backbone {name}: outputs {tuple(shape[1:])}; square feature maps are needed")
        self.channels, self.side = shape[1:3]

    def from_timm(self, name: str, size: int, pretrained: bool) -> nn.Module:
        import timm  # takes seconds to import

        if not timm.is_model(name):
            similar = timm.list_models(f"*{name}*")[:3]
            hint = f"; similar: {', '.join(similar)}" if similar else ""
            raise InputError(f"--backbone {name}: timm has no model of that name{hint}; see timm.list_models()")
        options = {"pretrained": pretrained, "num_classes": 0}
        try:
            body = timm.create_model(name, **options, img_size=size)
        except TypeError:  # most convolutional networks take images of any size and have no such argument
            body = timm.create_model(name, **options)
        self.prefix = getattr(body, "num_prefix_tokens", 0)
        if pretrained:
            self.source = f"timm {name}.{body.pretrained_cfg.get('tag') or 'default'}"
        return body

    def from_torchvision(self, name: str, pretrained: bool) -> nn.Module:
        if name not in list_models(models):
            raise InputError(
                f"--backbone {TORCHVISION}{name}: torchvision has no such model; see torchvision.models.list_models()"
            )
        weights = get_model_weights(name).DEFAULT if pretrained else None
        body = get_model(name, weights=weights)
        if pretrained:
            self.source = f"torchvision {weights}"
        if hasattr(body, "encoder"):  # a vision transformer
            self.prefix = 1
            return create_feature_extractor(body, {"encoder.ln": "tokens"})
        layers = OrderedDict()
        for key, layer in body.named_children():
            if key in CLASSIFIERS:
                break
            layers[key] = layer
        return nn.Sequential(layers)

    def forward(self, images: Tensor) -> Tensor:
        images = images * self.scale + self.shift
        is_timms = hasattr(self.body, "forward_features")
        features = self.body.forward_features(images) if is_timms else self.body(images)
        if isinstance(features, dict):
            features = features["tokens"]
        if features.dim() == 3:
            return tokens_to_maps(features, self.prefix)
        return features.permute(0, 3, 1, 2) if getattr(self.body, "output_fmt", "NCHW") == "NHWC" else features


def tokens_to_maps(tokens: Tensor, prefix: int) -> Tensor:
    """A transformer's tokens (B, prefix + h * h, C) as feature maps (B, C, h, h); the prefix is left out."""
    side = math.isqrt(int(tokens.shape[1]) - prefix)  # an int also while OpenVINO traces
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, (side, -1))


def load_library_weights(name: str, source: str, size: int) -> BackboneWeights:
    """Returns weights of the backbone `name` from `source`: "auto" (its library), "random", or a state dict's path.

    Raises:
        WeightsUnavailable: the library could not get them.
        InputError: as `LibraryBackbone`, or the file does not fit.
    """
    if source in ("v1", "v2", "npm"):
        raise InputError(f"--weights {source}: is for ResNet-50; with --backbone give auto, random or a FILE")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = LibraryBackbone(name, size)
    if source == "auto":
        try:
            backbone = LibraryBackbone(name, size, pretrained=True)
        except Exception as error:  # huggingface_hub, httpx, urllib and timm each raise their own
            raise WeightsUnavailable(
                f"weights for {name} are not available ({first_line(error)}). Connect to the network and run again, or "
                "give a state dict in its library's own naming with --weights FILE (.pth or .safetensors)"
            ) from error
    elif source != "random":
        load_state_file(backbone, Path(source))
    return BackboneWeights(backbone.source, as_base_model(backbone).state_dict(), backbone=name)


def load_state_file(backbone: LibraryBackbone, path: Path) -> None:
    """Loads a state dict in its library's own naming into a backbone, without its classifier."""
    state, own = read_state(path)[0], backbone.body.state_dict()
    for key, value in own.items():
        if key not in state:
            raise InputError(
                f"{path}: {key} is missing; a state dict in the naming of the backbone's library is needed"
            )
        if state[key].shape != value.shape:
            raise InputError(f"{path}: {key} has shape {tuple(state[key].shape)}, not {tuple(value.shape)}")
    backbone.body.load_state_dict({key: state[key] for key in own})
    backbone.source = f"{backbone.name}, file {path.name}"


def as_base_model(backbone: LibraryBackbone) -> nn.Sequential:
    """The backbone in the form of `ActionNet.base_model`."""
    return nn.Sequential(OrderedDict(network=backbone))
