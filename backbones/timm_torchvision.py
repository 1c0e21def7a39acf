"""Backbones other than ResNet-50, by name: any network of timm or torchvision whose last maps can feed the head."""

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

TORCHVISION = "torchvision/"  # before the name of one of its models; names alone are timm's
CLASSIFIERS = ("avgpool", "classifier", "fc", "head")  # where torchvision's networks begin to be a classifier


class LibraryBackbone(nn.Module):
    """A network without its classifier: pictures normalised as for ResNet-50, (B, 3, S, S), to maps (B, C, h, h).

    Of a vision transformer the maps are the last tokens of the patches, in their places.

    Args:
        name: timm's, or torchvision's behind "torchvision/".
        size: S.
        pretrained: with the weights that its library names first, which it downloads unless it has them.

    Attributes:
        channels, side: C and h.
        source: what the weights are called.

    Raises: InputError where there is no such network, or it has no square maps at this size. What a download raises is
        the library's.
    """

    def __init__(self, name: str, size: int, pretrained: bool = False) -> None:
        super().__init__()
        self.name, self.source = name, f"random weights ({name}, untrained, seed 0)"
        self.prefix = 0  # tokens before those of the patches
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if name.startswith(TORCHVISION):
            self.body = self.from_torchvision(name.removeprefix(TORCHVISION), pretrained)
        else:
            self.body = self.from_timm(name, size, pretrained)
            mean, std = (self.body.pretrained_cfg.get(key) or usual for key, usual in (("mean", mean), ("std", std)))
        # What the pictures were normalised by, and what this network wants.
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)
        self.eval()
        try:
            with torch.inference_mode():
                shape = self(torch.zeros(1, 3, size, size)).shape
        except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
            raise InputError(f"--backbone {name}: takes no pictures of {size} pixels ({first_line(error)})") from error
        if len(shape) != 4 or shape[2] != shape[3] or shape[2] < 2:
            raise InputError(f"--backbone {name}: puts out {tuple(shape[1:])}, and square maps are needed")
        self.channels, self.side = shape[1:3]

    def from_timm(self, name: str, size: int, pretrained: bool) -> nn.Module:
        import timm  # takes seconds

        if not timm.is_model(name):
            alike = timm.list_models(f"*{name}*")[:3]
            words = f"; alike: {', '.join(alike)}" if alike else ""
            raise InputError(f"--backbone {name}: timm has none of that name{words}; see timm.list_models()")
        options = {"pretrained": pretrained, "num_classes": 0}
        try:
            body = timm.create_model(name, **options, img_size=size)
        except TypeError:  # most convolutional networks take pictures of any size, and no such argument
            body = timm.create_model(name, **options)
        self.prefix = getattr(body, "num_prefix_tokens", 0)
        if pretrained:
            self.source = f"timm {name}.{body.pretrained_cfg.get('tag') or 'default'}"
        return body

    def from_torchvision(self, name: str, pretrained: bool) -> nn.Module:
        if name not in list_models(models):
            raise InputError(
                f"--backbone {TORCHVISION}{name}: torchvision has none; see torchvision.models.list_models()"
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
        maps = self.body.forward_features(images) if hasattr(self.body, "forward_features") else self.body(images)
        if isinstance(maps, dict):
            maps = maps["tokens"]
        if maps.dim() == 3:
            return token_maps(maps, self.prefix)
        return maps.permute(0, 3, 1, 2) if getattr(self.body, "output_fmt", "NCHW") == "NHWC" else maps


def token_maps(tokens: Tensor, prefix: int) -> Tensor:
    """A transformer's tokens (B, prefix + h * h, C), of a class and the like first, as maps (B, C, h, h)."""
    side = math.isqrt(int(tokens.shape[1]) - prefix)  # a number also while OpenVINO traces
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, (side, -1))


def load_library_weights(name: str, source: str, size: int) -> BackboneWeights:
    """Weights of the backbone `name`; `source` is "auto" (its library's own), "random", or the path of a state dict.

    Raises:
        WeightsUnavailable: the library could not get them.
        InputError: as `LibraryBackbone`, or the file does not fit.
    """
    if source in ("v1", "v2", "npm"):
        raise InputError(f"--weights {source}: goes with ResNet-50; with --backbone give auto, random or a FILE")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = LibraryBackbone(name, size)
    if source == "auto":
        try:
            backbone = LibraryBackbone(name, size, pretrained=True)
        except Exception as error:  # of many kinds: huggingface_hub's, httpx's, urllib's, timm's
            raise WeightsUnavailable(
                f"no weights for {name} could be had ({first_line(error)}). Connect to the network and run again, or "
                "give a state dict in its library's own naming with --weights FILE (.pth or .safetensors)"
            ) from error
    elif source != "random":
        load_state_file(backbone, Path(source))
    return BackboneWeights(backbone.source, sequential(backbone).state_dict(), backbone=name)


def load_state_file(backbone: LibraryBackbone, path: Path) -> None:
    """Puts a state dict in its library's own naming into a backbone; a classifier in it is left out."""
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


def sequential(backbone: LibraryBackbone) -> nn.Sequential:
    """As the network has its `base_model`."""
    return nn.Sequential(OrderedDict(network=backbone))
