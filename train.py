"""Trains the head on the frozen backbone's feature maps and keeps the epoch of the smallest calibrated validation loss.

    python train.py                                  the dataset in data/, or the built-in sample
    python train.py --data DIR --run NAME
    python train.py --recipe plain                   no cache, no schedule, nothing but Adam
    python train.py --unfreeze layer4 --head RUN     fine-tuning, from the head of an earlier run
    python train.py --resume --run NAME              goes on after an interruption

Writes results/<run>/: best.pt, best.json, last.pt, split.json, metrics.jsonl, loss.png; with --snapshots also
snapshots/.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch

from backbones.imagenet_weights import RESNET, BackboneWeights, WeightsUnavailable, load_weights, random_weights
from backbones.timm_torchvision import load_library_weights
from dataset import ActionData, find_root, read_dataset
from features.cache import FeatureStore, check_disk_space, hold
from features.engines import Backbone, Int8Model, Precision, engine_factory, frozen_id, pick_engine_precision
from features.pca import Projection, along
from figures import curves
from model import STRIDE, ActionNet, build_model
from runtime import distributed
from runtime.console import run_script
from runtime.device import pick_device, pick_precision, pick_workers, release_freed_memory
from runtime.errors import InputError
from runtime.files import write_json, write_text
from sample.build import NAME as SAMPLE_NAME
from sample.build import ensure_sample
from splits.scan import Scan, check_images, group_duplicates
from splits.split import VAL_SHARE, Split, describe, split_data
from training import checkpoint
from training.feeds import CachedSource, ImageSource
from training.loop import State, best_epoch, fit, start
from training.recipe import IMAGE_SIZE, MANY_PICTURES, TEXTBOOK_SIZE, Recipe, default_epochs, make_recipe, recipe_fields

RESUME_FREE = {"data", "cache", "results", "run", "resume", "device", "workers"}  # what may be given with --resume


@dataclass
class Args:
    data: Path | None = None
    """Folder of the dataset. Without it: data/, or where that holds none, the built-in sample."""
    run: str = ""
    """Name of the run, a folder in results/. Without it: date and time (with --resume: the newest run)."""
    resume: bool = False
    """Go on with a run that was interrupted, with its own arguments."""
    recipe: Literal["default", "plain"] = "default"
    """plain: Adam at a fixed rate, fresh crops and flips and a backbone pass each epoch, batches of 32."""
    weights: str = "auto"
    """ImageNet weights: auto, v1, v2 (torchvision), npm, a FILE, or random (untrained, for trying things out)."""
    backbone: str = RESNET
    """Another frozen network: a name of timm (vit_base_patch16_clip_224.openai, …), or torchvision/NAME."""
    epochs: int | None = None
    """Default 8; for fewer than 2,000 training pictures, and with --recipe plain, 20."""
    seed: int = 0
    """Decides the split, the head's start, the order and all that is random."""
    val_share: float = VAL_SHARE
    """Share of the pictures outside the test set that validation gets."""
    image_size: int | None = None
    """Side of the square that pictures are brought to, in pixels, a multiple of 32. Default 320; 224
    where --recipe plain or --backbone is given."""
    views: int | None = None
    """Cached views: middle, random crop, whole, more crops; 0: no cache; 4 where --unfreeze is given. Default 1."""
    channels: int | None = None
    """Leading directions that cached maps keep; 0: all channels, as below 2,000 training pictures. Default 512."""
    batch_size: int | None = None
    """Default 128."""
    lr: float | None = None
    """Highest learning rate. Default 0.001."""
    weight_decay: float | None = None
    """Default 0.05."""
    warmup: float | None = None
    """Epochs over which the rate rises before it falls along a cosine. Default 1."""
    label_smoothing: float | None = None
    """Default 0.1."""
    dropout: float | None = None
    """Share of the 256 pooled features dropped. Default 0.5."""
    channel_dropout: float | None = None
    """Share of the maps' channels dropped; where they have all 2048, 0.2. Default 0.1."""
    mixup: float | None = None
    """Alpha of mixup on what the head gets (--views 0: on pictures); 0: off. Default 0."""
    coarse: float | None = None
    """Share of the epochs that train on maps of half the side, which take less than half of the time. Default 0.5."""
    unfreeze: Literal["none", "layer4", "layer3", "layer2", "layer1"] = "none"
    """Train ResNet's convolutions too, from this stage on; what lies before it is cached."""
    head: str = ""
    """Start from the trained head of this run, of the same pictures and seed, and not from chance."""
    stage_lr: float | None = None
    """With --unfreeze: a stage's learning rate as a share of that of what follows it. Default 0.1."""
    patience: int | None = None
    """Stop after so many full-size epochs without a smaller calibrated validation loss; 0: never. Default 3."""
    snapshots: bool = False
    """Keep the head after every epoch (21 MB each), for `visualize_activations.py --training`."""
    ignore_copies: bool = False
    """Split as if no picture had copies, for `predict5.py` to show what that leak is worth."""
    skip_bad: bool = False
    """Leave unreadable pictures out instead of stopping."""
    device: str = "auto"
    precision: Precision = "auto"
    """int8: of the backbone, on a CPU, calibrated on training pictures; auto takes it there from 2,000 views on."""
    compile: bool = False
    """Run the backbone through torch.compile, which needs a C++ compiler; on a GPU it may be faster."""
    workers: int | None = None
    """Processes that decode pictures."""
    cache: Path = Path("data/cache")
    results: Path = Path("results")

    def resolve(self, pictures: int = MANY_PICTURES) -> Recipe:
        """Returns the recipe for so many training pictures, with what was given in place of its defaults.

        Raises: InputError on a contradiction.
        """
        given = {name: getattr(self, name) for name in recipe_fields(self)}
        if self.channels is None and (self.backbone != RESNET or pictures < MANY_PICTURES):
            given["channels"] = 0  # unmeasured; or finding directions would take longer than they save
        recipe = make_recipe(self.recipe == "plain", given, self.unfreeze)
        if recipe.views == 0 and self.precision == "int8":
            raise InputError("--precision int8 needs cached maps: give --views 1 or more, or another precision")
        if self.epochs is not None and self.epochs <= 0:
            raise InputError(f"--epochs {self.epochs}: must be above 0")
        if self.backbone != RESNET and self.unfreeze != "none":
            raise InputError(f"--unfreeze {self.unfreeze}: names a stage of ResNet-50; leave it out, or --backbone")
        if self.compile and recipe.views == 0:
            raise InputError("--compile is for cached maps: leave it out, or give --views 1 or more")
        if self.compile and self.precision == "int8":
            raise InputError("--compile and --precision int8 are two engines for one backbone; give one of them")
        if not 0 < self.val_share < 1:
            raise InputError(f"--val-share {self.val_share}: must be between 0 and 1")
        for name, value in (("seed", self.seed), ("workers", self.workers or 0)):
            if value < 0:
                raise InputError(f"--{name} {value}: must not be below 0")
        if self.image_size is not None and (self.image_size < 2 * STRIDE or self.image_size % STRIDE):
            raise InputError(f"--image-size {self.image_size}: must be a multiple of {STRIDE}, {2 * STRIDE} or more")
        if not re.fullmatch(r"([\w-][\w.-]*)?", self.run):
            raise InputError(f"--run {self.run}: a name of letters, digits, '-', '_' and '.' is needed, not a path")
        return recipe


