"""Benchmark candidates: this repository's way of doing a piece of work, and that of other libraries.

A candidate prepares and returns a step: a function that does some work and returns its number of images. Candidates
whose package is not installed raise ImportError.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from benchmarks import loops
from benchmarks.workload import CPU, FP32, HEAD_BATCH, SIZE, Step, Workload, disable_winograd, pretrained_network
from dataset import EvalTransform, HarDataset, Sample, normalise
from features.engines import Int8Model, TorchEngine, make_engine, to_openvino
from features.pca import project_head
from layers.conv3x3 import accelerate
from model import FEATURE_CHANNELS, ActionNet
from training.loop import initial_state, train_epoch
from training.recipe import IMAGE_SIZE, Recipe

# Backbone: pixels or normalised images to feature maps.


def inference_step(images: Tensor, run: Callable[[Tensor], Any]) -> Step:
    def step() -> int:
        with torch.inference_mode():
            run(images)
        return len(images)

    return step


def ours_fp32(work: Workload) -> Step:
    network = pretrained_network().base_model
    return inference_step(work.images(), make_engine(network, CPU, "fp32", SIZE, count=10**6))


def ours_int8(work: Workload) -> Step:
    return inference_step(work.images(), calibrated_int8(work).load(SIZE))


def calibrated_int8(work: Workload) -> Int8Model:
    """The int8 model in the scratch folder, calibrated as by `train.py`, at its default image size."""
    model = Int8Model(work.scratch / "int8")
    model.calibrate(pretrained_network().base_model, work.samples, IMAGE_SIZE)
    return model


def torchvision_eager(work: Workload) -> Step:
    network = pretrained_network().base_model.to(memory_format=torch.contiguous_format)
    return inference_step(normalise(work.images()), lambda images: [network(part) for part in images.split(32)])


def channels_last(work: Workload) -> Step:
    return inference_step(work.images(), TorchEngine(pretrained_network().base_model, CPU, FP32))


def compiled(work: Workload) -> Step:
    import torch._inductor.config as inductor

    inductor.freezing = True
    network = torch.compile(pretrained_network().base_model)
    images = normalise(work.images()).contiguous(memory_format=torch.channels_last)

    def step() -> int:
        with torch.no_grad():  # inference mode prevents freezing
            return sum(len(network(part)) for part in images.split(32))

    return step


def onnx_runtime(work: Workload) -> Step:
    import onnx  # noqa: F401 (needed by the exporter)
    import onnxruntime

    network, images = pretrained_network().base_model, normalise(work.images())
    file = work.scratch / "backbone.onnx"
    torch.onnx.export(network, (images[:2],), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    session = onnxruntime.InferenceSession(file)
    return inference_step(images, lambda images: [session.run(None, {"x": part.numpy()}) for part in images.split(32)])


def openvino_defaults(work: Workload) -> Step:
    import openvino

    model = openvino.Core().compile_model(to_openvino(pretrained_network().base_model, SIZE), "CPU")
    pixels = work.images().permute(0, 2, 3, 1).contiguous()
    return inference_step(pixels, lambda images: [model(part.numpy()) for part in images.split(32)])


def backbone_as_matrix_product(work: Workload) -> Step:
    return matrix_product(network_operations(pretrained_network().base_model, SIZE))


def network_operations(network: nn.Module, size: int) -> int:
    """Operations of one image of that size, in half of which a product is added."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    return counter.get_total_flops()


def matrix_product(operations: int, device: torch.device = CPU, dtype: torch.dtype = FP32) -> Step:
    """A matrix product; its operations count as images of `operations` each."""
    left, right = (torch.randn(rows, 2048, device=device, dtype=dtype) for rows in (4096, 2048))

    def step() -> float:
        for _ in range(10):
            left @ right
        return 10 * 2 * 4096 * 2048 * 2048 / operations

    return step


# Head: training steps on feature maps.


def head_training(side: int, channels: int = FEATURE_CHANNELS, winograd: bool = True) -> Step:
    if not winograd:
        disable_winograd()
    torch.manual_seed(0)
    recipe = Recipe()
    model = accelerate(ActionNet(15, dropout=recipe.dropout, channel_dropout=recipe.channel_dropout))
    model = model.to(memory_format=torch.channels_last)
    if channels < FEATURE_CHANNELS:
        project_head(model, torch.linalg.qr(torch.randn(FEATURE_CHANNELS, channels)).Q)
    state = initial_state(model, recipe, 1000, HEAD_BATCH, CPU, FP32)
    features = torch.rand(HEAD_BATCH, channels, side, side).contiguous(memory_format=torch.channels_last)
    batches = [(features, torch.arange(HEAD_BATCH) % 15)] * 3

    def step() -> int:
        train_epoch(model.head, batches, state, recipe, CPU, FP32, np.random.default_rng(0))
        return len(batches) * HEAD_BATCH

    return step


