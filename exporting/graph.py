"""Turns a trained network into ONNX or a torch.export program, and runs either."""

import copy
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dataset import normalise
from layers.conv3x3 import FastConv2d
from model import ActionNet
from runtime.errors import InputError, first_line

OPSET = 18  # of ONNX: the oldest that the exporter writes without converting
NAMES = {"onnx": "model.onnx", "program": "model.pt2", "int8": "model_int8.onnx"}
Run = Callable[[np.ndarray], np.ndarray]  # images to probabilities (B, K)


class Portable(nn.Module):
    """Images to calibrated probabilities (B, K), in layers that every library knows.

    Args:
        preprocessing: take pixels (B, S, S, 3) uint8; else normalised images (B, 3, S, S) float32.
    """

    def __init__(self, model: ActionNet, preprocessing: bool) -> None:
        super().__init__()
        self.model, self.preprocessing = copy.deepcopy(model).cpu().eval().requires_grad_(False), preprocessing
        for layer in self.model.modules():
            if isinstance(layer, FastConv2d):  # chooses its algorithm by the batch
                layer.__class__ = nn.Conv2d

    def forward(self, images: Tensor) -> Tensor:
        x = normalise(images.permute(0, 3, 1, 2)) if self.preprocessing else images
        return self.model.probabilities(self.model(x))

    def input_of(self, images: Tensor) -> np.ndarray:
        """What the network takes of crops (B, 3, S, S) uint8."""
        return (images.permute(0, 2, 3, 1) if self.preprocessing else normalise(images)).contiguous().numpy()

    @torch.inference_mode()
    def reference(self, images: Tensor) -> Tensor:
        """Probabilities (B, K) of crops (B, 3, S, S) uint8 by PyTorch."""
        return self(torch.from_numpy(self.input_of(images)))


def write_graph(network: Portable, images: Tensor, path: Path) -> None:
    """Writes the network as the suffix says, `.onnx` or `.pt2`, for batches of any size.

    Args:
        images: two or more crops (B, 3, S, S) uint8, to trace it with.

    Raises: InputError where a package is missing or the network cannot be converted.
    """
    example = torch.from_numpy(network.input_of(images))
    shapes = {"images": {0: torch.export.Dim("batch")}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about its own future
            if path.suffix == ".pt2":
                converted = torch.export.export(network, (example,), dynamic_shapes=shapes)
            else:
                options = {"input_names": ["images"], "output_names": ["probabilities"], "dynamic_shapes": shapes}
                options |= {"opset_version": OPSET, "verbose": False, "dynamo": True}
                converted = torch.onnx.export(network, (example,), **options)
    except ImportError as error:
        raise InputError(f"ONNX needs a package ({error}): pip install -r requirements-export.txt") from error
    except Exception as error:  # the exporter raises many kinds for networks that it cannot convert
        raise InputError(f"{path.name}: the network cannot be converted ({first_line(error)})") from error
    if path.suffix == ".pt2":
        content = io.BytesIO()
        torch.export.save(converted, content)  # into a file on a full disk, it would end the process
        path.write_bytes(content.getbuffer())
    else:
        converted.save(path, external_data=False)


def open_graph(path: Path) -> Run:
    """A function that runs the network in a file, by ONNX Runtime or PyTorch."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda images: program(torch.from_numpy(images)).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def quantise(source: Path, target: Path, batches: Iterator[np.ndarray]) -> None:
    """Writes an int8 version of an ONNX file: one scale per output channel, activations by their largest values.

    Args:
        batches: images to calibrate with.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": batch}

    prepared = target.with_name("prepared.onnx")
    try:
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        options = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(prepared, target, Reader(), quant_format=QuantFormat.QDQ, **options)
    finally:
        prepared.unlink(missing_ok=True)


def in_batches(images: Sequence, size: int) -> Iterator[Sequence]:
    yield from (images[start : start + size] for start in range(0, len(images), size))
