"""Draws the whole way through a trained network on one page: kernels, maps, what feeds what, and the answer.

    python visualize_activations.py                          a random picture of the newest run's test set
    python visualize_activations.py PICTURE …                any pictures; --index 3 17: those of the test set
    python visualize_activations.py --columns kernels:conv1 conv1 relu1
    python visualize_activations.py --compare A.jpg B.jpg    the same channels for two pictures
    python visualize_activations.py --training results/RUN   how the head changed (train.py --snapshots)
    python visualize_activations.py --dead-units 200         channels that never fire on so many test pictures
    python visualize_activations.py --network                the network itself; needs no run

Writes activations/grid_<picture>.png, compare_<A>_<B>.png, training_<run>_<picture>.png or dead_units_<run>.png, for
--network results/network.png, and beside each its numbers as .json (tiles as .npz).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset import EvalTransform, HarDataset, read_dataset
from figures import comparison as comparison_pages
from figures import grid as grid_page
from figures import layers as layer_pages
from figures import network as network_page
from figures.connections import KERNELS, make_columns, shown_values
from figures.example import Prediction
from hooks import activation_counts, as_maps, existing_layers, find_layer, leaf_layers, record
from inspection.examples import Example, file_example, find_split_images, load_test_examples
from inspection.layer_stats import relative_distance
from model import ActionNet
from runtime.console import run_script
from runtime.device import pick_device, pick_workers
from runtime.errors import InputError
from training import checkpoint
from training.loop import shown, to_device
from training.recipe import IMAGE_SIZE

GRID = (
    "kernels:base_model.layer1.0.conv2", "base_model.layer1.0.conv2", "base_model.layer1.0.relu#2", "base_model",
    "kernels:conv1", "conv1", "relu1", "kernels:conv2", "conv2", "relu2",
)  # fmt: skip
COMPARED = ("base_model.layer1.0.relu#2", "base_model.layer2", "base_model.layer3", "base_model", "relu1", "relu2")
TRAINED = ("kernels:conv1", "relu1", "kernels:conv2", "relu2")
MODES = ("compare", "training", "dead_units", "network")
USED_BY = {  # which pages an option is for
    "images": ("grid", "training"),
    "index": ("grid", "training"),
    "seed": ("grid", "training", "dead_units"),
    "columns": ("grid", "training", "compare"),
    "rows": ("grid", "training"),
    "run": ("grid", "compare", "dead_units", "network"),
    "data": ("grid", "training", "dead_units"),
}
BATCH = 16


@dataclass
class Args:
    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Pictures to draw; without any, one of the run's test set."""
    index: tuple[int, ...] = ()
    """Positions of pictures in the run's test set. Without it: a random one."""
    seed: int | None = None
    """Makes the random choice repeatable."""
    columns: tuple[str, ...] = ()
    """Layers to show, in the order of the network; `kernels:NAME` shows a convolution's kernels."""
    rows: int | None = None
    """Channels of each column, 1 to 10. Default 5; with --training 3."""
    compare: tuple[Path, Path] | None = None
    """Two pictures side by side."""
    training: Path | None = None
    """A run's folder: how the head's maps and kernels changed from epoch to epoch."""
    dead_units: int | None = None
    """Look for channels that never fire on so many test pictures (those of --seed)."""
    network: bool = False
    """Draw the network itself, with shapes and parameters; with --run NAME that run's, into its folder."""
    run: str = ""
    """Name of the run. Without it: the newest."""
    data: Path | None = None
    """Where the run's dataset lies now. Without it: where it lay in training."""
    out: Path = Path("activations")
    device: str = "auto"
    workers: int | None = None
    cache: Path = Path("data/cache")
    results: Path = Path("results")


@dataclass
class Session:
    """A run's network, ready, and what the pictures say about it."""

    args: Args
    run: Path
    device: torch.device
    model: ActionNet
    about: dict[str, Any]  # the run's record
    digests: dict[str, str]  # of the run's test set, by name

    @property
    def detail(self) -> str:
        return f"{self.about['dataset']} · run {self.run.name}, epoch {self.about['epoch']} · {self.about['weights']}"

    def examples(self) -> list[Example]:
        """The pictures that the arguments ask for."""
        args = self.args
        if args.images:
            return [self.file(path) for path in args.images]
        index = list(args.index) or [int(np.random.default_rng(args.seed).integers(len(self.digests)))]
        return load_test_examples(index, self.about, self.digests, args.data, args.cache)

    def file(self, path: Path) -> Example:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return file_example(path, self.about["image_size"])


