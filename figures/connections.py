"""Which layers stand side by side on a page, and how a channel of one follows from channels of the one before.

A column is linked one to one with the one before it where a channel follows from the one of its number (a kernel makes
its map, a ReLU keeps it; shortcuts are left out), and by a fan where every channel goes into every one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from hooks import find_layer, module_of
from inspection.layer_stats import kernel_tiles, most_active
from runtime.errors import InputError

SHORTCUT = "downsample"
KERNELS = "kernels:"  # before a layer's name: its kernels instead of what it puts out
ONE_CHANNEL = (nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.Identity)


@dataclass(frozen=True)
class Column:
    """One stage: kernels or maps of a layer, of which `channels` are drawn."""

    spec: str
    layer: str  # as recorded
    module: nn.Module
    maps: Tensor  # (C, h, w), what the layer puts out
    channels: tuple[int, ...] = ()

    @property
    def is_kernels(self) -> bool:
        return self.spec.startswith(KERNELS)


@dataclass(frozen=True)
class Connection:
    """How a column follows from the one before: `one_to_one` or a fan, over `skipped` convolutions that are not shown.

    Attributes:
        weights: of a fan without skipped layers, (rows right, rows left): L2 norms of the kernels' slices.
    """

    one_to_one: bool
    skipped: int = 0
    weights: np.ndarray | None = None


def make_columns(model: nn.Module, specs: Sequence[str], acts: Mapping[str, Tensor], rows: int) -> list[Column]:
    """Columns in the order given; those that are linked one to one show the same channels, the last one's most active.

    Args:
        acts: what every leaf layer and every layer of `specs` put out, (C, h, w), in the order of the calls.

    Raises: InputError where the model has no such layer, or one without kernels or maps is asked for those, or the
        columns are not in the order of the network.
    """
    columns = [make_column(model, spec, acts) for spec in specs]
    for left, right in pairwise(columns):
        if not is_before(model, left, right, acts):
            raise InputError(f"layer {right.spec}: does not come after {left.spec}; give layers in the network's order")
    chosen: list[Column] = []
    chain: list[Column] = []
    for column, after in zip(columns, [*columns[1:], None], strict=True):
        chain.append(column)
        if after is None or not is_one_to_one(model, column, after, acts):
            channels = tuple(most_active(chain[-1].maps, rows))
            chosen += [replace(column, channels=channels) for column in chain]
            chain = []
    return chosen


def make_column(model: nn.Module, spec: str, acts: Mapping[str, Tensor]) -> Column:
    name, call = find_layer(model, spec.removeprefix(KERNELS))
    module = model.get_submodule(name)
    calls = [layer for layer in acts if layer.partition("#")[0] == name]
    if len(calls) > 1 and not call:
        raise InputError(f"layer {spec}: called {len(calls)} times in a forward pass; say which: {', '.join(calls)}")
    if spec.startswith(KERNELS) and not isinstance(module, nn.Conv2d):
        raise InputError(f"layer {spec}: {type(module).__name__} has no kernels; give a convolution")
    if SHORTCUT in name:
        raise InputError(f"layer {spec}: lies on a shortcut beside the way that the page draws; leave it out")
    if call > len(calls):
        raise InputError(f"layer {spec}: called only {len(calls)} times in a forward pass")
    layer = calls[max(call, 1) - 1]
    if acts[layer].shape[1:] == (1, 1):
        raise InputError(f"layer {spec}: puts out single values, no maps; give an earlier layer")
    return Column(spec, layer, module, acts[layer])


def leaves_of(model: nn.Module, acts: Mapping[str, Tensor]) -> list[str]:
    """The layers that hold no others, by call, from input to output."""
    return [layer for layer in acts if not any(module_of(model, layer).children())]


def place_of(model: nn.Module, column: Column, acts: Mapping[str, Tensor]) -> int:
    """The position of a column's layer, or of the last one inside it, among the leaves."""
    inside = column.layer + "."
    found = [i for i, leaf in enumerate(leaves_of(model, acts)) if leaf == column.layer or leaf.startswith(inside)]
    return found[-1]


def is_before(model: nn.Module, left: Column, right: Column, acts: Mapping[str, Tensor]) -> bool:
    """Whether two columns can stand side by side; a layer's kernels stand before its map."""
    first, second = place_of(model, left, acts), place_of(model, right, acts)
    if left.layer == right.layer:
        return left.is_kernels and not right.is_kernels
    return first < second or (first == second and not right.is_kernels)


def ran_between(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> list[nn.Module]:
    """The leaf layers that ran after `left` (None: from the start), up to and with `right`; no shortcuts' layers."""
    start = place_of(model, left, acts) + 1 if left else 0
    ran = leaves_of(model, acts)[start : place_of(model, right, acts) + 1]
    return [module_of(model, leaf) for leaf in ran if SHORTCUT not in leaf]


def is_one_to_one(model: nn.Module, left: Column, right: Column, acts: Mapping[str, Tensor]) -> bool:
    return all(isinstance(module, ONE_CHANNEL) for module in ran_between(model, left, right, acts))


def connect(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> Connection:
    """How `right` follows from the column before it, or from the picture (None)."""
    if left and is_one_to_one(model, left, right, acts):
        return Connection(one_to_one=True)
    mixing = [module for module in ran_between(model, left, right, acts) if isinstance(module, nn.Conv2d)]
    if left is None or mixing != [right.module]:
        return Connection(one_to_one=False, skipped=len(mixing) - (right.module in mixing))
    weight = right.module.weight.detach().float().cpu()  # (O, I, kh, kw)
    slices = weight[list(right.channels)][:, list(left.channels)]
    return Connection(one_to_one=False, weights=slices.flatten(2).norm(dim=2).numpy())


def contributions(model: nn.Module, last: Column, acts: Mapping[str, Tensor]) -> np.ndarray | None:
    """What each row of the last column adds to the logits, (K, rows): weight × pooled value; None where not linear."""
    fc = model.get_submodule("fc")
    after = [module_of(model, leaf) for leaf in leaves_of(model, acts)[place_of(model, last, acts) + 1 :]]
    if last.is_kernels or not all(isinstance(module, ONE_CHANNEL) for module in after[:-1]) or after[-1:] != [fc]:
        return None
    channels = list(last.channels)
    pooled = acts["avgpool"][channels, 0, 0]
    return (fc.weight.detach().float().cpu()[:, channels] * pooled).numpy()


def shown_values(column: Column, maps: Tensor) -> Tensor:
    """What a column's tiles show: of its kernels as they are now, or of the maps (C, h, w) given, its channels."""
    return (kernel_tiles(column.module) if column.is_kernels else maps.float())[list(column.channels)]
