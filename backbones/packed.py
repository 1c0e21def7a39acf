"""Packs a network into a quarter of its size: large kernels as int8 with one scale per output channel.

Everything else stays in float32, kernels of fewer than 40,000 values too: they are 2 % of the file, and half of the
rounding error. Weights alone are rounded, to the nearest of 255 levels that are symmetric around zero
(Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342, section 3.1.3); `read_packed` returns float32 again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from runtime.errors import InputError, first_line
from runtime.files import write_atomically

PRETRAINED = Path(__file__).parent.parent / "pretrained" / "har-resnet50.safetensors"
SCALE = ".scale"
LEVELS = 127  # on each side of zero
SMALL = 40_000  # values of a kernel


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose large kernels (O, I, h, w) are int8, with `<name>.scale` (O,) beside each."""
    packed = {}
    for key, value in state.items():
        if value.dim() == 4 and value.numel() >= SMALL:
            scale = value.abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
            packed[key + SCALE] = scale
            value = (value / scale[:, None, None, None]).round().to(torch.int8)
        packed[key] = value.contiguous()
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that `pack` took, with rounded kernels."""
    state = {}
    for key, value in packed.items():
        if value.dtype == torch.int8:
            value = value * packed[key + SCALE][:, None, None, None]
        if not key.endswith(SCALE):
            state[key] = value
    return state


def digest(packed: dict[str, Tensor], about: str) -> str:
    """SHA-256 of all tensors and of what stands beside them."""
    total = hashlib.sha256(about.encode())
    for key in sorted(packed):
        total.update(f"{key} {packed[key].dtype} {tuple(packed[key].shape)}".encode())
        total.update(packed[key].numpy().reshape(-1).data)
    return total.hexdigest()


def write_packed(path: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes a state dict and JSON values about it."""
    packed, text = pack(state), json.dumps(about)
    metadata = {"about": text, "sha256": digest(packed, text)}
    write_atomically(path, lambda partial: safetensors.torch.save_file(packed, partial, metadata))


def read_packed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the state dict in float32 and the values about it. Raises: InputError where the file is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
            packed = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        good = digest(packed, metadata["about"]) == metadata["sha256"]
    except (OSError, safetensors.SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a packed network ({first_line(error)}); restore it with git") from error
    if not good:
        raise InputError(f"{path}: damaged (its SHA-256 differs); restore it with: git checkout -- {path}")
    return unpack(packed), json.loads(metadata["about"])
