"""Forward hooks by layer name, on any `nn.Module`: record what layers output, or dump it as plots.

    with record(model, ["layer1.0.conv1", "fc"]) as acts:
        model(images)
    acts["fc"]                               # (B, 1000), a copy on the CPU

    with dump(model, ["layer1.0.conv1", "layer4"], folder="activations"):
        model(images)                        # writes activation maps, kernels and histograms of images[0]

`inspection.layer_names` says how layers are named (`relu#2` is the second call of `relu`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from inspection.channels import activity, ranking_layers
from inspection.layer_names import find_layer, friendly, leaf_layers, output_maps
from runtime.distributed import is_main
from runtime.errors import InputError
from runtime.options import KernelView


class Recording(dict[str, Tensor]):
    """Outputs by dotted name (`name#k` where a layer was called more than once), in the order of the calls.

    Attributes:
        gradients: the same for gradients of these outputs that `backward` computed, where they were asked for.
        ranking: in `dump`, the mean absolute value of each channel (1, C) of all layers that rank channels (see
            `inspection.channels`).
        step: number of the model's latest forward pass, from 0; -1 before the first.
    """

    gradients: "Recording"
    ranking: "Recording"
    step: int = -1

    def __missing__(self, name: str) -> Tensor:
        for layer in self:
            if friendly(layer) in (friendly(name), friendly(name.removesuffix("#1"))):
                return self[layer]
        there = ", ".join(self) or "none, since the model did not run"
        raise InputError(f"layer {name}: not recorded; recorded layers: {there}")


def to_cpu(output: Tensor) -> Tensor:
    """A copy: the next layer may overwrite the tensor, as ResNet's in-place ReLUs do."""
    return output.detach().to("cpu", copy=True)


@contextmanager
def record(
    model: nn.Module,
    layers: Iterable[str],
    gradients: bool = False,
    keep: Callable[[Tensor], Tensor] = to_cpu,
    every: int = 1,
) -> Iterator[Recording]:
    """Records the layers' outputs; every forward pass of `model` within the block fills the recording anew.

    Afterwards, also after an exception, no hook is left and every module is in the mode (training or evaluation) that
    it was in. Of an output that is a tuple, list or dict, its first tensor is recorded.

    Args:
        layers: dotted or friendly names.
        gradients: also record gradients of the outputs. Behind a frozen layer they exist only where the input itself
            requires one (`images.requires_grad_()`).
        keep: what is kept of an output; for a large dataset something smaller than the copy.
        every: record the forward passes 0, every, 2 * every, …; the others leave the recording as it is.

    Raises: InputError where the model has no such layer, or at the end of the block no such call of it.
    """
    wanted: dict[str, set[int]] = {}
    for name, call in (find_layer(model, name) for name in layers):
        wanted.setdefault(name, set()).add(call)
    acts, calls = Recording(), Counter[str]()
    acts.gradients = Recording()

    def begin(*_: object) -> None:
        acts.step += 1
        if acts.step % every == 0:
            acts.clear()
            acts.gradients = Recording()  # a later `backward` of an earlier pass still fills the earlier one
            calls.clear()

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        stack.callback(remove, handles := [model.register_forward_pre_hook(begin)])
        for name, numbers in wanted.items():
            hook = make_hook(name, numbers, acts, calls, gradients, keep, every)
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield acts
        for name, numbers in wanted.items():
            if calls[name] and max(numbers) > calls[name]:
                raise InputError(f"layer {name}#{max(numbers)}: called only {calls[name]} times in a forward pass")


def remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def make_hook(
    name: str,
    numbers: set[int],
    acts: Recording,
    calls: Counter[str],
    gradients: bool,
    keep: Callable[[Tensor], Tensor],
    every: int,
) -> Callable[[nn.Module, tuple, Any], None]:
    """A forward hook that records the calls `numbers` (0: every one) of the layer `name`."""

    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        if acts.step % every:
            return
        tensor = first_tensor(output)
        if tensor is None:
            raise InputError(f"layer {name}: outputs {type(output).__name__} without a tensor; leave it out")
        calls[name] += 1
        call = calls[name]
        if call == 2:  # now the first call needs its number too
            for part in (acts, acts.gradients):
                renamed = {f"{name}#1" if layer == name else layer: value for layer, value in part.items()}
                part.clear()
                part.update(renamed)
        if not numbers & {0, call}:
            return
        acts[name if call == 1 else f"{name}#{call}"] = keep(tensor)
        if gradients and tensor.requires_grad:
            recorded = acts.gradients

            # The call's final name is known only after the forward pass; `calls` tells it.
            def keep_gradient(gradient: Tensor) -> None:
                recorded[f"{name}#{call}" if calls[name] > 1 else name] = keep(gradient)

            tensor.register_hook(keep_gradient)

    return hook


