"""Draws the layer-by-layer grid of a network: kernels, activations, class probabilities.

    python visualize_activations.py                          a random test image
    python visualize_activations.py IMAGE …                  any images; --index 3 17: those test images
    python visualize_activations.py --columns kernels:conv1 conv1 relu1
    python visualize_activations.py --compare A.jpg B.jpg    the same channels for two images
    python visualize_activations.py --training results/RUN   changes of the head (train.py --snapshots)
    python visualize_activations.py --dead-units 200         channels that are active in none of 200 test images
    python visualize_activations.py --network                the network itself; needs no run

Writes activations/grid_<image>.png, compare_<A>_<B>.png, training_<run>_<image>.png or dead_units_<run>.png, for
--network results/network.png, and their numbers beside them as .json (tiles as .npz). --format pdf or svg writes
those instead of .png.
"""

from dataclasses import dataclass, field
from pathlib import Path

from runtime.console import parse_arguments, run_script, suggest
from runtime.errors import InputError
from runtime.options import FigureOptions, option_name, require_range, same_run

MODES = ("compare", "training", "dead_units", "network")
USED_BY = {  # pages that an option is for
    "images": ("grid", "training"),
    "index": ("grid", "training"),
    "seed": ("grid", "training", "dead_units"),
    "columns": ("grid", "training", "compare"),
    "rows": ("grid", "training"),
    "run": ("grid", "compare", "dead_units", "network"),
    "data": ("grid", "training", "dead_units"),
}


@dataclass
class Args(FigureOptions):
    images: tuple[Path, ...] = field(default=(), metadata={"positional": "IMAGE"})
    """Images to draw. Default: a test image of the run."""
    index: tuple[int, ...] = ()
    """Positions of images in the run's test set. Default: a random one."""
    seed: int | None = None
    """Makes the random choice repeatable."""
    columns: tuple[str, ...] = ()
    """Layers to show, in the order of the network; `kernels:NAME` shows a convolution's kernels."""
    rows: int | None = None
    """Channels in each column, 1 to 10. Default 3."""
    compare: tuple[Path, Path] | None = None
    """Two images side by side."""
    training: Path | None = None
    """A run's folder: how maps and kernels of the head changed from epoch to epoch."""
    dead_units: int | None = None
    """Find channels that are active in none of so many test images (those of --seed)."""
    network: bool = False
    """Draw the network itself, with shapes and parameters; with --run NAME that run's, into its folder."""
    out: Path = Path("activations")
    """Folder of the pages."""
    workers: int | None = None
    """Processes that decode images for --dead-units. Default: none beside a CPU, all cores beside a GPU."""


def check(args: Args) -> None:
    """Raises InputError on wrong arguments."""
    mode, *more = [name for name in MODES if getattr(args, name) not in (None, False)] or ["grid"]
    if more:
        raise InputError(f"{option_name(mode)} and {option_name(more[0])} draw different pages; give one of them")
    given = [name for name in USED_BY if getattr(args, name) not in ((), None, "")]
    for name in given:
        if mode not in USED_BY[name]:
            what, it = ("images have", "them") if name == "images" else (f"{option_name(name)} has", "it")
            raise InputError(f"{what} no meaning with {option_name(mode)}; leave {it} out")
    ways = ["images" if name == "images" else f"--{name}" for name in ("images", "index", "seed") if name in given]
    if len(ways) > 1:
        raise InputError(f"{ways[0]} and {ways[1]} both choose what to draw; give one of them")
    require_range("rows", args.rows, 1, 10)
    require_range("dead_units", args.dead_units, 1)
    require_range("dpi", args.dpi, 30, 600)
    require_range("seed", args.seed, 0)
    require_range("workers", args.workers, 0)


if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__, check)  # before the imports below, which take seconds

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataset import EvalTransform
from features.decode import ImageReader
from hooks import activation_frequency, record
from inspection.channels import ranking_layers
from inspection.examples import Example, Prediction
from inspection.layer_names import KERNELS, as_maps, calls_of, existing_layers, find_layer, leaf_layers
from inspection.layer_stats import relative_distance
from model import ActionNet
from runtime.device import pick_device, pick_workers
from runtime.status import print_between, track
from training import checkpoint
from training.loop import to_device, with_progress
from training.recipe import IMAGE_SIZE
from training.trained_run import TrainedRun, load_run

