"""Chooses the channels of a layer to show: the most active ones; of a convolution, those of the ReLU after it.

A convolution's own outputs say little about which channels the network uses: large negative ones are set to zero next.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from inspection.layer_names import as_maps, leaf_layers, module_of

SHORTCUT = "downsample"
NONLINEAR = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish)
PER_CHANNEL = (
    nn.BatchNorm2d, *NONLINEAR, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.Identity,
)  # fmt: skip


def activity(maps: Tensor) -> Tensor:
    """Mean absolute value of each channel: maps (C, h, w) to (C,)."""
    return maps.float().abs().mean(dim=(1, 2))


def ranked_maps(acts: Mapping[str, Tensor], ranking: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Recorded outputs (1, C, …) as maps (C, h, w), among them those of `ranking` (1, C) as 1 × 1 maps."""
    return as_maps({layer: output for layer, output in {**ranking, **acts}.items() if len(output)})


def most_active(model: nn.Module, layer: str, acts: Mapping[str, Tensor], count: int) -> list[int]:
    """The `count` channels with the highest `activity` of the `ranking_layer`, highest first.

    Args:
        acts: maps (C, h, w) by layer, in the order of the calls; of `ranking_layers` at least.
    """
    return activity(acts[ranking_layer(model, layer, acts)]).argsort(descending=True, stable=True)[:count].tolist()


def ranking_layer(model: nn.Module, layer: str, acts: Mapping[str, Tensor]) -> str:
    """The layer whose `activity` ranks the channels of a layer: itself; of a convolution or batch norm, its ReLU.

    That is the first ReLU, or one of its successors (GELU, …), that follows without another mixing of channels; an
    addition of a shortcut may lie between. Itself where there is none.
    """
    if not isinstance(module_of(model, layer), nn.Conv2d | nn.BatchNorm2d):
        return layer
    names = list(acts)
    for after in names[names.index(layer) + 1 :]:
        module = module_of(model, after)
        if SHORTCUT in after or any(module.children()):
            continue
        if isinstance(module, NONLINEAR) and len(acts[after]) == len(acts[layer]):
            return after
        if not isinstance(module, PER_CHANNEL):
            break
    return layer


def ranking_layers(model: nn.Module) -> list[str]:
    """Layers that `ranking_layer` looks at: those without children that mix channels or keep them apart."""
    kinds = (nn.Conv2d, nn.Linear, *PER_CHANNEL)
    return [layer for layer in leaf_layers(model) if isinstance(module_of(model, layer), kinds)]
