"""Runs the frozen backbone over many pictures as fast as the machine can.

On a CPU that is OpenVINO, which needs no compiler and two seconds to start; for a few pictures, or where it is not
installed, and on every other device it is PyTorch. With 8-bit integers, calibrated once on training pictures, a CPU
that has instructions for them is three times as fast again.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from dataset import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, HarDataset, Sample, normalise
from runtime import distributed
from runtime.device import DTYPES, autocast, cpu_has, pick_precision, release_freed_memory
from runtime.errors import InputError, first_line
from runtime.files import write_folder

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Backbone = Callable[[Tensor], Tensor]  # images (B, 3, S, S) uint8 to maps (B, C, h, w), channels last
OPENVINO_REPAYS = 200  # pictures from which its start is won back
INT8_REPAYS = 2000  # and those of calibration
CALIBRATION = 128  # pictures
INT8_FORMAT = 2  # to be raised when calibration would give another model
CHUNK = 4  # pictures for each of OpenVINO's streams at a time


def frozen_id(weights_sha256: str, unfreeze: str) -> str:
    """What tells one frozen part from another."""
    return weights_sha256 if unfreeze == "none" else f"{weights_sha256} up to {unfreeze}"


def pick_engine_precision(device: torch.device, name: Precision, count: int) -> str:
    """Returns "fp32", "bf16", "fp16" or "int8" for `count` pictures in all.

    "auto" is int8 on a CPU with instructions for it, from some number of pictures on, else what `pick_precision` says.

    Raises: InputError where int8 is asked for and cannot be had.
    """
    if name == "int8":
        if find_spec("openvino") is None or device.type != "cpu":
            need = "--device cpu" if device.type != "cpu" else "the package openvino, which is not installed"
            raise InputError(f"--precision int8 needs {need}; or give another precision")
        return name
    possible = device.type == "cpu" and find_spec("openvino") and find_spec("nncf")
    if name == "auto" and possible and count >= INT8_REPAYS and cpu_has("avx512_vnni", "avx_vnni", "amx_int8"):
        return "int8"
    dtype = pick_precision(device, name)
    return next(key for key, value in DTYPES.items() if value == dtype)


def make_engine(
    network: nn.Module, device: torch.device, precision: str, size: int, count: int, compiled: bool = False
) -> Backbone:
    """Chooses for `count` pictures of `size` pixels; int8 is `Int8Model`'s.

    Args:
        compiled: PyTorch's compiler, with which a GPU may be faster; it takes about half a minute.

    Raises: InputError where it does not work here.
    """
    dtype = DTYPES[precision]
    if compiled:
        return compiled_engine(network, device, dtype, size)
    if device.type == "cpu" and count >= OPENVINO_REPAYS and dtype != torch.float16 and find_spec("openvino"):
        try:
            return OpenVINOEngine(to_openvino(network, size), dtype)
        except Exception as error:  # of many kinds, from networks that it does not know to convert
            print(f"note: PyTorch runs the backbone, since OpenVINO does not convert it ({first_line(error)})")
    return TorchEngine(network, device, dtype)


class TorchEngine:
    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.network, self.device, self.dtype = network, device, dtype
        self.most = 32 if device.type == "cpu" else 1 << 30  # pictures at once: a CPU is no faster with more

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.dtype):
            return torch.cat([self.network(normalise(part)) for part in images.split(self.most)])


def compiled_engine(network: nn.Module, device: torch.device, dtype: torch.dtype, size: int) -> TorchEngine:
    fast = TorchEngine(torch.compile(network, dynamic=True), device, dtype)
    try:
        fast(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    except Exception as error:  # the compiler's, of many kinds
        raise InputError(f"--compile does not work here ({first_line(error)}); leave it out") from error
    return fast


def split_on_oom(backbone: Backbone, images: Tensor) -> Tensor:
    """The maps of a batch, in parts where the GPU's memory does not hold it as a whole."""
    try:
        return backbone(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    middle = len(images) // 2  # outside of the handler, which would hold on to the memory
    return torch.cat([split_on_oom(backbone, images[:middle]), split_on_oom(backbone, images[middle:])])


class OpenVINOEngine:
    """Several small parts of a batch at once, each on its own core: faster than all cores on one."""

    def __init__(self, model: "openvino.Model", dtype: torch.dtype = torch.float32) -> None:  # noqa: F821
        import openvino

        self.compiled = openvino.Core().compile_model(model, "CPU", {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
        })  # fmt: skip
        self.queue = openvino.AsyncInferQueue(self.compiled)
        self.map_shape = [size.get_length() for size in list(self.compiled.output(0).partial_shape)[1:]]  # h, w, C

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        maps = np.empty((len(images), *self.map_shape), np.float32)

        def keep(request: "openvino.InferRequest", start: int) -> None:  # noqa: F821
            maps[start : start + CHUNK] = request.get_output_tensor(0).data

        self.queue.set_callback(keep)
        for start in range(0, len(images), CHUNK):
            self.queue.start_async({0: pixels[start : start + CHUNK]}, start)
        self.queue.wait_all()
        return torch.from_numpy(maps).permute(0, 3, 1, 2)


def to_openvino(network: nn.Module, size: int) -> "openvino.Model":  # noqa: F821
    """The network as a model from pixels (B, S, S, 3) uint8 to maps (B, h, w, C), normalisation included.

    By the front end itself: `openvino.convert_model` reports every call to its makers.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from openvino.preprocess import PrePostProcessor

    with warnings.catch_warnings(action="ignore"):  # of a tracer that OpenVINO still needs
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
    """The backbone in 8-bit integers, in a folder of the cache.

    All runs on a dataset share it, so that they share their feature maps too: it is calibrated on training pictures of
    the first one.

    Args:
        folder: the cache folder.
        network: digest of the weights, and where the frozen part ends (`frozen_id`).
        dataset: the dataset's name.
        size: side of the square pictures in pixels.
    """

    def __init__(self, folder: Path, network: str, dataset: str, size: int) -> None:
        key = hashlib.sha256(f"{INT8_FORMAT} {network} {dataset} {size}".encode()).hexdigest()
        self.folder, self.size = folder / f"int8-{key[:16]}", size
        self.file = self.folder / "model.xml"

    def exists(self) -> bool:
        return self.file.exists()

    @property
    def name(self) -> str:
        """What maps of this model are called by; another calibration gives others."""
        files = self.file.read_bytes() + self.file.with_suffix(".bin").read_bytes()
        return f"int8 {hashlib.sha256(files).hexdigest()}"

    def load(self, size: int) -> OpenVINOEngine:
        """The model for pictures of that size, which need not be the one of calibration."""
        import openvino

        model = openvino.Core().read_model(self.file)
        model.reshape([-1, size, size, 3])
        return OpenVINOEngine(model)

    def calibrate(self, network: nn.Module, samples: Sequence[Sample]) -> None:
        """Makes the model unless it is there: weights by channel, activations by what some of the samples excite.

        Raises: InputError without samples, or without the package that does it.
        """
        if not samples or find_spec("nncf") is None:
            need = "training pictures of the run (--data)" if not samples else "the package nncf"
            raise InputError(f"--precision int8 needs {need} to be calibrated; or give another precision")
        some = samples[:: max(1, len(samples) // CALIBRATION)][:CALIBRATION]
        pictures = HarDataset(some, [], EvalTransform(self.size))
        pixels = torch.stack([pictures[index][0] for index in range(len(some))]).permute(0, 2, 3, 1).contiguous()
        os.environ["NNCF_CI"] = "1"  # else it reports its use to its makers
        import nncf
        import openvino

        with FileLock(self.folder.with_suffix(".lock")):
            if self.exists():
                return
            parts = [part.numpy() for part in pixels.split(CHUNK)]
            model = nncf.quantize(
                to_openvino(network, self.size),
                nncf.Dataset(parts),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(parts),
            )
            with write_folder(self.folder) as folder:
                openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def engine_factory(
    network: nn.Module,
    device: torch.device,
    precision: str,
    int8: Int8Model,
    samples: Callable[[], Sequence[Sample]],
    compiled: bool = False,
) -> tuple[Callable[[int, int], Backbone], str]:
    """Returns what makes the backbone for so many pictures of a size, and the name of what it computes in.

    Args:
        int8: the model for that precision, calibrated on `samples()` unless it is there.
    """
    if precision != "int8":
        return lambda count, size: make_engine(network, device, precision, size, count, compiled), precision
    with distributed.main_process_first():
        if not int8.exists():
            int8.calibrate(network, samples())
            release_freed_memory()
    return lambda count, size: int8.load(size), int8.name