GRID = (
    "kernels:base_model.layer1.0.conv2", "base_model.layer1.0.conv2", "base_model.layer1.0.relu#2",
    "base_model.layer1", "base_model.layer2", "base_model.layer3", "base_model",
    "kernels:conv1", "conv1", "relu1", "kernels:conv2", "conv2", "relu2",
)  # fmt: skip
ROWS = 3
COMPARED = ("base_model.layer1.0.relu#2", "base_model.layer2", "base_model.layer3", "base_model", "relu1", "relu2")
TRAINED = ("kernels:conv1", "relu1", "kernels:conv2", "relu2")
BATCH = 16


def main(args: Args) -> None:
    from figures.page import resolution

    check(args)
    with resolution(args.dpi):
        draw(args)


def draw(args: Args) -> None:
    device = pick_device(args.device)
    if args.network and not args.run:
        from reports.network import draw_network

        path = args.results / f"network.{args.format}"
        draw_network(path, ActionNet(15), IMAGE_SIZE, f"15 classes, images of {IMAGE_SIZE} × {IMAGE_SIZE}")
        print(f"written: {path}")
        return
    if args.training:
        args.results, args.run = args.training.parent, args.training.name
    run = load_run(args, device)
    if args.network:
        from reports.network import draw_run

        path = run.folder / f"network.{args.format}"
        draw_run(run, path)
        print(f"written: {path}")
    elif args.compare:
        draw_comparison(args, run)
    elif args.training:
        draw_training(args, run)
    elif args.dead_units:
        draw_dead_units(args, run)
    else:
        draw_grids(args, run)


def examples(args: Args, run: TrainedRun) -> list[Example]:
    """The images that the arguments ask for."""
    if args.images:
        return [run.file_example(path) for path in args.images]
    return run.test_examples(args.index) if args.index else [run.random_example(args.seed)]


def predict(run: TrainedRun, example: Example, layers: Sequence[str]) -> tuple[Prediction, dict[str, Tensor]]:
    """The prediction of an example, and the outputs (C, h, w) of layers."""
    images = example.input[None].to(run.device)  # (1, 3, S, S)
    with torch.inference_mode(), record(run.model, layers) as acts:
        logits = run.model(images)  # (1, K)
    return run.prediction(example, logits), as_maps(acts)


def layer_names(columns: Sequence[str]) -> list[str]:
    return [spec.removeprefix(KERNELS) for spec in columns]


def draw_grids(args: Args, run: TrainedRun) -> None:
    from figures.connections import make_columns
    from figures.grid import grid

    chosen = examples(args, run)
    paths = [args.out / f"grid_{example.folder}.{args.format}" for example in chosen]
    if len(set(paths)) < len(paths):
        raise InputError("two of the images have one name, and so would their pages; draw them one after the other")
    columns = args.columns or existing_layers(run.model, GRID)
    layers = [*leaf_layers(run.model), *layer_names(columns)]
    for path, example in zip(paths, track(chosen, "draw", leave=False), strict=True):
        prediction, acts = predict(run, example, layers)
        shown = make_columns(run.model, columns, acts, args.rows or ROWS)
        grid(path, prediction, run.model, shown, acts, run.detail)
        print_between(f"{describe(prediction)}\nwritten: {path}")
    image = (chosen[0].name,) if chosen[0].index is None else ("--index", chosen[0].index)
    suggest("visualize_single_example.py", *same_run(args), *image)


def draw_comparison(args: Args, run: TrainedRun) -> None:
    from figures import comparison as comparison_figures

    pair = [run.file_example(path) for path in args.compare]
    layers = args.columns or existing_layers(run.model, COMPARED)
    for layer in layers:
        if layer.startswith(KERNELS):
            raise InputError(f"--columns {layer}: kernels are the same for both images; give layers alone")
    names = ranking_layers(run.model)
    predictions, acts = zip(*(predict(run, example, [*names, *layers]) for example in pair), strict=True)
    wanted = {call for layer in layers for call in calls_of(run.model, layer, acts[0])}
    layers = [layer for layer in acts[0] if layer in wanted]
    for layer in layers:
        if acts[0][layer].shape[1:] == (1, 1):
            raise InputError(f"--columns {layer}: outputs single values, not maps; give an earlier layer")
    path = args.out / f"compare_{pair[0].folder}_{pair[1].folder}.{args.format}"
    comparison_figures.compare(path, predictions, layers, acts, run.model, run.detail)
    for letter, prediction in zip("AB", predictions, strict=True):
        print(f"{letter}  {describe(prediction)}")
    print(f"written: {path}")


