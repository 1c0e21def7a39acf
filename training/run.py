"""Prepares a training run: data, weights, split, precision, then the batch source with its cached features."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backbones.imagenet_weights import BackboneWeights, WeightsUnavailable, load_weights, random_weights
from backbones.names import RESNET
from dataset import ActionData, find_root, read_dataset
from features.cache import FeatureStore, check_disk_space, pin_to_gpu
from features.engines import Engine, Int8Model, Precision, choose_precision, engine_factory, find_int8
from features.pca import Projection, find_projection, project_head, projected
from features.spec import FeatureSpec, arithmetic_name, dataset_digest
from model import ActionNet
from runtime import distributed
from runtime.device import pick_workers, release_freed_memory
from runtime.errors import InputError
from runtime.files import write_json
from sample.build import NAME as SAMPLE_NAME
from sample.build import ensure_sample
from splits.scan import check_images, group_duplicates
from splits.split import Split, describe, split_data
from training import checkpoint
from training.feeds import CachedSource, ImageSource
from training.options import Args, resumed_args
from training.recipe import Recipe


@dataclass(frozen=True)
class PreparedRun:
    """Everything that a training stands on; nothing of it has been written into results/ yet.

    Attributes:
        args: as given, or with --resume the interrupted run's own.
        interrupted: with --resume, the record of the interrupted run (keys of `best.json`); else empty.
        digests: by part of the split, file names and the SHA-256 of the files.
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
    digests: checkpoint.SplitDigests
    weights: BackboneWeights
    device: torch.device
    precision: Precision
    seconds: dict[str, float]

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values for checkpoints."""
        return self.args.stored(self.recipe, self.epochs, self.image_size, self.precision.backbone)


@dataclass(frozen=True)
class PreparedSource:
    """The batch source of a run, and what its cached features were made with.

    Attributes:
        arithmetic: of the backbone; of an int8 model its digest too.
        projection: name of the PCA projection, "" without one.
        basis: of the projection (C, K), None without one.
        stores: folder names of the feature stores, which digest everything that made them.
    """

    batches: CachedSource | ImageSource
    arithmetic: str
    projection: str = ""
    basis: torch.Tensor | None = None
    stores: tuple[str, ...] = ()


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
    folder = run_folder(args, started)
    size = args.resolve_size()
    data = find_data(args, seconds)
    with timed(seconds, "weights"):
        weights = find_weights(args, size, is_sample=data.name == SAMPLE_NAME)
    with timed(seconds, "check"):
        scans = check_images(data.labelled, args.cache / "scans.json", args.skip_bad)
        data.train = [sample for sample in data.train if sample.name in scans]
        data.test = [sample for sample in data.test if sample.name in scans or sample.label is None]
        groups = range(len(data.labelled))
        if not args.ignore_duplicates:
            groups = group_duplicates([scans[sample.name] for sample in data.labelled])
        split = split_data(data, groups, args.seed, args.val_share)
    recipe, epochs = args.resolve_recipe(len(split.train))
    int8_possible = recipe.views > 0 and not args.compile and args.backbone == RESNET  # others are unmeasured
    images = recipe.views * len(split.train) + len(split.val) if int8_possible else 0
    precision = choose_precision(device, args.precision, images)
    digests = {part: {name: scans[name].sha256 for name in names} for part, names in split.names().items()}
    print(f"{data.name}: {len(data.classes)} classes; {describe(split)}")
    processes = f" x {distributed.world_size()}" if distributed.world_size() > 1 else ""
    print(f"weights: {weights.name}, {precision.backbone}; {device.type}{processes}; run: {folder}")
    return PreparedRun(
        args, interrupted, recipe, epochs, size, folder, data, split, digests, weights, device, precision, seconds
    )


def find_interrupted(args: Args) -> tuple[Args, dict[str, Any]]:
    """The arguments and the record of the run that --resume continues."""
    run = checkpoint.find_run(args.results, args.run, checkpoint.LAST)
    stored = checkpoint.read_checkpoint(run / checkpoint.LAST, torch.device("cpu"))["arguments"]
    record = json.loads((run / checkpoint.RECORD).read_text(encoding="utf-8"))
    args = resumed_args(args, run.name, stored)
    args.check()
    return args, checkpoint.upgrade(record)


def find_data(args: Args, seconds: dict[str, float]) -> ActionData:
    """The given dataset, else the one in data/, else the built-in sample."""
    folder = args.data or Path("data")
    if args.data is None and find_root(folder) is None:
        folder = Path("data/sample")
        print(
            "No dataset in data/: training on the built-in sample of drawn images, whose figures say nothing about\n"
            "photographs. Download those (12,600, no Kaggle account needed) with: python prepare_data.py"
        )
        with timed(seconds, "sample"):
            ensure_sample(folder)
    return read_dataset(folder)


def find_weights(args: Args, size: int, is_sample: bool) -> BackboneWeights:
    if args.backbone != RESNET:
        from backbones.timm_torchvision import load_library_weights  # takes seconds to import

        return load_library_weights(args.backbone, args.weights, size)
    try:
        return load_weights(args.weights)
    except WeightsUnavailable as error:
        if args.weights != "auto" or not is_sample:
            raise
        print(f"note: {error}\nThe built-in sample is trained on with a random, untrained backbone.")
        return random_weights()


def run_folder(args: Args, started: str) -> Path:
    """The run's folder, not made yet. Raises: InputError where a run of that name exists."""
    folder = args.results / (args.run or started)
    if not distributed.is_main():
        return folder  # the main process may have made it by now
    taken = folder.exists() and {path.name for path in folder.iterdir()} - {checkpoint.SPLIT, checkpoint.SNAPSHOTS}
    if taken and not args.resume:
        raise InputError(f"--run {folder.name}: {folder} exists; give another name, or --resume to continue it")
    return folder