def main(args: Args) -> None:
    check(args)
    device = pick_device(args.device)
    if args.network and not args.run:
        draw_network(args.results, ActionNet(15), IMAGE_SIZE, f"15 classes, pictures of {IMAGE_SIZE} × {IMAGE_SIZE}")
        return
    results, name = (args.training.parent, args.training.name) if args.training else (args.results, args.run)
    run = checkpoint.find_run(results, name)
    model, about, split = checkpoint.load_model(run, device)
    session = Session(args, run, device, model, about, split["test"])
    if args.network:
        size = about["image_size"]
        words = f"{len(about['classes'])} classes, pictures of {size} × {size} · {session.detail}"
        draw_network(run, model, size, words)
    elif args.compare:
        draw_comparison(session, *args.compare)
    elif args.training:
        draw_training(session)
    elif args.dead_units:
        draw_dead_units(session, args.dead_units)
    else:
        draw_grids(session)


def check(args: Args) -> None:
    mode, *more = [name for name in MODES if getattr(args, name) not in (None, False)] or ["grid"]
    if more:
        raise InputError(f"--{dashed(mode)} and --{dashed(more[0])} draw different pages; give one of them")
    given = [name for name in USED_BY if getattr(args, name) not in ((), None, "")]
    for name in given:
        if mode not in USED_BY[name]:
            what = "pictures have" if name == "images" else f"--{dashed(name)} has"
            raise InputError(
                f"{what} no meaning with --{dashed(mode)}; leave {'them' if name == 'images' else 'it'} out"
            )
    ways = ["pictures" if name == "images" else f"--{name}" for name in ("images", "index", "seed") if name in given]
    if len(ways) > 1:
        raise InputError(f"{ways[0]} and {ways[1]} both choose what to draw; give one of them")
    for name, value, low, high in (
        ("rows", args.rows, 1, 10),
        ("dead-units", args.dead_units, 1, None),
        ("seed", args.seed, 0, None),
        ("workers", args.workers, 0, None),
    ):
        if value is not None and not (low <= value and (high is None or value <= high)):
            raise InputError(f"--{name} {value}: must be {low} {f'to {high}' if high else 'or more'}")


def dashed(name: str) -> str:
    return name.replace("_", "-")


def look(
    model: ActionNet, example: Example, classes: Sequence[str], layers: Sequence[str]
) -> tuple[Prediction, dict[str, Tensor]]:
    """What the network says about a picture, and what each layer puts out, (C, h, w)."""
    images = example.input[None].to(next(model.parameters()).device)  # (1, 3, S, S)
    with torch.inference_mode(), record(model, layers) as acts:
        logits = model(images)  # (1, K)
    return Prediction(example, classes, model.probabilities(logits[0]).cpu().numpy()), as_maps(acts)


def named(columns: Sequence[str]) -> list[str]:
    return [spec.removeprefix(KERNELS) for spec in columns]


def draw_grids(session: Session) -> None:
    args = session.args
    examples = session.examples()
    paths = [args.out / f"grid_{example.folder}.png" for example in examples]
    if len(set(paths)) < len(paths):
        raise InputError("two of the pictures have one name, and so would their pages; draw them one after the other")
    columns = args.columns or existing_layers(session.model, GRID)
    layers = [*leaf_layers(session.model), *named(columns)]
    for path, example in zip(paths, tqdm(examples, "draw", unit=" images", disable=len(examples) < 2), strict=True):
        answer, acts = look(session.model, example, session.about["classes"], layers)
        chosen = make_columns(session.model, columns, acts, args.rows or 5)
        grid_page.grid(path, answer, session.model, chosen, acts, session.detail)
        tqdm.write(f"{said(answer)}\nwritten: {path}")


def draw_comparison(session: Session, left: Path, right: Path) -> None:
    examples = [session.file(left), session.file(right)]
    layers = session.args.columns or existing_layers(session.model, COMPARED)
    for layer in layers:
        if layer.startswith(KERNELS):
            raise InputError(f"--columns {layer}: kernels are the same for both pictures; give layers alone")
    answers, acts = zip(*(look(session.model, e, session.about["classes"], layers) for e in examples), strict=True)
    for layer, maps in acts[0].items():
        if maps.shape[1:] == (1, 1):
            raise InputError(f"--columns {layer}: puts out single values, no maps; give an earlier layer")
    path = session.args.out / f"compare_{examples[0].folder}_{examples[1].folder}.png"
    comparison_pages.compare(path, answers, acts, session.model, session.detail)
    for letter, answer in zip("AB", answers, strict=True):
        print(f"{letter}  {said(answer)}")
    print(f"written: {path}")