def draw_training(args: Args, run: TrainedRun) -> None:
    from figures import comparison as comparison_figures
    from figures.connections import make_columns, shown_values

    model, specs = run.model, args.columns or TRAINED
    for name in layer_names(specs):
        layer = find_layer(model, name)[0]
        if layer == "base_model" or model.is_frozen(layer):
            raise InputError(f"--columns {name}: is frozen and does not change; give layers that are trained")
    snapshots = checkpoint.find_snapshots(run.folder)
    if len(args.images) + len(args.index) > 1:
        raise InputError("--training follows one image; give one")
    (example,) = examples(args, run)
    with torch.inference_mode():
        features = model.frozen(example.input[None].to(run.device))  # once for all epochs
    checkpoint.load_snapshot(list(snapshots.values())[-1], model)
    _, acts = predict_from_features(run, features, example, layer_names(specs))
    columns = make_columns(model, specs, acts, args.rows or ROWS)
    convs = {column.layer: column.module for column in columns if column.is_kernels}
    predictions, history, start = [], [], {}
    distances: dict[str, list[float]] = {layer: [] for layer in convs}
    for path in track(snapshots.values(), "snapshots", unit="epochs"):
        checkpoint.load_snapshot(path, model)
        prediction, acts = predict_from_features(run, features, example, layer_names(specs))
        predictions.append(prediction)
        history.append({c.spec: shown_values(c, acts[c.layer]).numpy() for c in columns})
        start = start or {layer: conv.weight.detach().clone() for layer, conv in convs.items()}
        for layer, conv in convs.items():
            distances[layer].append(relative_distance(conv.weight.detach(), start[layer]))
    path = args.out / f"training_{run.name}_{example.folder}.{args.format}"
    detail = f"{run.record['dataset']} · run {run.name}"
    comparison_figures.training(path, predictions, columns, history, distances, list(snapshots), detail)
    print(f"{describe(predictions[-1])} after the last epoch\nwritten: {path}")


def predict_from_features(
    run: TrainedRun, features: Tensor, example: Example, layers: Sequence[str]
) -> tuple[Prediction, dict[str, Tensor]]:
    """As `predict`, from the output of what is frozen."""
    leaves = [layer for layer in leaf_layers(run.model) if not run.model.is_frozen(layer)]
    with torch.inference_mode(), record(run.model, [*leaves, *layers]) as acts:
        logits = run.model.from_features(features)
    return run.prediction(example, logits), as_maps(acts)


def describe(prediction: Prediction) -> str:
    """An image and its prediction."""
    return f"{prediction.example.reference}: {prediction.summary}"


def draw_dead_units(args: Args, run: TrainedRun) -> None:
    """Every ReLU, over test images drawn by the seed."""
    from figures import layers as layer_figures

    names, count = list(run.split["test"]), args.dead_units
    if count > len(names):
        raise InputError(f"--dead-units {count}: the test set has {len(names)} images")
    chosen = np.random.default_rng(args.seed or 0).permutation(len(names))[:count]
    samples = run.samples("test", [names[index] for index in chosen])
    reader = ImageReader(run.device, pick_workers(run.device, args.workers))
    rows = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    crops = reader.batches(samples, EvalTransform(run.image_size), rows)
    loader = ((images, torch.empty(len(images))) for images in crops)  # without targets
    layers = [name for name in leaf_layers(run.model) if isinstance(run.model.get_submodule(name), torch.nn.ReLU)]
    batches = with_progress(to_device(loader, run.device), "dead channels", count, leave=True)
    counts, seen = activation_frequency(run.model, (images for images, _ in batches), layers)
    path = args.out / f"dead_units_{run.name}.{args.format}"
    heading = f"Channels that are active in none of {seen} test images"
    found = layer_figures.dead_units(path, heading, run.detail, counts, seen)
    dead = sum(len(row["dead"]) for row in found.values())
    channels = sum(row["channels"] for row in found.values())
    print(f"{dead} of the {channels} channels of {len(found)} ReLU calls are active in none of {seen} images")
    print(f"written: {path}")


if __name__ == "__main__":
    run_script(main, ARGS)
