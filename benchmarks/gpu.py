"""Measures a GPU: decoding, backbone, head, fine-tuning and a tutorial's loop, beside other ways of the same work.

Candidates take turns in one process; a step ends when the GPU has finished it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from backbones.imagenet_weights import load_weights
from benchmarks.baselines import matrix_product, network_operations
from benchmarks.bench import Bench, compare
from benchmarks.loops import tutorial_loop
from benchmarks.workload import SIZE, Step, pretrained_network
from dataset import EvalTransform, HarDataset, TrainTransform, normalise
from features.decode import ImageReader
from features.engines import TorchEngine
from model import FEATURE_CHANNELS, ActionNet, build_model
from runtime.device import autocast, pick_dtype
from training.feeds import ImageSource
from training.loop import initial_state, to_device, train_epoch
from training.recipe import FINETUNE, FINETUNE_IMAGE_SIZE, IMAGE_SIZE, Recipe

BATCH, STEPS = 128, 20
DECODED = 4096  # images a step decodes

Candidates = dict[str, Callable[[], Step]]


def run_rounds(
    candidates: Candidates, rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Runs a step of each candidate in every round, after one to warm up.

    Returns: images/s per round by candidate, and errors by candidate that could not run.
    """
    steps, errors = {}, {}
    for name, prepare in candidates.items():
        try:
            steps[name] = prepare()
            timed_step(steps[name], device)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            steps.pop(name, None)
    runs: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            runs[name].append(round(timed_step(step, device), 1))
    return runs, errors


def timed_step(step: Step, device: torch.device) -> float:
    """Images/s of one step, until the device has finished it."""
    begin = time.perf_counter()
    count = step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count / (time.perf_counter() - begin)


def busy_share(step: Step, device: torch.device) -> float | None:
    """Fraction of a step in which the GPU runs kernels, by torch's profiler; None without a GPU."""
    if device.type != "cuda":
        return None
    step()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begin
    return round(sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / seconds, 2)


def save(bench: Bench, name: str, candidates: Candidates, device: torch.device, **more: Any) -> dict[str, Any]:
    """Measures and saves candidates, with the GPU's busy share of the first."""
    runs, errors = run_rounds(candidates, bench.args.rounds, device)
    value = compare(runs, errors) | more
    first = next(iter(candidates))
    if first in runs and (share := busy_share(candidates[first](), device)) is not None:
        value["gpu_busy"] = share
        value["notes"].append(f"the GPU runs kernels for {share:.0%} of the time of {first}")
    bench.save(name, value)
    return value