@dataclass
class Job:
    """Everything that one run stands on."""

    args: Args
    recipe: Recipe
    run: Path
    data: ActionData
    split: Split
    scans: dict[str, Scan]
    weights: BackboneWeights
    device: torch.device
    precision: str  # of the backbone
    seconds: dict[str, float]
    directions: str = ""  # of the feature maps, where they hold few channels
    maps: str = ""  # what the feature maps were computed in; of an int8 model, its digest too
    stores: tuple[str, ...] = ()  # names of the folders of the feature maps, which digest all that made them

    @property
    def dtype(self) -> torch.dtype:
        """What the head computes in."""
        return pick_precision(self.device, self.args.precision)


def main(args: Args) -> None:
    device = pick_device(args.device)
    with distributed.process_group(device):
        begun = distributed.broadcast_object(f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
        with distributed.main_process_first():
            job = prepare(args, device, begun)
        job.precision = distributed.broadcast_object(job.precision)
        distributed.require_same(job.weights.sha256, "the weights (--weights)")
        distributed.require_same(job.dtype, "the precision (--precision)")
        distributed.require_same(split_digests(job), "the pictures (--data)")
        train(job)


def train(job: Job) -> None:
    torch.manual_seed(job.args.seed)
    recipe, args = job.recipe, job.args
    model = build_model(
        job.weights, len(job.data.classes), recipe.dropout, recipe.channel_dropout, args.unfreeze, args.image_size
    )
    if args.head and not args.resume:
        checkpoint.copy_head(args.results, args.head, model, job.weights.sha256, split_digests(job))
    model.to(job.device)
    open_run(job)
    with phase(job.seconds, "features"):
        feed = make_source(job, model)
    state = start(model, job.recipe, job.args.epochs, len(feed), job.device, job.dtype)
    if job.args.resume:
        resume(job, model, state)
    elif job.args.snapshots and distributed.rank() == 0:
        checkpoint.save_snapshot(job.run, model, epoch=0)
    record = describe_run(job)
    print(TABLE_HEAD)
    fit(
        model, feed, job.recipe, job.args.epochs, job.args.seed, state, job.device, job.dtype,
        on_epoch=lambda is_best: keep_epoch(job, model, state, record, is_best),
    )  # fmt: skip
    if distributed.rank() == 0:
        finish(job, state)


def prepare(args: Args, device: torch.device, begun: str) -> Job:
    """Finds data and weights, checks the pictures, splits them; writes nothing into results/.

    Args:
        begun: name of a run that was given none.
    """
    recipe = args.resolve()
    if args.resume:
        args = resumed_arguments(args)
        recipe = args.resolve()
    seconds: dict[str, float] = {}
    run = run_folder(args, begun)
    if args.image_size is None:
        args.image_size = TEXTBOOK_SIZE if args.recipe == "plain" or args.backbone != RESNET else IMAGE_SIZE
    data = find_data(args, seconds)
    with phase(seconds, "weights"):
        weights = find_weights(args, data.name == SAMPLE_NAME)
    with phase(seconds, "check"):
        scans = check_images(data.labelled, args.cache / "scans.json", args.skip_bad)
        data.train = [sample for sample in data.train if sample.name in scans]
        data.test = [sample for sample in data.test if sample.name in scans or sample.label is None]
        groups = range(len(data.labelled))
        if not args.ignore_copies:
            groups = group_duplicates([scans[sample.name] for sample in data.labelled])
        split = split_data(data, groups, args.seed, args.val_share)
    recipe = args.resolve(len(split.train))
    if args.epochs is None:
        args.epochs = default_epochs(recipe, len(split.train))
    count = recipe.views * len(split.train) + len(split.val)
    if args.compile or recipe.views == 0 or args.backbone != RESNET:
        count = 0  # no int8: not possible, or nobody measured what it costs
    precision = pick_engine_precision(device, args.precision, count)
    for name in recipe_fields(args):
        setattr(args, name, getattr(recipe, name))  # as the run had it, whatever later defaults are
    args.precision = precision
    print(f"{data.name}: {len(data.classes)} classes; {describe(split)}")
    several = f" x {distributed.world_size()}" if distributed.world_size() > 1 else ""
    print(f"weights: {weights.name}, {precision}; {device.type}{several}; run: {run}")
    return Job(args, recipe, run, data, split, scans, weights, device, precision, seconds)


@contextmanager
def phase(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the time that its block takes to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 2)


def resumed_arguments(args: Args) -> Args:
    """The interrupted run's own arguments; only places and devices may be given anew."""
    run = checkpoint.find_run(args.results, args.run, checkpoint.LAST)
    stored = checkpoint.read_checkpoint(run / checkpoint.LAST, torch.device("cpu"))["arguments"]
    stored = {"channels": 0} | stored  # runs of before there were directions
    for field in fields(Args):
        given, own = getattr(args, field.name), stored.get(field.name, field.default)
        if field.name in RESUME_FREE:
            if field.name in ("data", "cache") and given == field.default and own is not None:
                setattr(args, field.name, Path(own))
            continue
        if given not in (field.default, own):
            raise InputError(f"--resume goes on with the run's own --{field.name.replace('_', '-')}; leave it out")
        setattr(args, field.name, own)
    args.run = run.name
    return args


def find_data(args: Args, seconds: dict[str, float]) -> ActionData:
    """The dataset given, else the one in data/, else the built-in sample."""
    folder = args.data or Path("data")
    if args.data is None and find_root(folder) is None:
        folder = Path("data/sample")
        print(
            "No dataset in data/: training on the built-in sample of drawn pictures, whose figures say nothing about\n"
            "real photographs. To get those (12,600, Kaggle account not needed): python prepare_data.py"
        )
        with phase(seconds, "sample"):
            ensure_sample(folder)
    return read_dataset(folder)


def find_weights(args: Args, is_sample: bool) -> BackboneWeights:
    if args.backbone != RESNET:
        return load_library_weights(args.backbone, args.weights, args.image_size)
    try:
        return load_weights(args.weights)
    except WeightsUnavailable as error:
        if args.weights != "auto" or not is_sample:
            raise
        print(f"note: {error}\nThe built-in sample goes on with a random, untrained backbone.")
        return random_weights()


def run_folder(args: Args, begun: str) -> Path:
    """The run's folder, not made yet. Raises: InputError where there is a run of that name already."""
    run = args.results / (args.run or begun)
    if distributed.rank() > 0:
        return run  # the first process may have made it by now
    taken = run.exists() and {path.name for path in run.iterdir()} - {checkpoint.SPLIT, checkpoint.SNAPSHOTS}
    if taken and not args.resume:
        raise InputError(f"--run {run.name}: {run} exists; give another name, or --resume to go on")
    return run


def open_run(job: Job) -> None:
    """Makes the run's folder and writes the split; on --resume, checks that the pictures are still the same."""
    path, names = job.run / checkpoint.SPLIT, job.split.names()
    if not job.args.resume:
        if distributed.rank() > 0:
            return
        try:
            job.run.mkdir(parents=True, exist_ok=bool(job.args.run))  # two runs begun in one second have one name
        except FileExistsError:
            raise InputError(f"--run {job.run.name}: taken by another run just now; give another name") from None
        write_json(path, names)
        return
    stored = checkpoint.read_checkpoint(job.run / checkpoint.LAST, torch.device("cpu"))
    if stored["split"] != split_digests(job):
        raise InputError(f"{path}: the dataset has changed since the run began, which --resume cannot go on with")
    if stored["weights_sha256"] != job.weights.sha256:
        raise InputError(f"{job.run}: stands on other weights than {job.weights.name}; give those with --weights")


def split_digests(job: Job) -> dict[str, dict[str, str]]:
    """By part, file names and what the files held."""
    return {part: {name: job.scans[name].sha256 for name in names} for part, names in job.split.names().items()}


def make_source(job: Job, model: ActionNet) -> CachedSource | ImageSource:
    """Builds what the training loop reads from, the feature cache included."""
    args, split, classes = job.args, job.split, job.data.classes
    workers = pick_workers(job.device, args.workers)
    if job.recipe.views == 0:
        options = (args.image_size, job.recipe.batch_size, workers, args.seed)
        return ImageSource(model, split.train, split.val, classes, *options)
    network = frozen_id(job.weights.sha256, args.unfreeze)
    int8 = Int8Model(args.cache, network, job.data.name, args.image_size)
    make, job.maps = engine_factory(model.frozen, job.device, job.precision, int8, lambda: split.train, args.compile)
    make, kind, channels = few_channels(job, model, network, make)
    stores, parts = [], []
    for view in range(job.recipe.views):
        size = model.crop_size(args.image_size) if view else args.image_size
        maps = (channels, model.map_shape(size)[1])
        stores.append(FeatureStore(args.cache, network, view, size, kind, maps, args.unfreeze != "none"))
        samples = split.train + (split.val if view == 0 else [])
        parts.append((samples, [job.scans[sample.name].sha256 for sample in samples]))
    check_disk_space(stores, [digests for _, digests in parts])
    for view, (store, (samples, digests)) in enumerate(zip(stores, parts, strict=True), 1):
        store.build(make, samples, digests, job.device, workers, f"feature maps, view {view} of {len(stores)}")
        release_freed_memory()
    hold(stores, [digests for _, digests in parts], job.device)
    job.stores = tuple(store.folder.name for store in stores)
    rows = [
        ([job.scans[s.name].sha256 for s in samples], [classes.index(s.label) for s in samples])
        for samples in (split.train, split.val)
    ]
    coarse_epochs = job.recipe.coarse_epochs(args.epochs)
    return CachedSource(model, stores, *rows, job.recipe.batch_size, coarse_epochs, args.seed, job.dtype)


def few_channels(
    job: Job, model: ActionNet, network: str, make: Callable[[int, int], Backbone]
) -> tuple[Callable[[int, int], Backbone], str, int]:
    """Brings network and backbone to the recipe's channels; returns its maker, its maps' kind and their channels."""
    args, channels = job.args, model.map_shape(job.args.image_size)[0]
    if not 0 < job.recipe.channels < channels:
        return make, job.maps, channels
    dataset = f"{job.data.name}: {', '.join(job.data.classes)}"
    directions = Projection(args.cache, network, dataset, args.image_size, job.recipe.channels)
    with distributed.main_process_first():
        directions.fit(make, job.split.train)
    job.directions = directions.name
    distributed.require_same(job.directions, "the directions (--cache)")
    model.narrow(directions.load())
    return along(make, model.directions), f"{job.maps}, {job.directions}", directions.count


def describe_run(job: Job) -> dict[str, Any]:
    """What stands in `best.json` beside the epoch's figures."""
    return {
        "dataset": job.data.name,
        "data": str(job.data.root),
        "classes": job.data.classes,
        "weights": job.weights.name,
        "backbone": job.weights.backbone,
        "weights_sha256": job.weights.sha256,
        "image_size": job.args.image_size,
        "preprocessing": checkpoint.preprocessing(job.args.image_size),
        "split": {part: len(names) for part, names in job.split.names().items()} | {"file": checkpoint.SPLIT},
        "seed": job.args.seed,
        "recipe": asdict(job.recipe),
        "arguments": plain_arguments(job.args),
        "device": str(job.device),
        "precision": job.maps or job.precision,
        "directions": job.directions,
        "processes": distributed.world_size(),
        "versions": checkpoint.versions(),
        "commit": checkpoint.commit(),
    }


def plain_arguments(args: Args) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}