def first_tensor(output: Any) -> Tensor | None:
    """The tensor of a layer's output, or the first one in a tuple, list or dict."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((value for value in values if isinstance(value, Tensor)), None)


@contextmanager
def dump(
    model: nn.Module,
    layers: Iterable[str] | None = None,
    folder: Path | str = "activations",
    *,
    every: int = 1,
    prefix: str = "pass{}",
    gradients: bool = False,
    channels: Sequence[int] = (),
    tiles: int = 24,
    kernels: KernelView = "strongest",
    classes: Sequence[str] = (),
    detail: str = "",
    format: str = "png",
    dpi: int = 120,
) -> Iterator[Recording]:
    """Plots the layers in every forward pass of `model` within the block, for the first image of the batch.

    Writes into `folder`, each file atomically (in a process group only the main process does), in the `format` png, pdf
    or svg with `dpi` pixels per inch:
        activation_<prefix>_layer_<name>.png, .npy   maps of the most active channels; all maps (C, h, w)
        kernels_<prefix>_layer_<name>.png, .npz      of convolutions: the kernels of the same channels (or .npy)
        histograms_<prefix>.png, .json               of the activations of each layer

    Args:
        layers: dotted or friendly names; None: all without children.
        every: plot the forward passes 0, every, 2 * every, …
        prefix: part of the file names; {} becomes the number of the pass. Without {}, each pass overwrites the last.
        gradients: also record gradients; modes, hooks and outputs are treated as in `record`.
        channels: those to plot where a layer has them, instead of the `tiles` most active ones (`inspection.channels`).
        kernels: slices for the strongest input channels, or one tile each (see `inspection.layer_stats.kernel_tiles`).
        classes: names of the outputs of a linear layer with as many.
        detail: second line of every plot.

    Yields: the recording of the latest plotted pass, batch size 1.
    Raises: InputError as `record`, on a wrong option, or in a pass where no layer has an output to plot.
    """
    names = leaf_layers(model) if layers is None else list(layers)
    check_options(names, every, prefix, tiles, format)
    style = {"channels": channels, "tiles": tiles, "kernels": kernels, "classes": classes, "detail": detail}
    style |= {"format": format, "dpi": dpi}
    with (
        record(model, names, gradients, first_image, every) as acts,
        record(model, ranking_layers(model), keep=first_activity, every=every) as acts.ranking,
        model.register_forward_hook(plotting_hook(acts, Path(folder), prefix, every, style)),
    ):
        yield acts


def plotting_hook(
    acts: Recording, folder: Path, prefix: str, every: int, style: dict[str, Any]
) -> Callable[[nn.Module, tuple, Any], None]:
    def plot(model: nn.Module, *_: object) -> None:
        if acts.step % every == 0 and is_main():
            from figures.dump import write_plots  # matplotlib takes a second, and recording does without

            write_plots(folder, prefix.replace("{}", str(acts.step)), model, acts, acts.ranking, **style)

    return plot


def check_options(names: Sequence[str], every: int, prefix: str, tiles: int, format: str) -> None:
    if not names:
        raise InputError("layers: none to plot; name one, or put a model without child modules into nn.Sequential")
    if every < 1 or tiles < 1:
        raise InputError(f"every={every}, tiles={tiles}: both must be 1 or more")
    if Path(prefix).name != prefix:
        raise InputError(f"prefix={prefix!r}: must be part of a file name; give the folder as folder=")
    if format not in ("png", "pdf", "svg"):
        raise InputError(f"format={format!r}: must be png, pdf or svg")


def first_image(output: Tensor) -> Tensor:
    """A copy of a batch's first output, with the batch dimension; the magnitude of complex values."""
    first = output[:1] if output.dim() else output[None]
    return to_cpu(first.abs() if first.is_complex() else first)


def first_activity(output: Tensor) -> Tensor:
    """Mean absolute value of each channel of a batch's first output, (1, C)."""
    return activity(output_maps(output[0].detach())).cpu()[None] if len(output) else output.cpu()


def layer_shapes(model: nn.Module, images: Tensor, layers: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of the layers' outputs for one image of the batch, in the order of the calls."""
    with torch.inference_mode(), record(model, layers, keep=lambda output: torch.tensor(output.shape[1:])) as shapes:
        model.eval()
        model(images)
    return {layer: tuple(shape.tolist()) for layer, shape in shapes.items()}


def active_images(output: Tensor) -> Tensor:
    """In how many images of a batch (B, C, …) each channel is above zero anywhere, (C,)."""
    return (output > 0).reshape(*output.shape[:2], -1).any(2).sum(0).cpu()


@torch.inference_mode()
def activation_frequency(
    model: nn.Module, batches: Iterable[Tensor], layers: Iterable[str]
) -> tuple[dict[str, Tensor], int]:
    """Counts the images in which each channel of the layers is active, that is above zero anywhere.

    Args:
        batches: images (B, 3, S, S).

    Returns: counts (C,) by layer, and the number of images. A channel with count 0 is dead on these images.
    """
    counts: dict[str, Tensor] = {}
    seen = 0
    with record(model, layers, keep=active_images) as active:
        model.eval()
        for images in batches:
            model(images)
            seen += len(images)
            for layer, count in active.items():
                counts[layer] = counts.get(layer, 0) + count
    return counts, seen
