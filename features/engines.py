"""Engines that run the frozen backbone over many images: PyTorch, OpenVINO, and OpenVINO with int8 weights.

On a CPU OpenVINO is the fastest and needs no compiler, but two seconds to start; for few images, on every other device
and where it is not installed, PyTorch runs the backbone, on a GPU with each batch norm and ReLU fused into its
convolution. An int8 model, calibrated once on training images, is three times as fast again on CPUs with instructions
for it.
"""

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from dataset import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, HarDataset, Sample, normalise
from layers.fused import fuse_resnet
from runtime import distributed
from runtime.device import DTYPES, autocast, cpu_has, pick_dtype, release_freed_memory
from runtime.errors import InputError, first_line
from runtime.files import write_folder
from runtime.options import PrecisionName
from runtime.status import Progress

if TYPE_CHECKING:
    import openvino

Engine = Callable[[Tensor], Tensor]  # images (B, 3, S, S) uint8 to feature maps (B, C, h, w), channels last
OPENVINO_MIN_IMAGES = 200  # fewer do not repay its start
INT8_MIN_IMAGES = 2000  # fewer do not repay calibration
CALIBRATION_IMAGES = 128
CHUNK = 4  # images per OpenVINO request


@dataclass(frozen=True)
class Precision:
    """Arithmetic of the frozen backbone ("fp32", "bf16", "fp16" or "int8") and autocast dtype of what is trained."""

    backbone: str
    head: torch.dtype


def choose_precision(device: torch.device, name: PrecisionName, images: int = 0) -> Precision:
    """Decides the arithmetic from the option --precision.

    "auto" takes int8 for the backbone on a CPU with instructions for it, for at least 2,000 images, else what
    `pick_dtype` returns.

    Args:
        images: how many pass through the backbone in all, views included; 0 where int8 is not an option.

    Raises: InputError where int8 is asked for and not available.
    """
    if name == "int8":
        if find_spec("openvino") is None or device.type != "cpu":
            need = "--device cpu" if device.type != "cpu" else "the package openvino, which is not installed"
            raise InputError(f"--precision int8 needs {need}; or give another precision")
        return Precision("int8", pick_dtype(device))
    possible = device.type == "cpu" and find_spec("openvino") and find_spec("nncf")
    if name == "auto" and possible and images >= INT8_MIN_IMAGES and cpu_has("avx512_vnni", "avx_vnni", "amx_int8"):
        return Precision("int8", pick_dtype(device))
    dtype = pick_dtype(device, name)
    return Precision(next(key for key, value in DTYPES.items() if value == dtype), dtype)


def make_engine(network: nn.Module, device: torch.device, precision: str, size: int, count: int) -> Engine:
    """Chooses the floating-point engine for `count` images of `size` pixels; int8 is `Int8Model`'s."""
    dtype = DTYPES[precision]
    if device.type == "cpu" and count >= OPENVINO_MIN_IMAGES and dtype != torch.float16 and find_spec("openvino"):
        try:
            return OpenVINOEngine(to_openvino(network, size), dtype)
        except Exception as error:  # OpenVINO raises many kinds for networks that it cannot convert
            print(f"note: OpenVINO cannot convert the backbone ({first_line(error)}); PyTorch runs it")
    return TorchEngine(network, device, dtype)


class TorchEngine:
    """Runs the backbone with PyTorch, channels last: a ResNet on a GPU fused, everything else under autocast."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.network, self.device, self.dtype = network, device, dtype
        self.fused = None
        if device.type == "cuda" and dtype != torch.float32:
            self.fused = fuse_resnet(network, dtype)  # 10,100 instead of 6,200 images/s on an H100 (docs/speed.md)
        self.max_batch = 32 if device.type == "cpu" else 1 << 30  # a CPU is no faster with more

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        if self.fused is not None:
            return self.fused(normalise(images).to(self.dtype))
        with autocast(self.device, self.dtype):
            return torch.cat([self.network(normalise(part)) for part in images.split(self.max_batch)])


def split_on_oom(engine: Engine, images: Tensor) -> Tensor:
    """Feature maps of a batch; halves the batch where GPU memory does not hold it."""
    try:
        return engine(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    middle = len(images) // 2  # outside of the handler, whose traceback keeps the memory
    return torch.cat([split_on_oom(engine, images[:middle]), split_on_oom(engine, images[middle:])])


class OpenVINOEngine:
    """Runs small chunks of a batch concurrently, one per core, which is faster than all cores on one chunk."""

    def __init__(self, model: "openvino.Model", dtype: torch.dtype = torch.float32) -> None:
        import openvino

        self.compiled = openvino.Core().compile_model(model, "CPU", {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
        })  # fmt: skip
        self.queue = openvino.AsyncInferQueue(self.compiled)
        self.feature_shape = [size.get_length() for size in list(self.compiled.output(0).partial_shape)[1:]]  # h, w, C

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        features = np.empty((len(images), *self.feature_shape), np.float32)

        def keep(request: "openvino.InferRequest", start: int) -> None:
            features[start : start + CHUNK] = request.get_output_tensor(0).data

        self.queue.set_callback(keep)
        for start in range(0, len(images), CHUNK):
            self.queue.start_async({0: pixels[start : start + CHUNK]}, start)
        self.queue.wait_all()
        return torch.from_numpy(features).permute(0, 3, 1, 2)


def to_openvino(network: nn.Module, size: int) -> "openvino.Model":
    """Converts the network: pixels (B, S, S, 3) uint8 to feature maps (B, h, w, C), normalisation included.

    Uses the front end directly, since `openvino.convert_model` sends telemetry.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from openvino.preprocess import PrePostProcessor

    with warnings.catch_warnings(action="ignore"):  # about the deprecated tracer that OpenVINO still needs
        decoder = TorchScriptPythonDecoder(network, example_input=torch.zeros(1, 3, size, size))
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    model.reshape([-1, 3, size, size])
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(std)
    for end in (steps.input(), steps.output()):
        end.model().set_layout(openvino.Layout("NCHW"))
    steps.output().tensor().set_layout(openvino.Layout("NHWC"))
    return steps.build()