def head_candidates(side: int) -> dict[str, Callable[[Workload], Step]]:
    projected = Recipe().channels
    # Operations of direct convolutions with all channels; the input of conv1 needs no gradient.
    conv1, conv2 = 2 * 9 * FEATURE_CHANNELS * 512 * side * side, 2 * 9 * 512 * 256 * side * side
    prepare = {
        "ours": lambda: head_training(side, projected),
        "ours, all channels": lambda: head_training(side),
        "Winograd, default allocator": lambda: head_training(side),
        "PyTorch's convolutions, projected channels": lambda: head_training(side, projected, winograd=False),
        "PyTorch's convolutions": lambda: head_training(side, winograd=False),
        "matrix product of as many operations, all channels": lambda: matrix_product(2 * conv1 + 3 * conv2),
    }
    title = f"head, feature maps of {side}x{side}"
    return {f"{title}: {name}": lambda work, function=function: function() for name, function in prepare.items()}


# Decoding: files to squares of 224 pixels, (3, 224, 224) uint8, on one core.


def decoding_step(files: Sequence[Any], read: Callable[[Any], Any]) -> Step:
    torch.set_num_threads(1)

    def step() -> int:
        for file in files:
            read(file)
        return len(files)

    return step


def decoding_files(work: Workload, large: bool) -> list[Path]:
    """128 images of the dataset, or four of them enlarged to 12 megapixels."""
    if not large:
        return [sample.path for sample in work.samples[:128]]
    files = [work.scratch / f"large_{index}.jpg" for index in range(4)]
    for sample, file in zip(work.samples, files, strict=False):
        if not file.exists():
            Image.open(sample.path).convert("RGB").resize((4000, 3000)).save(file, quality=90)
    return files


def ours_decoding(work: Workload, large: bool) -> Step:
    images = HarDataset([Sample("", file, None) for file in decoding_files(work, large)], [], EvalTransform(SIZE))
    return decoding_step(range(len(images)), images.__getitem__)


def pillow_decoding(work: Workload, large: bool) -> Step:
    transform = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.PILToTensor()])
    return decoding_step(decoding_files(work, large), lambda file: transform(Image.open(file).convert("RGB")))


def torchvision_decoding(work: Workload, large: bool) -> Step:
    from torchvision.io import ImageReadMode, decode_image

    transform = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE)])
    return decoding_step(decoding_files(work, large), lambda file: transform(decode_image(file, ImageReadMode.RGB)))


CANDIDATES: dict[str, Callable[[Workload], Step]] = {  # "group: name"; groups and names are keys of result files
    "backbone: ours, fp32": ours_fp32,
    "backbone: ours, int8": ours_int8,
    "backbone: torchvision, eager": torchvision_eager,
    "backbone: PyTorch, channels last": channels_last,
    "backbone: PyTorch, channels last, freed memory kept": channels_last,
    "backbone: torch.compile, frozen weights": compiled,
    "backbone: ONNX Runtime": onnx_runtime,
    "backbone: OpenVINO, default settings": openvino_defaults,
    "backbone: matrix product of as many operations": backbone_as_matrix_product,
    **head_candidates(5),
    **head_candidates(10),
    "plain training: tutorial loop": lambda work: loops.tutorial_loop(work, True),
    "plain training: ours, --recipe plain": loops.plain_recipe,
    "plain validation: tutorial loop": lambda work: loops.tutorial_loop(work, False),
    "decoding, dataset images: ours": lambda work: ours_decoding(work, False),
    "decoding, dataset images: Pillow and torchvision": lambda work: pillow_decoding(work, False),
    "decoding, dataset images: torchvision alone": lambda work: torchvision_decoding(work, False),
    "decoding, 12 megapixels: ours": lambda work: ours_decoding(work, True),
    "decoding, 12 megapixels: Pillow and torchvision": lambda work: pillow_decoding(work, True),
    "decoding, 12 megapixels: torchvision alone": lambda work: torchvision_decoding(work, True),
}
