"""Finds layers of any `nn.Module` by name, describes them, and brings their outputs into maps (C, h, w).

A layer has a dotted name (`base_model.layer1.0.conv1`) and a friendly one, in which blocks count from one
(`base_model_layer1_block1_conv1`). ResNet calls one in-place ReLU three times per block: its second call is
`base_model.layer1.0.relu#2` or `base_model_layer1_block1_relu2`; the name alone means all three.
"""

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from torch import Tensor, nn

from runtime.errors import InputError

KERNELS = "kernels:"  # before a layer's name: its kernels instead of its output


def friendly(layer: str) -> str:
    """`base_model.layer1.0.relu#2` to `base_model_layer1_block1_relu2`, which is fit for a file name."""
    name = re.sub(r"(layer\d+)\.(\d+)", lambda match: f"{match[1]}.block{int(match[2]) + 1}", layer)
    return name.replace(".", "_").replace("#", "")


def find_layer(model: nn.Module, name: str) -> tuple[str, int]:
    """Returns the dotted name of a layer and the number of the call that is meant (0: every call).

    Raises: InputError naming similar layers, where the model has none of that name.
    """
    by_name = {layer: layer for layer, _ in model.named_modules() if layer}
    by_name |= {friendly(layer): layer for layer in by_name}
    base, _, call = name.partition("#")
    if base in by_name and (base == name or (call.isdecimal() and int(call) > 0)):
        return by_name[base], int(call or 0)
    ending = re.fullmatch(r"(.+\D)(\d+)", name)  # relu2, where the model has a relu and no relu2
    if ending and ending[1] in by_name and int(ending[2]) > 0:
        return by_name[ending[1]], int(ending[2])
    similar = get_close_matches(base, by_name, n=3, cutoff=0.5)
    hint = f"; similar: {', '.join(similar)}" if similar else ""
    raise InputError(f"layer {name}: the model has no layer of that name{hint}")


def calls_of(model: nn.Module, name: str, acts: Iterable[str]) -> list[str]:
    """Names of the recorded calls that a layer's name means. Raises: InputError as `find_layer`."""
    layer, call = find_layer(model, name)
    calls = [recorded for recorded in acts if recorded.partition("#")[0] == layer]
    return calls[call - 1 : call] if call else calls


def leaf_layers(model: nn.Module) -> list[str]:
    """Dotted names of all layers without children."""
    return [name for name, module in model.named_modules() if name and not any(module.children())]


def existing_layers(model: nn.Module, layers: Iterable[str]) -> tuple[str, ...]:
    """Those of the layers that the model has: a script's default layers are ResNet-50's, others lack some."""
    names = {name for name, _ in model.named_modules()}
    return tuple(layer for layer in layers if re.sub(rf"^{KERNELS}|#\d+$", "", layer) in names)


def module_of(model: nn.Module, layer: str) -> nn.Module:
    """The module behind a recorded name, with or without the number of a call."""
    return model.get_submodule(layer.partition("#")[0])


def describe_layer(module: nn.Module) -> str:
    """A layer in a few words: `Conv2d 64→256, 1×1`."""
    if isinstance(module, nn.Conv2d):
        size, stride = module.kernel_size, module.stride
        step = f", stride {stride[0]}" if stride != (1, 1) else ""
        return f"Conv2d {module.in_channels}→{module.out_channels}, {size[0]}×{size[1]}{step}"
    if isinstance(module, nn.Linear):
        return f"Linear {module.in_features}→{module.out_features}"
    if isinstance(module, nn.BatchNorm2d):
        return f"BatchNorm2d {module.num_features}"
    name = type(module).__name__
    return f"{name}, {len(module)} layers" if isinstance(module, nn.Sequential) else name


def as_maps(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs for a batch of one image as maps (C, h, w), by layer; see `output_maps`."""
    return {name: output_maps(output[0]) for name, output in outputs.items()}


def output_maps(output: Tensor) -> Tensor:
    """One image's output as maps (C, h, w).

    Vectors (C,) become 1 × 1 maps. Of a transformer's tokens (N, C), the patches are the last ones that fill a square,
    in their places; tokens before them (class, registers) are left out. Of volumes (C, D, h, w), the middle slice.
    """
    while output.dim() > 3:
        output = output[:, output.shape[1] // 2]
    if output.dim() == 2:
        side = math.isqrt(len(output))
        return output[-side * side :].T.unflatten(1, (side, side))
    return output if output.dim() == 3 else output.reshape(-1, 1, 1)