class Int8Model:
    """The backbone with int8 weights and activations, in a folder of the cache.

    All runs on a dataset share it, and so their feature maps; it is calibrated on training images of the first run.

    Args:
        folder: see `FeatureSpec.int8_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "model.xml"

    def exists(self) -> bool:
        """Whether the model is there and undamaged; older versions stored no digest to tell."""
        stored, digest = self.file.with_suffix(".sha256"), digest_of_model(self.file).encode()
        return bool(digest) and (not stored.exists() or stored.read_bytes() == digest)

    @property
    def name(self) -> str:
        """Identifies the calibrated model in keys of the feature cache and in checkpoints."""
        return f"int8 {digest_of_model(self.file)}"

    def load(self, size: int) -> OpenVINOEngine:
        """The engine for images of `size` pixels, which may differ from those of calibration."""
        import openvino

        model = openvino.Core().read_model(self.file)
        model.reshape([-1, size, size, 3])
        return OpenVINOEngine(model)

    def calibrate(self, network: nn.Module, samples: Sequence[Sample], size: int) -> None:
        """Makes the model unless it exists: one weight scale per channel, activation ranges from some of the samples.

        Raises: InputError without samples, or without the package nncf.
        """
        if not samples or find_spec("nncf") is None:
            need = "training images of the run (--data)" if not samples else "the package nncf"
            raise InputError(f"--precision int8 needs {need} for calibration; or give another precision")
        some = samples[:: max(1, len(samples) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]
        images = HarDataset(some, [], EvalTransform(size))
        pixels = torch.stack([images[index][0] for index in range(len(some))]).permute(0, 2, 3, 1).contiguous()
        os.environ["NNCF_CI"] = "1"  # else nncf sends telemetry
        import nncf
        import openvino

        with FileLock(self.folder.with_suffix(".lock")):
            if self.exists():
                return
            parts = [part.numpy() for part in pixels.split(CHUNK)]
            converted = to_openvino(network, size)
            nncf.set_log_level(logging.WARNING)
            # nncf draws bars of its own on stdout
            with redirect_stdout(io.StringIO()), Progress("int8 calibration", len(some)) as progress:

                def count(part: np.ndarray) -> np.ndarray:
                    progress.update(len(part))
                    return part

                model = nncf.quantize(
                    converted,
                    nncf.Dataset(parts, count),
                    preset=nncf.QuantizationPreset.MIXED,
                    subset_size=len(parts),
                )
            with write_folder(self.folder) as folder:
                file = folder / self.file.name
                openvino.save_model(model, file, compress_to_fp16=False)
                file.with_suffix(".sha256").write_text(digest_of_model(file))


def digest_of_model(file: Path) -> str:
    """SHA-256 of an OpenVINO model's two files; "" where one is missing."""
    parts = (file, file.with_suffix(".bin"))
    if not all(part.exists() for part in parts):
        return ""
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def find_int8(cache: Path, name: str) -> Int8Model | None:
    """Returns the int8 model of that name in the cache folder, or None (also for the name of another arithmetic)."""
    if not name.startswith("int8 "):
        return None
    models = (Int8Model(folder) for folder in sorted(cache.glob("int8-*/")))
    return next((model for model in models if model.exists() and model.name == name), None)


def engine_factory(
    network: nn.Module,
    device: torch.device,
    precision: str,
    int8: Int8Model,
    samples: Callable[[], Sequence[Sample]],
    size: int,
) -> tuple[Callable[[int, int], Engine], str]:
    """Returns a function from (number of images, their size) to an engine, and the name of its arithmetic.

    Args:
        int8: the model for that precision, calibrated on `samples()` at `size` pixels unless it exists.
    """
    if precision != "int8":
        # Other numbers than those of a CPU, or of an older version on a GPU.
        on_gpu = ", nvJPEG, fused" if device.type == "cuda" else ""
        return lambda count, size: make_engine(network, device, precision, size, count), f"{precision}{on_gpu}"
    with distributed.main_process_first():
        if not int8.exists():
            int8.calibrate(network, samples(), size)
            release_freed_memory()
    return lambda count, size: int8.load(size), int8.name
