"""Records what the layers of a network produce in a forward pass, by name.

    with record(model, ["base_model_layer1_block1_conv1", "relu2"]) as acts:
        model(images)
    acts["relu2"]                            # (B, 256, 10, 10), a copy on the CPU

A layer goes by its dotted name (`base_model.layer1.0.conv1`) or by the friendly one, in which blocks count from one
(`base_model_layer1_block1_conv1`). ResNet calls one in-place ReLU three times a block: `base_model.layer1.0.relu#2`, or
`base_model_layer1_block1_relu2`, is the second of them, and the name alone means all three.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from runtime.errors import InputError


def friendly(layer: str) -> str:
    """`base_model.layer1.0.relu#2` → `base_model_layer1_block1_relu2`; fit for a file name."""
    name = re.sub(r"(layer\d+)\.(\d+)", lambda match: f"{match[1]}.block{int(match[2]) + 1}", layer)
    return name.replace(".", "_").replace("#", "")


class Recording(dict[str, Tensor]):
    """Outputs by dotted name (`name#k` where a layer was called more than once), in the order of the calls.

    Attributes:
        gradients: the same for the gradients that `backward` brought to these outputs, where they were asked for.
    """

    gradients: "Recording"

    def __missing__(self, name: str) -> Tensor:
        for layer in self:
            if friendly(layer) in (friendly(name), friendly(name.removesuffix("#1"))):
                return self[layer]
        raise InputError(f"layer {name}: not recorded; there are {', '.join(self) or 'none: the model did not run'}")


def find_layer(model: nn.Module, name: str) -> tuple[str, int]:
    """Returns the dotted name of a layer and which of its calls is meant (0: every one).

    Raises: InputError naming what is alike, where the model has no such layer.
    """
    by_name = {layer: layer for layer, _ in model.named_modules() if layer}
    by_name |= {friendly(layer): layer for layer in by_name}
    base, _, call = name.partition("#")
    if base in by_name and (base == name or (call.isdecimal() and int(call) > 0)):
        return by_name[base], int(call or 0)
    ending = re.fullmatch(r"(.+\D)(\d+)", name)  # relu2, where the model has a relu and no relu2
    if ending and ending[1] in by_name and int(ending[2]) > 0:
        return by_name[ending[1]], int(ending[2])
    alike = get_close_matches(base, by_name, n=3, cutoff=0.5)
    raise InputError(
        f"layer {name}: the model has none of that name" + (f"; alike: {', '.join(alike)}" if alike else "")
    )


def leaf_layers(model: nn.Module) -> list[str]:
    """The dotted names of all layers that hold no others."""
    return [name for name, module in model.named_modules() if name and not any(module.children())]


def to_cpu(output: Tensor) -> Tensor:
    """A copy: the layer after may write over the tensor, as ResNet's ReLUs do."""
    return output.detach().to("cpu", copy=True)


@contextmanager
def record(
    model: nn.Module, layers: Iterable[str], gradients: bool = False, keep: Callable[[Tensor], Tensor] = to_cpu
) -> Iterator[Recording]:
    """Within the block, every forward pass of `model` fills the recording anew.

    Afterwards no hook is left and every module is in the mode (training or evaluation) that it was in, also where the
    block ended in an exception.

    Args:
        gradients: also keep the gradients that reach the outputs. They do so behind a frozen layer only where the
            input itself asks for one (`images.requires_grad_()`).
        keep: what of an output is kept; for a large dataset something smaller than the copy.

    Raises: InputError where the model has no such layer, or at the end of the block no such call of it.
    """
    wanted: dict[str, set[int]] = {}
    for name, call in (find_layer(model, name) for name in layers):
        wanted.setdefault(name, set()).add(call)
    acts, calls = Recording(), Counter[str]()
    acts.gradients = Recording()

    def begin(*_: object) -> None:
        acts.clear()
        acts.gradients.clear()
        calls.clear()

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        stack.callback(remove, handles := [model.register_forward_pre_hook(begin)])
        for name, which in wanted.items():
            hook = make_hook(name, which, acts, calls, gradients, keep)
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield acts
        for name, which in wanted.items():
            if calls[name] and max(which) > calls[name]:
                raise InputError(f"layer {name}#{max(which)}: called only {calls[name]} times in a forward pass")


def remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def make_hook(
    name: str,
    which: set[int],
    acts: Recording,
    calls: Counter[str],
    gradients: bool,
    keep: Callable[[Tensor], Tensor],
) -> Callable[[nn.Module, tuple, Tensor], None]:
    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"layer {name}: puts out {type(output).__name__}, only tensors can be recorded")
        calls[name] += 1
        call = calls[name]
        if call == 2:  # now the first call needs its number too
            for part in (acts, acts.gradients):
                renamed = {f"{name}#1" if layer == name else layer: value for layer, value in part.items()}
                part.clear()
                part.update(renamed)
        if not which & {0, call}:
            return
        layer = name if call == 1 else f"{name}#{call}"
        acts[layer] = keep(output)
        if gradients and output.requires_grad:
            # The call's final name is known only after the forward pass, hence the look at `calls`.
            def keep_gradient(gradient: Tensor) -> None:
                acts.gradients[f"{name}#{call}" if calls[name] > 1 else name] = keep(gradient)

            output.register_hook(keep_gradient)

    return hook


def as_maps(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a batch of one picture brought, as maps (C, h, w).

    Single values (1, C) become 1 × 1. Of a transformer's tokens (1, N, C), those of the patches are the last ones that
    fill a square; they take their places.
    """
    return {name: maps_of(output[0]) for name, output in outputs.items()}


def maps_of(output: Tensor) -> Tensor:
    if output.dim() == 2:
        side = math.isqrt(len(output))
        return output[-side * side :].T.unflatten(1, (side, side))
    return output if output.dim() == 3 else output[:, None, None]


def existing_layers(model: nn.Module, layers: Iterable[str]) -> tuple[str, ...]:
    """The layers that the model has: a script's default ones are ResNet-50's, and other backbones lack some."""
    there = {name for name, _ in model.named_modules()}
    return tuple(layer for layer in layers if re.sub(r"^kernels:|#\d+$", "", layer) in there)


def describe_layer(module: nn.Module) -> str:
    """In a few words what a layer is: `Conv2d 64→256, 1×1`."""
    kind = type(module).__name__
    if isinstance(module, nn.Conv2d):
        size, stride = module.kernel_size, module.stride
        step = f", stride {stride[0]}" if stride != (1, 1) else ""
        return f"Conv2d {module.in_channels}→{module.out_channels}, {size[0]}×{size[1]}{step}"
    if isinstance(module, nn.Linear):
        return f"Linear {module.in_features}→{module.out_features}"
    if isinstance(module, nn.BatchNorm2d):
        return f"BatchNorm2d {module.num_features}"
    return f"{kind}, {len(module)} parts" if isinstance(module, nn.Sequential) else kind


def module_of(model: nn.Module, layer: str) -> nn.Module:
    """The module behind a recorded name."""
    return model.get_submodule(layer.partition("#")[0])


def fires(output: Tensor) -> Tensor:
    """In how many images of a batch, (B, C, …), each channel is above zero anywhere, (C,)."""
    return (output > 0).reshape(*output.shape[:2], -1).any(2).sum(0).cpu()


@torch.inference_mode()
def activation_counts(
    model: nn.Module, batches: Iterable[Tensor], layers: Iterable[str]
) -> tuple[dict[str, Tensor], int]:
    """In how many images each channel of some layers fires, that is, is above zero anywhere.

    Args:
        batches: images (B, 3, S, S).

    Returns: by layer counts (C,), and the number of images. A channel with count 0 is dead on these images.
    """
    counts: dict[str, Tensor] = {}
    seen = 0
    with record(model, layers, keep=fires) as fired:
        model.eval()
        for images in batches:
            model(images)
            seen += len(images)
            for layer, count in fired.items():
                counts[layer] = counts.get(layer, 0) + count
    return counts, seen
