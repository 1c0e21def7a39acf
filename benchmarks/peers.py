"""What `benchmark.py` measures: our way and others' of doing the same work.

A contender is a function that prepares and returns another, which does a piece of the work and returns how many
pictures that were. Whatever needs a package that is not installed raises ImportError.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from backbones.imagenet_weights import load_weights
from dataset import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, HarDataset, Sample, load_image, normalise
from features.engines import Int8Model, TorchEngine, make_engine, to_openvino
from model import MAP_CHANNELS, ActionNet, MapConv2d, build_model
from training.feeds import ImageSource
from training.loop import start, to_device, train_epoch
from training.recipe import IMAGE_SIZE, PLAIN, Recipe

SIZE, BATCH, HEAD_BATCH = 224, 64, 128
CPU, FP32 = torch.device("cpu"), torch.float32
Piece = Callable[[], int]


@dataclass(frozen=True)
class Work:
    """The pictures that contenders work on, with labels; folder of calibrated models; a scratch folder."""

    samples: list[Sample]
    classes: list[str]
    cache: Path
    scratch: Path
    dataset: str

    def images(self) -> Tensor:
        """(64, 3, 224, 224) uint8."""
        pictures = HarDataset(self.samples[:BATCH], [], EvalTransform(SIZE))
        return torch.stack([pictures[index][0] for index in range(len(pictures))])


def network(classes: int = 15) -> ActionNet:
    return build_model(load_weights(), classes).eval()


def times(images: Tensor, run: Callable[[Tensor], Any]) -> Piece:
    """A piece that runs `run` over the images and counts them."""

    def piece() -> int:
        with torch.inference_mode():
            run(images)
        return len(images)

    return piece


# The backbone: pixels or normalised pictures to maps.


def ours_fp32(work: Work) -> Piece:
    return times(work.images(), make_engine(network().base_model, CPU, "fp32", SIZE, count=10**6))


def ours_int8(work: Work) -> Piece:
    weights = load_weights()
    model = Int8Model(work.cache, weights.sha256, work.dataset, IMAGE_SIZE)  # as train.py has it, for pictures of any
    model.calibrate(network().base_model, work.samples)
    return times(work.images(), model.load(SIZE))


def torchvision_eager(work: Work) -> Piece:
    net = network().base_model.to(memory_format=torch.contiguous_format)
    return times(normalise(work.images()), lambda images: [net(part) for part in images.split(32)])


def channels_last(work: Work) -> Piece:
    return times(work.images(), TorchEngine(network().base_model, CPU, FP32))


def compiled(work: Work) -> Piece:
    import torch._inductor.config as inductor

    inductor.freezing = True
    net = torch.compile(network().base_model)
    images = normalise(work.images()).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        net(images[:32])

    def piece() -> int:
        with torch.no_grad():  # inference mode keeps it from freezing
            return sum(len(net(part)) for part in images.split(32))

    return piece


def onnx_runtime(work: Work) -> Piece:
    import onnx  # noqa: F401 (the exporter's)
    import onnxruntime

    net, images = network().base_model, normalise(work.images())
    file = work.scratch / "backbone.onnx"
    torch.onnx.export(net, (images[:2],), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    session = onnxruntime.InferenceSession(file)
    return times(images, lambda images: [session.run(None, {"x": part.numpy()}) for part in images.split(32)])


def openvino_defaults(work: Work) -> Piece:
    import openvino

    model = openvino.Core().compile_model(to_openvino(network().base_model, SIZE), "CPU")
    pixels = work.images().permute(0, 2, 3, 1).contiguous()
    return times(pixels, lambda images: [model(part.numpy()) for part in images.split(32)])


def backbone_at_peak(work: Work) -> Piece:
    with FlopCounterMode(display=False) as counter:
        network().base_model(torch.zeros(1, 3, SIZE, SIZE))
    return matrix_product(counter.get_total_flops())


def matrix_product(operations: int) -> Piece:
    """A matrix product, counted as the pictures that would take as many operations each."""
    one, two = torch.randn(4096, 2048), torch.randn(2048, 2048)

    def piece() -> int:
        for _ in range(10):
            one @ two
        return 10 * 2 * 4096 * 2048 * 2048 / operations

    return piece


# The head: steps of training on maps.


def head_steps(side: int, channels: int = MAP_CHANNELS) -> Piece:
    torch.manual_seed(0)
    recipe = Recipe()
    model = ActionNet(15, dropout=recipe.dropout, channel_dropout=recipe.channel_dropout)
    model = model.to(memory_format=torch.channels_last)
    if channels < MAP_CHANNELS:
        model.narrow(torch.linalg.qr(torch.randn(MAP_CHANNELS, channels)).Q)
    state = start(model, recipe, 1000, HEAD_BATCH, CPU, FP32)
    maps = torch.rand(HEAD_BATCH, channels, side, side).contiguous(memory_format=torch.channels_last)
    batches = [(maps, torch.arange(HEAD_BATCH) % 15)] * 3

    def piece() -> int:
        train_epoch(model.head, batches, state, recipe, CPU, FP32, np.random.default_rng(0))
        return len(batches) * HEAD_BATCH

    return piece


def plain_head_steps(side: int, channels: int = MAP_CHANNELS) -> Piece:
    MapConv2d.LEAST = 10**9  # every convolution goes PyTorch's way
    return head_steps(side, channels)


def head_at_peak(side: int) -> Piece:
    """As many operations as direct convolutions of all channels need, both ways; the maps need no gradient."""
    conv1, conv2 = 2 * 9 * MAP_CHANNELS * 512 * side * side, 2 * 9 * 512 * 256 * side * side
    return matrix_product(2 * conv1 + 3 * conv2)


def head_contenders(side: int) -> dict[str, Callable[[Work], Piece]]:
    few = Recipe().channels
    pieces = {
        "ours": lambda: head_steps(side, few),
        "ours, all channels": lambda: head_steps(side),
        "Winograd, PyTorch's memory": lambda: head_steps(side),
        "PyTorch's convolutions, few channels": lambda: plain_head_steps(side, few),
        "PyTorch's convolutions": lambda: plain_head_steps(side),
        "matrix product, as all channels need": lambda: head_at_peak(side),
    }
    return {f"head, maps of {side}x{side}: {name}": lambda work, piece=piece: piece() for name, piece in pieces.items()}


# The textbook recipe: pictures through backbone and head in every epoch.


def tutorial(work: Work, training: bool) -> Piece:
    """As tutorials write it: torchvision's transforms, float32, batches of 32, Adam; nothing of ours."""
    MapConv2d.LEAST = 10**9
    net = network(len(work.classes)).to(memory_format=torch.contiguous_format).train(training)
    optimizer = torch.optim.Adam(net.trained_parameters()[0], lr=1e-3)
    crops = (
        [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()] if training else [v2.Resize(256), v2.CenterCrop(SIZE)]
    )
    transform = v2.Compose([*crops, v2.ToImage(), v2.ToDtype(FP32, True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    class Photographs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(work.samples)

        def __getitem__(self, item: int) -> tuple[Tensor, int]:
            image = Image.open(work.samples[item].path).convert("RGB")
            return transform(image), work.classes.index(work.samples[item].label)

    batches = (batch for _ in cycle([0]) for batch in DataLoader(Photographs(), 32, shuffle=True, drop_last=True))

    def piece() -> int:
        images, targets = next(batches)
        with torch.set_grad_enabled(training):
            loss = nn.functional.cross_entropy(net(images), targets)
        if training:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return len(images)

    return piece


def plain_recipe(work: Work) -> Piece:
    """`train.py --recipe plain`."""
    net = network(len(work.classes)).train()
    state = start(net, PLAIN, 20, len(work.samples), CPU, FP32)
    feed = ImageSource(net, work.samples, [], work.classes, SIZE, PLAIN.batch_size, workers=0, seed=0)
    batches = (batch for epoch in range(1000) for batch in feed.train(epoch))

    def piece() -> int:
        batch = next(batches)
        train_epoch(net, to_device([batch], CPU), state, PLAIN, CPU, FP32, np.random.default_rng(0))
        return len(batch[0])

    return piece


# Files to squares of 224 pixels, (3, 224, 224) uint8, on one core.


def decoding(files: Sequence[Path], read: Callable[[Path], Any]) -> Piece:
    torch.set_num_threads(1)

    def piece() -> int:
        for file in files:
            read(file)
        return len(files)

    return piece


def files_of(work: Work, large: bool) -> list[Path]:
    """128 pictures of the dataset, or four of 12 megapixels, drawn from it."""
    if not large:
        return [sample.path for sample in work.samples[:128]]
    files = [work.scratch / f"large_{index}.jpg" for index in range(4)]
    for sample, file in zip(work.samples, files, strict=False):
        if not file.exists():
            load_image(sample.path).resize((4000, 3000)).save(file, quality=90)
    return files


def ours_decoding(work: Work, large: bool) -> Piece:
    transform = EvalTransform(SIZE)
    return decoding(files_of(work, large), lambda file: transform(load_image(file, transform.least)))


def pillow_decoding(work: Work, large: bool) -> Piece:
    transform = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.PILToTensor()])
    return decoding(files_of(work, large), lambda file: transform(Image.open(file).convert("RGB")))


def torchvision_decoding(work: Work, large: bool) -> Piece:
    from torchvision.io import ImageReadMode, decode_image

    transform = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE)])
    return decoding(files_of(work, large), lambda file: transform(decode_image(file, ImageReadMode.RGB)))


