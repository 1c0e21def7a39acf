"""Prepares a training run: data, weights, split, recipe and precision."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backbones.imagenet_weights import BackboneWeights, load_weights
from backbones.names import RESNET
from dataset import ActionData, find_root, read_dataset
from features.cache import fits_gpu
from features.engines import Precision, choose_precision
from layouts.parts import describe_left_out
from model import FEATURE_CHANNELS, STAGE_INPUTS, STRIDE
from runtime import distributed
from runtime.errors import InputError, naming
from runtime.files import read_known, write_json
from runtime.status import say
from runtime.text import wrap
from runtime.version import commit
from sample.build import ensure_sample
from splits.groups import group_names, join_groups
from splits.scan import check_images, group_duplicates
from splits.split import Split, describe, split_data
from training import checkpoint
from training.checks import check_arguments
from training.options import Args, resumed_args
from training.recipe import FINE_TUNING_VIEWS, Recipe

# A run that was stopped before its first epoch's last.pt starts anew.
BEFORE_FIRST_EPOCH = {checkpoint.SPLIT, checkpoint.SNAPSHOTS, "tensorboard", "wandb"}
IN_FIRST_EPOCH = BEFORE_FIRST_EPOCH | {checkpoint.BEST, checkpoint.RECORD, checkpoint.METRICS}


@dataclass(frozen=True)
class PreparedRun:
    """Everything that a training stands on; nothing of it has been written into results/ yet.

    Attributes:
        args: as given, or with --resume the interrupted run's own.
        interrupted: with --resume, the record of the interrupted run (keys of `best.json`); else empty.
        groups: with --group, the group of each image that has one, by the image's name.
        digests: by part of the split, file names and the SHA-256 of the files.
        in_memory: whether a GPU's memory holds all feature maps.
        seconds: by phase; grows while the run goes on.
    """

    args: Args
    interrupted: dict[str, Any]
    recipe: Recipe
    epochs: int
    image_size: int
    folder: Path
    data: ActionData
    split: Split
    groups: dict[str, str]
    digests: checkpoint.SplitDigests
    weights: BackboneWeights
    device: torch.device
    precision: Precision
    in_memory: bool
    seconds: dict[str, float]

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values for checkpoints."""
        return self.args.stored(self.recipe, self.epochs, self.precision.backbone)


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Adds the time that its block takes to `seconds[phase]`."""
    start = time.perf_counter()
    yield
    seconds[phase] = round(seconds.get(phase, 0.0) + time.perf_counter() - start, 2)


def prepare_run(args: Args, device: torch.device, started: str) -> PreparedRun:
    """Finds data and weights, checks and splits the images, decides recipe and precision.

    Args:
        started: name of a run that was given none.

    Raises: InputError on wrong arguments or data, or where distributed processes disagree.
    """
    with distributed.main_process_first():
        run = prepare_alone(args, device, started)
    run = replace(run, precision=distributed.broadcast_object(run.precision))
    distributed.require_same(run.weights.sha256, "the weights (--weights)")
    distributed.require_same(run.precision.head, "the precision (--precision)")
    distributed.require_same(run.digests, "the images (--data)")
    return run


def prepare_alone(args: Args, device: torch.device, started: str) -> PreparedRun:
    args.check()
    args, interrupted = find_interrupted(args) if args.resume else (args, {})
    seconds: dict[str, float] = {}
    if args.head:  # the same split as that run's
        own = checkpoint.read_record(checkpoint.find_run(args.results, args.head, option="--head"))["arguments"]
        share = own["val_share"] if args.val_share is None else args.val_share
        args = replace(args, val_share=share, group=args.group or own.get("group", ""))
    args = args.resolve()
    folder, size = run_folder(args, started), args.image_size
    data = find_data(args, seconds)
    with timed(seconds, "weights"):
        weights = find_weights(args, size)
    with timed(seconds, "check"):
        scans = check_images(data.labelled, args.cache / "scans.json", args.skip_bad)
        data.train = [sample for sample in data.train if sample.name in scans]
        data.val = [sample for sample in data.val if sample.name in scans]
        data.test = [sample for sample in data.test if sample.name in scans or sample.label is None]
        numbers = range(len(data.labelled))
        if not args.ignore_duplicates:
            numbers = group_duplicates([scans[sample.name] for sample in data.labelled])
        groups = find_groups(data, args.group)
        if groups:
            numbers = join_groups(numbers, [groups.get(sample.name) for sample in data.labelled])
        split = split_data(data, numbers, args.seed, args.val_share, bool(groups))
    in_memory = holds_features(device, args, len(split.train), len(split.val))
    recipe, epochs = args.resolve_recipe(len(split.train), in_memory)
    int8_possible = recipe.views > 0 and args.backbone == RESNET  # others are unmeasured
    images = recipe.views * len(split.train) + len(split.val) if int8_possible else 0
    precision = choose_precision(device, args.precision, images)
    digests = {part: {name: scans[name].sha256 for name in names} for part, names in split.names().items()}
    say(wrap(f"{data.name}: {len(data.classes)} classes; {describe(split, data, bool(groups))}"))
    processes = f" x {distributed.world_size()}" if distributed.world_size() > 1 else ""
    say(wrap(f"weights: {weights.name}, {precision.backbone}; {device.type}{processes}; run: {folder}"))
    return PreparedRun(
        args, interrupted, recipe, epochs, size, folder, data, split, groups, digests, weights, device, precision,
        in_memory, seconds,
    )  # fmt: skip


def holds_features(device: torch.device, args: Args, train: int, val: int) -> bool:
    """Whether the device is the only GPU, and its memory holds all channels of the run's feature maps."""
    views = args.views or (FINE_TUNING_VIEWS if args.unfreeze != "none" else 1)
    channels, stride = STAGE_INPUTS.get(args.unfreeze, (FEATURE_CHANNELS, STRIDE))
    row = 2 * channels * (args.image_size // stride) ** 2  # bytes, of bfloat16
    return distributed.world_size() == 1 and fits_gpu((views * train + val) * row, device)


def find_interrupted(args: Args) -> tuple[Args, dict[str, Any]]:
    """The arguments and the record of the run that --resume continues."""
    run = checkpoint.find_run(args.results, args.run, checkpoint.LAST)
    path = run / checkpoint.LAST
    with naming(path, checkpoint.FIX):
        stored = checkpoint.read_checkpoint(path, torch.device("cpu"))["arguments"]
        check_arguments(stored)
        args = resumed_args(args, run.name, stored)
        args.check()
    return args, checkpoint.read_record(run)


def find_data(args: Args, seconds: dict[str, float]) -> ActionData:
    """The given dataset, else the one in data/, else the built-in sample."""
    folder = args.data or Path("data")
    if args.data is None and find_root(folder) is None:
        folder = Path("data/sample")
        print(
            "No dataset in data/: training on the built-in sample of drawn images, whose figures say nothing\n"
            "about photographs. Download those (12,600, no Kaggle account needed) with: python prepare_data.py"
        )
        with timed(seconds, "sample"):
            ensure_sample(folder)
    data = read_dataset(folder, args.skip_bad)
    if left_out := describe_left_out(data.left_out):
        print(f"note: left out of {data.root}: {left_out}")
    return data


def find_groups(data: ActionData, option: str) -> dict[str, str]:
    """`group_names` of --group, about which it prints a line; empty without the option."""
    if not option:
        return {}
    groups = group_names(data, option)
    alone = len(data.labelled) - len(groups)
    rest = f", {alone} in none" if alone else ""
    say(f"--group {option}: {len(groups)} images in {len(set(groups.values()))} groups{rest}")
    return groups


def find_weights(args: Args, size: int) -> BackboneWeights:
    if args.backbone != RESNET:
        from backbones.timm_torchvision import load_library_weights  # takes seconds to import

        return load_library_weights(args.backbone, args.weights, size)
    return load_weights(args.weights)


def run_folder(args: Args, started: str) -> Path:
    """The run's folder, not made yet. Raises: InputError where a run of that name exists."""
    folder = args.results / (args.run or started)
    if not distributed.is_main():
        return folder  # the main process may have made it by now
    if not args.resume and folder.exists() and not is_unstarted(folder):
        way = "--resume to continue it" if (folder / checkpoint.LAST).exists() else "delete it"
        raise InputError(f"--run {folder.name}: {folder} exists; give another name, or {way}")
    return folder


def is_unstarted(folder: Path) -> bool:
    """Whether a run's folder holds nothing but what a training writes before its first epoch is complete."""
    names = {path.name for path in folder.iterdir() if path.name[0] != "."}  # without half-written files
    return names <= IN_FIRST_EPOCH and read_known(folder / checkpoint.RECORD).get("epoch", 1) == 1


def open_folder(run: PreparedRun) -> None:
    """Makes the run's folder and writes the split; with --resume, checks that images and weights are the same."""
    path = run.folder / checkpoint.SPLIT
    if distributed.is_main():
        for partial in run.folder.glob(".[0-9]*.*"):  # of a process that was killed while it wrote
            partial.unlink()
    if not run.args.resume:
        if not distributed.is_main():
            return
        try:
            run.folder.mkdir(parents=True, exist_ok=bool(run.args.run))  # runs started in one second share a name
        except FileExistsError:
            raise InputError(f"--run {run.folder.name}: just taken by another run; give another name") from None
        groups = {"group": run.args.group, "groups": run.groups} if run.groups else {}
        write_json(path, run.split.names() | groups)
        return
    stored = checkpoint.read_checkpoint(run.folder / checkpoint.LAST, torch.device("cpu"))
    if stored.get("split") != run.digests:
        raise InputError(f"{path}: the dataset has changed since the run began; start a new run")
    if stored.get("weights_sha256") != run.weights.sha256:
        given = run.weights.name
        raise InputError(f"{run.folder}: was trained on other weights than {given}; give those with --weights")


def describe_run(run: PreparedRun, arithmetic: str, projection: str) -> dict[str, Any]:
    """The content of `best.json` besides the epoch's figures, for features computed in that arithmetic."""
    return {
        "dataset": run.data.name,
        "data": str(run.data.root),
        "classes": run.data.classes,
        "weights": run.weights.name,
        "backbone": run.weights.backbone,
        "weights_sha256": run.weights.sha256,
        "image_size": run.image_size,
        "preprocessing": checkpoint.preprocessing(run.image_size),
        "split": {part: len(names) for part, names in run.digests.items()} | {"file": checkpoint.SPLIT},
        "seed": run.args.seed,
        "recipe": asdict(run.recipe),
        "arguments": run.arguments,
        "device": str(run.device),
        "precision": arithmetic,
        "projection": projection,
        "processes": distributed.world_size(),
        "versions": checkpoint.versions(),
        "commit": commit(),
    }
