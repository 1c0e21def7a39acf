"""Training loops that pass images through backbone and head in every epoch: a tutorial's, and `--recipe plain`."""

from itertools import cycle, islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks.workload import CPU, FP32, SIZE, Step, Workload, disable_winograd, pretrained_network
from dataset import IMAGENET_MEAN, IMAGENET_STD, TrainTransform
from features.decode import ImageReader
from runtime.device import autocast, pick_dtype
from training.feeds import ImageSource
from training.loop import initial_state, to_device, train_epoch
from training.recipe import PLAIN


class TutorialImages(torch.utils.data.Dataset):
    """Images as tutorials load them: Pillow and torchvision's transforms, float32, 224 pixels."""

    def __init__(self, work: Workload, training: bool) -> None:
        random = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()]
        crops = random if training else [v2.Resize(256), v2.CenterCrop(SIZE)]
        colours = [v2.ToImage(), v2.ToDtype(FP32, True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        self.work, self.transform = work, v2.Compose([*crops, *colours])

    def __len__(self) -> int:
        return len(self.work.samples)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        sample = self.work.samples[item]
        return self.transform(Image.open(sample.path).convert("RGB")), self.work.classes.index(sample.label)


def tutorial_loop(
    work: Workload, training: bool, device: torch.device = CPU, workers: int = 0, fast: bool = False, steps: int = 1
) -> Step:
    """The loop of tutorials: torchvision's transforms, float32, batches of 32, Adam; nothing of this repository.

    Args:
        fast: in mixed precision and channels last, as tutorials on speed advise.
        steps: batches in a step of the benchmark.
    """
    disable_winograd()
    layout = torch.channels_last if fast else torch.contiguous_format
    network = pretrained_network(len(work.classes)).to(device, memory_format=layout).train(training)
    optimizer = torch.optim.Adam(network.trained_parameters()[0], lr=1e-3)
    images, dtype = TutorialImages(work, training), pick_dtype(device) if fast else FP32
    batches = (
        batch for _ in cycle([0]) for batch in DataLoader(images, 32, shuffle=True, drop_last=True, num_workers=workers)
    )

    def step() -> int:
        for pixels, targets in islice(batches, steps):
            with torch.set_grad_enabled(training), autocast(device, dtype):
                logits = network(pixels.to(device, memory_format=layout))
                loss = nn.functional.cross_entropy(logits, targets.to(device))
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()
        return steps * 32

    return step


def plain_recipe(work: Workload) -> Step:
    """`train.py --recipe plain`."""
    network = pretrained_network(len(work.classes)).train()
    state = initial_state(network, PLAIN, 20, len(work.samples), CPU, FP32)
    options = TrainTransform(SIZE), PLAIN.batch_size, ImageReader(CPU, workers=0), 0
    source = ImageSource(network, work.samples, [], work.classes, *options)
    batches = (batch for epoch in range(1000) for batch in source.train(epoch))

    def step() -> int:
        batch = next(batches)
        train_epoch(network, to_device([batch], CPU), state, PLAIN, CPU, FP32, np.random.default_rng(0))
        return len(batch[0])

    return step