def draw_training(session: Session) -> None:
    args, model = session.args, session.model
    specs = args.columns or TRAINED
    for name in named(specs):
        layer = find_layer(model, name)[0]
        if layer == "base_model" or model.is_frozen(layer):
            raise InputError(f"--columns {name}: is frozen and does not change; give layers that are trained")
    snapshots = checkpoint.find_snapshots(session.run)
    if len(args.images) + len(args.index) > 1:
        raise InputError("--training follows one picture; give one")
    (example,) = session.examples()
    with torch.inference_mode():
        maps = model.frozen(example.input[None].to(session.device))  # once
    checkpoint.load_snapshot(list(snapshots.values())[-1], model)
    _, acts = look_at_head(session, maps, example, named(specs))
    columns = make_columns(model, specs, acts, args.rows or 3)
    convs = {column.layer: column.module for column in columns if column.is_kernels}
    answers, history, start = [], [], {}
    distances: dict[str, list[float]] = {layer: [] for layer in convs}
    for path in tqdm(list(snapshots.values()), "snapshots", unit=" epochs"):
        checkpoint.load_snapshot(path, model)
        answer, acts = look_at_head(session, maps, example, named(specs))
        answers.append(answer)
        history.append({c.spec: shown_values(c, acts[c.layer]).numpy() for c in columns})
        start = start or {layer: conv.weight.detach().clone() for layer, conv in convs.items()}
        for layer, conv in convs.items():
            distances[layer].append(relative_distance(conv.weight.detach(), start[layer]))
    path = args.out / f"training_{session.run.name}_{example.folder}.png"
    detail = f"{session.about['dataset']} · run {session.run.name}"
    comparison_pages.training(path, answers, columns, history, distances, list(snapshots), detail)
    print(f"{said(answers[-1])} after the last epoch\nwritten: {path}")


def look_at_head(
    session: Session, maps: Tensor, example: Example, layers: Sequence[str]
) -> tuple[Prediction, dict[str, Tensor]]:
    """As `look`, from the maps of what is frozen on."""
    leaves = [layer for layer in leaf_layers(session.model) if not session.model.is_frozen(layer)]
    with torch.inference_mode(), record(session.model, [*leaves, *layers]) as acts:
        logits = session.model.rest(maps)
    probabilities = session.model.probabilities(logits[0]).cpu().numpy()
    return Prediction(example, session.about["classes"], probabilities), as_maps(acts)


def said(answer: Prediction) -> str:
    """A picture's name, how to choose it again, and the answer."""
    again = "" if answer.example.index is None else f" (--index {answer.example.index})"
    return f"{answer.example.name}{again}: {answer.words}"


def draw_dead_units(session: Session, count: int) -> None:
    """Every ReLU, over test pictures drawn by the seed."""
    args, about, model = session.args, session.about, session.model
    names = list(session.digests)
    if count > len(names):
        raise InputError(f"--dead-units {count}: the test set has {len(names)} pictures")
    chosen = np.random.default_rng(args.seed or 0).permutation(len(names))[:count]
    data = read_dataset(args.data or Path(about["data"]))
    samples = find_split_images(data, [names[i] for i in chosen], session.digests, about["classes"], args.cache)
    pictures = HarDataset(samples, about["classes"], EvalTransform(about["image_size"]))
    loader = DataLoader(pictures, BATCH, num_workers=pick_workers(session.device, args.workers))
    layers = [name for name in leaf_layers(model) if isinstance(model.get_submodule(name), torch.nn.ReLU)]
    with tqdm(total=count, desc="dead units", unit=" images") as bar:
        batches = (images for images, _ in shown(to_device(loader, session.device), bar))
        counts, seen = activation_counts(model, batches, layers)
    path = args.out / f"dead_units_{session.run.name}.png"
    heading = f"Channels that never fire on {seen} test pictures"
    found = layer_pages.dead_units(path, heading, session.detail, counts, seen)
    dead = sum(len(row["dead"]) for row in found.values())
    channels = sum(row["channels"] for row in found.values())
    print(f"{dead} of the {channels} channels of {len(found)} ReLU calls fire in none of {seen} pictures")
    print(f"written: {path}")


def draw_network(folder: Path, model: ActionNet, size: int, words: str) -> None:
    network_page.network(folder / "network.png", model, size, words)
    print(f"written: {folder / 'network.png'}")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