def open_folder(run: PreparedRun) -> None:
    """Makes the run's folder and writes the split; with --resume, checks that images and weights are the same."""
    path = run.folder / checkpoint.SPLIT
    if not run.args.resume:
        if not distributed.is_main():
            return
        try:
            run.folder.mkdir(parents=True, exist_ok=bool(run.args.run))  # runs started in one second share a name
        except FileExistsError:
            raise InputError(f"--run {run.folder.name}: just taken by another run; give another name") from None
        write_json(path, run.split.names())
        return
    stored = checkpoint.read_checkpoint(run.folder / checkpoint.LAST, torch.device("cpu"))
    if stored["split"] != run.digests:
        raise InputError(f"{path}: the dataset has changed since the run began; start a new run")
    if stored["weights_sha256"] != run.weights.sha256:
        given = run.weights.name
        raise InputError(f"{run.folder}: was trained on other weights than {given}; give those with --weights")


def prepare_source(run: PreparedRun, model: ActionNet) -> PreparedSource:
    """Builds the batch source, and with it the feature cache; brings the head to projected channels."""
    args, split, classes, recipe = run.args, run.split, run.data.classes, run.recipe
    workers = pick_workers(run.device, args.workers)
    if recipe.views == 0:
        options = (run.image_size, recipe.batch_size, workers, args.seed)
        return PreparedSource(ImageSource(model, split.train, split.val, classes, *options), run.precision.backbone)
    spec = FeatureSpec(run.weights.sha256, args.unfreeze, dataset_digest(run.digests), run.image_size)
    int8 = find_int8(args.cache, run.interrupted["precision"]) if run.interrupted else None
    int8 = int8 or Int8Model(spec.int8_folder(args.cache))
    make_engine, arithmetic = engine_factory(
        model.frozen, run.device, run.precision.backbone, int8, lambda: split.train, run.image_size, args.compile
    )
    projection = prepare_projection(run, spec, model, make_engine)
    name, basis, channels = "", None, model.feature_shape(run.image_size)[0]
    if projection:
        name, basis, channels = projection.name, projection.load(), projection.channels
        project_head(model, basis)
        make_engine = projected(make_engine, basis)
    stores = build_stores(run, spec, model, make_engine, arithmetic_name(arithmetic, name), channels)
    rows = [
        (list(run.digests[part].values()), [classes.index(sample.label) for sample in samples])
        for part, samples in (("train", split.train), ("val", split.val))
    ]
    low_res_epochs = recipe.low_res_epochs(run.epochs)
    batches = CachedSource(model, stores, *rows, recipe.batch_size, low_res_epochs, args.seed, run.precision.head)
    return PreparedSource(batches, arithmetic, name, basis, tuple(store.folder.name for store in stores))


def prepare_projection(
    run: PreparedRun, spec: FeatureSpec, model: ActionNet, make_engine: Callable[[int, int], Engine]
) -> Projection | None:
    """The fitted PCA projection to the recipe's channels; None where it keeps all."""
    channels = run.recipe.channels
    if not 0 < channels < model.feature_shape(run.image_size)[0]:
        return None
    known = run.interrupted.get("projection")
    projection = find_projection(run.args.cache, known, run.image_size) if known else None
    projection = projection or Projection(spec.projection_file(run.args.cache, channels), run.image_size, channels)
    with distributed.main_process_first():
        projection.fit(make_engine, run.split.train)
    distributed.require_same(projection.name, "the PCA projection (--cache)")
    return projection


def build_stores(
    run: PreparedRun,
    spec: FeatureSpec,
    model: ActionNet,
    make_engine: Callable[[int, int], Engine],
    arithmetic: str,
    channels: int,
) -> list[FeatureStore]:
    """One store per view, complete for this split."""
    stores, parts = [], []
    for view in range(run.recipe.views):
        size = model.crop_size(run.image_size) if view else run.image_size
        shape = (channels, model.feature_shape(size)[1])
        stores.append(FeatureStore(run.args.cache, spec, view, size, arithmetic, shape))
        digests = [*run.digests["train"].values(), *(run.digests["val"].values() if view == 0 else ())]
        parts.append((run.split.train + (run.split.val if view == 0 else []), digests))
    check_disk_space(stores, [digests for _, digests in parts])
    workers = pick_workers(run.device, run.args.workers)
    for view, (store, (samples, digests)) in enumerate(zip(stores, parts, strict=True), 1):
        store.build(make_engine, samples, digests, run.device, workers, f"feature maps, view {view} of {len(stores)}")
        release_freed_memory()
    pin_to_gpu(stores, [digests for _, digests in parts], run.device)
    return stores


def describe_run(run: PreparedRun, source: PreparedSource) -> dict[str, Any]:
    """The content of `best.json` besides the epoch's figures."""
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
        "precision": source.arithmetic,
        "projection": source.projection,
        "processes": distributed.world_size(),
        "versions": checkpoint.versions(),
        "commit": checkpoint.commit(),
    }