def measure_backbone(bench: Bench, device: torch.device, batch: int = BATCH) -> None:
    """Feature maps of images that lie in the GPU's memory, at 320 pixels."""
    dtype, network = pick_dtype(device), pretrained_network().base_model.to(device)
    images = torch.randint(0, 256, (batch, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=device)

    def repeated(run: Callable[[Tensor], Any]) -> Step:
        @torch.inference_mode()
        def step() -> int:
            for _ in range(STEPS):
                run(images)
            return STEPS * batch

        return step

    def eager(images: Tensor) -> Tensor:
        with autocast(device, dtype):
            return network(normalise(images).contiguous(memory_format=torch.channels_last))

    def timm_settings() -> Step:  # of its benchmark.py --model resnet50 --amp --channels-last
        import timm

        model = timm.create_model("resnet50").to(device, memory_format=torch.channels_last).eval()
        pixels = normalise(images).contiguous(memory_format=torch.channels_last)

        def run(_: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16):
                return model(pixels)

        return repeated(run)

    def products() -> Step:
        run = matrix_product(network_operations(network, IMAGE_SIZE), device, dtype)

        def step() -> float:
            return sum(run() for _ in range(STEPS))

        return step

    candidates = {
        "ours": lambda: repeated(TorchEngine(network, device, dtype)),
        "PyTorch eager, autocast, channels last": lambda: repeated(eager),
        "PyTorch eager, float32": lambda: repeated(lambda images: network(normalise(images))),
        "timm, settings of its benchmark.py": timm_settings,
        "matrix product of as many operations": products,
    }
    save(bench, "backbone", candidates, device, image_size=IMAGE_SIZE, cosine_to_cpu=agreement(bench, network, device))


def agreement(bench: Bench, network: nn.Module, device: torch.device) -> dict[str, float]:
    """Cosine similarities of 32 images' feature maps to those of a CPU in float32: the smallest and the mean."""
    cpu, samples, found = torch.device("cpu"), bench.work.samples[:32], []
    for place, dtype in ((cpu, torch.float32), (device, pick_dtype(device))):
        (crops,) = ImageReader(place, 0).batches(samples, EvalTransform(IMAGE_SIZE), [range(len(samples))])
        features = TorchEngine(network.to(place), place, dtype)(crops)
        found.append(features.flatten(1).float().cpu())
    similarity = nn.functional.cosine_similarity(*found)
    return {"smallest": round(similarity.min().item(), 5), "mean": round(similarity.mean().item(), 5)}


def measure_head(bench: Bench, device: torch.device) -> None:
    """Training steps of the head on feature maps in the GPU's memory."""

    def training(side: int, channels: int) -> Step:
        recipe, dtype = Recipe(), pick_dtype(device)
        model = ActionNet(15, dropout=recipe.dropout, channel_dropout=recipe.channel_dropout)
        model.conv1 = nn.Conv2d(channels, 512, 3, padding=1)
        model.to(device, memory_format=torch.channels_last)
        state = initial_state(model, recipe, 1000, BATCH, device, dtype)
        maps = torch.rand(BATCH, channels, side, side, device=device).contiguous(memory_format=torch.channels_last)
        batches = [(maps, torch.arange(BATCH, device=device) % 15)] * STEPS

        def step() -> int:
            train_epoch(model.head, batches, state, recipe, device, dtype, np.random.default_rng(0))
            return STEPS * BATCH

        return step

    side = IMAGE_SIZE // 32
    candidates = {
        "ours, all channels": lambda: training(side, FEATURE_CHANNELS),
        "projected channels": lambda: training(side, 512),
        "projected channels, low resolution": lambda: training(side // 2, 512),
    }
    save(bench, "head", candidates, device)


def measure_decoding(bench: Bench, device: torch.device) -> None:
    """Files to crops of 320 pixels in the GPU's memory."""
    samples = bench.work.samples[:DECODED]
    rows = [range(start, min(start + BATCH, len(samples))) for start in range(0, len(samples), BATCH)]

    def ours(reader: ImageReader | None = None) -> Step:
        def step() -> int:
            images = reader or ImageReader(device, os.cpu_count() or 1)
            return sum(len(crops.to(device)) for crops in images.batches(samples, EvalTransform(IMAGE_SIZE), rows))

        return step

    def loader(workers: int) -> Step:
        def step() -> int:
            images = HarDataset(samples, [], EvalTransform(IMAGE_SIZE))
            batches = DataLoader(images, BATCH, num_workers=workers, pin_memory=device.type == "cuda")
            return sum(len(crops.to(device, non_blocking=True)) for crops, _ in batches)

        return step

    candidates = {"ours": ours, "ours, decoded before": lambda: ours(ImageReader(device, os.cpu_count() or 1))}
    candidates |= {f"DataLoader, {n} workers": lambda n=n: loader(n) for n in worker_counts()[1:]}
    save(bench, "decoding", candidates, device)


def worker_counts() -> list[int]:
    """Numbers of workers to try: none, 4, 8 and one less than there are cores."""
    cores = os.cpu_count() or 1
    return sorted({0, *(count for count in (4, 8) if count < cores), cores - 1})


def measure_loop(bench: Bench, device: torch.device) -> None:
    """A tutorial's loop with several numbers of workers: the best of them is what whole scripts are compared with."""
    candidates = {
        f"{kind}, {n} workers": lambda n=n, fast=fast: tutorial_loop(bench.work, True, device, n, fast, STEPS)
        for n in worker_counts()
        for kind, fast in (("tutorial loop", False), ("mixed precision, channels last", True))
        if not fast or n == worker_counts()[-1]
    }
    candidates |= {
        f"validation, {n} workers": lambda n=n: tutorial_loop(bench.work, False, device, n, steps=STEPS)
        for n in worker_counts()[-1:]
    }
    runs, errors = run_rounds(candidates, bench.args.rounds, device)
    rates = {name: round(float(np.median(rates)), 1) for name, rates in runs.items()}
    best = max((name for name in rates if name.startswith("tutorial loop")), key=rates.__getitem__)
    value = {
        "ours": rates[best],
        "peers": rates,
        "ratio": {},
        "unit": f"images/s at {SIZE} pixels; ours: {best}, the best",
    }
    bench.save("loop", value | {"runs": runs, "notes": [f"{name}: left out ({why})" for name, why in errors.items()]})


def measure_finetuning(bench: Bench, device: torch.device) -> None:
    """Training steps of --recipe finetune, with and without cropping images."""
    recipe, dtype = replace(FINETUNE, batch_size=BATCH), pick_dtype(device)
    model = build_model_for_finetuning(len(bench.data.classes)).to(device, memory_format=torch.channels_last)
    samples = bench.work.samples[: STEPS * BATCH]
    state = initial_state(model, recipe, 1000, len(samples), device, dtype)
    reader, transform = ImageReader(device, os.cpu_count() or 1), TrainTransform(FINETUNE_IMAGE_SIZE, recipe.min_crop)
    source = ImageSource(model, samples, [], bench.data.classes, transform, BATCH, reader, seed=0)
    still = list(to_device(source.train(1), device))[:1] * STEPS

    def step_on(batches: Callable[[], Any]) -> Step:
        def step() -> int:
            train_epoch(model.train(), batches(), state, recipe, device, dtype, np.random.default_rng(0))
            return len(samples)

        return step

    candidates = {
        "ours": lambda: step_on(lambda: to_device(source.train(2), device)),
        "the same batch again, without cropping": lambda: step_on(lambda: still),
    }
    save(bench, "finetuning", candidates, device, image_size=FINETUNE_IMAGE_SIZE)


def build_model_for_finetuning(classes: int) -> ActionNet:
    return build_model(load_weights(), classes, 0.5, FINETUNE.channel_dropout, "layer1", FINETUNE_IMAGE_SIZE)
