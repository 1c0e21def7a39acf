"""Reads state dicts of ResNet-50 from files of others."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from backbones.resnet import ResNet50
from runtime.errors import InputError, first_line


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a `.safetensors` or `.pth` file. Raises: InputError where it cannot be read."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file (or use auto, v1, v2, npm, pretrained, random)")
    metadata = {}
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
            state = {key.removeprefix("module."): value for key, value in state.items()}
    except Exception as error:  # torch, pickle, zip and safetensors each raise their own
        raise InputError(f"{path}: not a readable state dict ({first_line(error)})") from error
    return state, metadata


def pick_tensors(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Returns the ResNet-50 tensors of `state` in float32. Raises: InputError naming the first wrong one."""
    with torch.device("meta"):
        expected = ResNet50().state_dict()
    for key, tensor in expected.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        if key not in state:
            raise InputError(f"{path}: {key} is missing; a state dict of torchvision's resnet50 is needed")
        if state[key].shape != tensor.shape:
            raise InputError(f"{path}: {key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}")
    return {
        key: state[key].float() if state[key].is_floating_point() else state[key] for key in expected if key in state
    }