def resume(job: Job, model: ActionNet, state: State) -> None:
    stored = checkpoint.load_last(job.run, model, job.device)
    rows = stored["state"]["history"]
    if stored.get("stores") != job.stores or any("calibrated" not in row for row in rows):
        raise InputError(
            f"{job.run}: of an earlier version, or its feature maps are gone from {job.args.cache}; train anew"
        )
    state.load_state_dict(stored["state"])
    job.seconds.update(stored["seconds"])
    print(f"going on after epoch {len(state.history)} of {job.args.epochs}")


def keep_epoch(job: Job, model: ActionNet, state: State, record: dict[str, Any], is_best: bool) -> None:
    """Prints the epoch's row and writes best.pt (where it is the best), last.pt and metrics.jsonl."""
    if distributed.rank() > 0:
        return
    row = state.history[-1]
    print(table_row(row, is_best), flush=True)
    job.seconds["training"] = round(sum(row["seconds"] for row in state.history), 2)
    if is_best:
        figures_of_epoch = {key: row[key] for key in ("epoch", "train", "val", "calibrated", "temperature")}
        record = record | figures_of_epoch | {"seconds": job.seconds}
        checkpoint.save_best(job.run, model, record, split_digests(job))
    if job.args.snapshots:
        checkpoint.save_snapshot(job.run, model, row["epoch"])
    lines = "".join(json.dumps(row) + "\n" for row in state.history)
    write_text(job.run / checkpoint.METRICS, lines)
    last = {"state": state.state_dict(), "arguments": plain_arguments(job.args)}
    last |= {
        "stores": job.stores,
        "weights_sha256": job.weights.sha256,
        "split": split_digests(job),
        "seconds": job.seconds,
    }
    checkpoint.save_last(job.run, model, last)


