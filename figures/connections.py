"""Chooses the grid's columns and computes the connections between their channels.

Neighbouring columns are connected one to one where each channel depends on the channel of the same number alone (a
kernel and its map, a ReLU; shortcuts are left out), and fully where each channel depends on all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from inspection.channels import PER_CHANNEL, SHORTCUT, most_active
from inspection.layer_names import KERNELS, find_layer, module_of
from inspection.layer_stats import is_rgb, kernel_slices, kernel_tiles, strongest_inputs
from runtime.errors import InputError


@dataclass(frozen=True)
class Column:
    """A column of the grid: `channels` of a layer's kernels or maps.

    Attributes:
        spec: the layer as it was asked for, with "kernels:" before its name for its kernels.
        layer: the layer as it was recorded.
        maps: its output (C, h, w).
        inputs: of kernels that are not on RGB, (O, 1): the strongest input channel of each, whose slice is shown.
    """

    spec: str
    layer: str
    module: nn.Module
    maps: Tensor
    channels: tuple[int, ...] = ()
    inputs: Tensor | None = None

    @property
    def is_kernels(self) -> bool:
        return self.spec.startswith(KERNELS)

    @property
    def labels(self) -> list[str]:
        """A label for each of the channels; "12 ← 345" is kernel 12, its slice for input channel 345."""
        if self.inputs is not None:
            return [f"{channel} ← {self.inputs[channel].item()}" for channel in self.channels]
        return [f"{'kernel' if self.is_kernels else 'channel'} {channel}" for channel in self.channels]


@dataclass(frozen=True)
class Connection:
    """How a column depends on the one before it.

    Attributes:
        one_to_one: each channel depends on the channel of the same number alone; otherwise on all.
        skipped: convolutions between the two columns that are not shown.
        weights: of a full connection without skipped layers, (rows right, rows left): L2 norms of the kernel slices.
    """

    one_to_one: bool
    skipped: int = 0
    weights: np.ndarray | None = None


def make_columns(model: nn.Module, specs: Sequence[str], acts: Mapping[str, Tensor], rows: int) -> list[Column]:
    """Chooses the channels of the columns that `specs` names, in the given order.

    Columns connected one to one show the same channels: the most active of the last one of them (of a convolution,
    of its ReLU; see `inspection.channels`).

    Args:
        acts: outputs (C, h, w) of every leaf layer and every layer of `specs`, in the order of the calls.

    Raises: InputError where the model has no such layer, a layer lacks the kernels or maps asked for, or columns are
        not in the order of the network.
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
            channels = tuple(most_active(model, chain[-1].layer, acts, rows))
            chosen += [replace(column, channels=channels) for column in chain]
            chain = []
    return chosen


def make_column(model: nn.Module, spec: str, acts: Mapping[str, Tensor]) -> Column:
    name, call = find_layer(model, spec.removeprefix(KERNELS))
    module = model.get_submodule(name)
    calls = [layer for layer in acts if layer.partition("#")[0] == name]
    if len(calls) > 1 and not call:
        raise InputError(f"layer {spec}: called {len(calls)} times in a forward pass; give one of {', '.join(calls)}")
    if spec.startswith(KERNELS) and not isinstance(module, nn.Conv2d):
        raise InputError(f"layer {spec}: {type(module).__name__} has no kernels; give a convolution")
    if SHORTCUT in name:
        raise InputError(f"layer {spec}: lies on a shortcut, which the grid does not draw; leave it out")
    if call > len(calls):
        raise InputError(f"layer {spec}: called only {len(calls)} times in a forward pass")
    layer = calls[max(call, 1) - 1]
    if acts[layer].shape[1:] == (1, 1):
        raise InputError(f"layer {spec}: outputs single values, not maps; give an earlier layer")
    inputs = strongest_inputs(module, 1) if spec.startswith(KERNELS) and not is_rgb(module) else None
    return Column(spec, layer, module, acts[layer], inputs=inputs)


def leaves_of(model: nn.Module, acts: Mapping[str, Tensor]) -> list[str]:
    """Calls of layers without children, from input to output."""
    return [layer for layer in acts if not any(module_of(model, layer).children())]


def position_of(model: nn.Module, column: Column, acts: Mapping[str, Tensor]) -> int:
    """Position of a column's layer, or of the last layer inside it, among the leaves."""
    inside = column.layer + "."
    found = [i for i, leaf in enumerate(leaves_of(model, acts)) if leaf == column.layer or leaf.startswith(inside)]
    return found[-1]


def is_before(model: nn.Module, left: Column, right: Column, acts: Mapping[str, Tensor]) -> bool:
    """Whether `left` may stand before `right`; a layer's kernels come before its maps."""
    first, second = position_of(model, left, acts), position_of(model, right, acts)
    if left.layer == right.layer:
        return left.is_kernels and not right.is_kernels
    return first < second or (first == second and not right.is_kernels)


def layers_between(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> list[nn.Module]:
    """Leaf layers after `left` (None: the input), `right` included, without shortcuts."""
    start = position_of(model, left, acts) + 1 if left else 0
    ran = leaves_of(model, acts)[start : position_of(model, right, acts) + 1]
    return [module_of(model, leaf) for leaf in ran if SHORTCUT not in leaf]


def is_one_to_one(model: nn.Module, left: Column, right: Column, acts: Mapping[str, Tensor]) -> bool:
    return all(isinstance(module, PER_CHANNEL) for module in layers_between(model, left, right, acts))


def connect(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> Connection:
    """How `right` depends on the column before it, or on the image (None)."""
    if left and is_one_to_one(model, left, right, acts):
        return Connection(one_to_one=True)
    mixing = [module for module in layers_between(model, left, right, acts) if isinstance(module, nn.Conv2d)]
    if left is None or mixing != [right.module]:
        return Connection(one_to_one=False, skipped=len(mixing) - (right.module in mixing))
    weight = right.module.weight.detach().float().cpu()  # (O, I, kh, kw)
    slices = weight[list(right.channels)][:, list(left.channels)]
    return Connection(one_to_one=False, weights=slices.flatten(2).norm(dim=2).numpy())


def contributions(model: nn.Module, last: Column, acts: Mapping[str, Tensor]) -> np.ndarray | None:
    """Contributions of the last column's channels to the logits, weight × pooled value.

    Returns: (K, rows); None for kernels, and where channels mix between the column and `fc`.
    """
    fc = model.get_submodule("fc")
    after = [module_of(model, leaf) for leaf in leaves_of(model, acts)[position_of(model, last, acts) + 1 :]]
    if last.is_kernels or not all(isinstance(module, PER_CHANNEL) for module in after[:-1]) or after[-1:] != [fc]:
        return None
    channels = list(last.channels)
    pooled = acts["avgpool"][channels, 0, 0]
    return (fc.weight.detach().float().cpu()[:, channels] * pooled).numpy()


def shown_values(column: Column, maps: Tensor) -> Tensor:
    """Values of a column's tiles: of its present kernels, or of the given maps (C, h, w)."""
    if not column.is_kernels:
        values = maps.float()
    elif column.inputs is None:
        values = kernel_tiles(column.module)
    else:
        values = kernel_slices(column.module, column.inputs)[:, 0]
    return values[list(column.channels)]