CONTENDERS: dict[str, Callable[[Work], Piece]] = {
    "backbone: ours, fp32": ours_fp32,
    "backbone: ours, int8": ours_int8,
    "backbone: torchvision, eager": torchvision_eager,
    "backbone: PyTorch, channels last": channels_last,
    "backbone: PyTorch, channels last, memory kept": channels_last,
    "backbone: torch.compile, frozen weights": compiled,
    "backbone: ONNX Runtime": onnx_runtime,
    "backbone: OpenVINO, its defaults": openvino_defaults,
    "backbone: matrix product of as many operations": backbone_at_peak,
    **head_contenders(5),
    **head_contenders(10),
    "plain training: tutorial loop": lambda work: tutorial(work, True),
    "plain training: ours, --recipe plain": plain_recipe,
    "plain validation: tutorial loop": lambda work: tutorial(work, False),
    "decoding, the dataset's: ours": lambda work: ours_decoding(work, False),
    "decoding, the dataset's: Pillow and torchvision": lambda work: pillow_decoding(work, False),
    "decoding, the dataset's: torchvision alone": lambda work: torchvision_decoding(work, False),
    "decoding, 12 megapixels: ours": lambda work: ours_decoding(work, True),
    "decoding, 12 megapixels: Pillow and torchvision": lambda work: pillow_decoding(work, True),
    "decoding, 12 megapixels: torchvision alone": lambda work: torchvision_decoding(work, True),
}