TABLE_HEAD = (
    "epoch      lr | train loss   acc  prec   rec    F1 | val loss   acc  prec   rec    F1 |     s\n" + "-" * 92
)


def table_row(row: dict[str, Any], is_best: bool) -> str:
    """One epoch for the console; an asterisk marks the best so far."""
    cells = [f"{row['epoch']:5d} {row['lr']:.1e}"]
    for part, width in (("train", 10), ("val", 8)):
        values = "  ".join(f"{row[part][key]:.2f}" for key in ("accuracy", "precision", "recall", "f1"))
        cells.append(f"{row[part]['loss']:{width}.4f}  {values}")
    return " | ".join([*cells, f"{row['seconds']:5.1f}"]) + (" *" if is_best else "")


def finish(job: Job, state: State) -> None:
    """Draws the learning curves and says what the best epoch reached and where everything is."""
    best = best_epoch(state.history)
    record = json.loads((job.run / checkpoint.RECORD).read_text(encoding="utf-8")) | {"seconds": job.seconds}
    write_json(job.run / checkpoint.RECORD, record)
    title = f"{job.data.name} · {job.weights.name}"
    curves.learning_curves(state.history, best["epoch"], title, job.run / "loss.png")
    done = len(state.history)
    early = f", ended after {done} of {job.args.epochs}" if done < job.args.epochs else ""
    print(f"\nbest epoch: {best['epoch']}{early}")
    for part in ("train", "val"):
        print(f"  {part:5s} " + "  ".join(f"{key} {value:.4f}" for key, value in best[part].items()))
    print("  seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in job.seconds.items()))
    print("written: " + "  ".join(str(path) for path in sorted(job.run.glob("[!.]*.*"))))
    print(f"{job.data.name}, {job.weights.name}: validation accuracy {best['val']['accuracy']:.4f} ({job.run})")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
