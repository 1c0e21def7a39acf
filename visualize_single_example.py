"""Shows everything that a trained network does with one picture.

    python visualize_single_example.py                      a random picture of the newest run's test set
    python visualize_single_example.py --index 12           that one of the test set
    python visualize_single_example.py --image FILE         any picture
    python visualize_single_example.py --layers base_model_layer1_block1_conv1 relu2 --channels 3 17
    python visualize_single_example.py --all-layers

Writes the folder activations/<picture>/, whole or not at all: overview.png (the story on a page), cam.png,
originalimage_<id>.png, probabilities_<id>.png, activation_epoch<E>_batch<id>_layer_<name>.png, kernels_<name>.png,
histograms.png, gradients.png (where the true class is known), beside each its numbers as .npy or .json; manifest.json
lists them.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from figures import example as example_pages
from figures import layers as layer_pages
from figures.example import Attribution, Prediction
from hooks import as_maps, describe_layer, existing_layers, friendly, leaf_layers, module_of, record
from inspection import attribution
from inspection.examples import Example, file_example, load_test_examples
from inspection.layer_stats import KernelView, histogram, most_active
from model import ActionNet
from runtime.console import run_script
from runtime.device import pick_device
from runtime.errors import InputError
from runtime.files import write_array, write_folder, write_json
from training import checkpoint

LAYERS = (
    "base_model.conv1", "base_model.layer1.0.conv1", "base_model.layer1.0.conv2", "base_model.layer1.0.relu#2",
    "base_model.layer2", "base_model.layer3", "base_model", "conv1", "relu1", "conv2", "relu2", "avgpool", "fc",
)  # fmt: skip
CAM_LAYERS = ("base_model", "relu2")
MANIFEST = "manifest.json"


@dataclass
class Args:
    run: str = ""
    """Name of the run. Without it: the newest."""
    index: int | None = None
    """Position of the picture in the run's test set. Without it: a random one."""
    seed: int | None = None
    """Makes the random choice repeatable."""
    image: Path | None = None
    """A picture file instead of one of the test set."""
    true_class: str | None = None
    """With --image: its true class, if it is known."""
    layers: tuple[str, ...] = ()
    """Layers to show, as `base_model.layer1.0.conv1` or `base_model_layer1_block1_conv1`; `relu#2` is a second call.
    Without it, some of every depth."""
    all_layers: bool = False
    """Show every layer."""
    channels: tuple[int, ...] = ()
    """Channels to show where a layer has them. Without it, and where it has none of them: the most active ones."""
    tiles: int = 24
    """How many of the most active channels to show."""
    kernels: KernelView = "norm"
    """What a tile shows of a kernel with other inputs than RGB: over those the L2 norm or the mean, or the first."""
    attribution: Literal["occlusion", "integrated-gradients", "none"] = "occlusion"
    """What cam.png shows beside Grad-CAM; both take some seconds."""
    data: Path | None = None
    """Where the run's dataset lies now. Without it: where it lay in training."""
    out: Path = Path("activations")
    """Folder that the picture's own folder goes into."""
    device: str = "auto"
    cache: Path = Path("data/cache")
    results: Path = Path("results")


@dataclass
class Look:
    """A network's view of one example: what the pictures are made from."""

    args: Args
    run: Path
    model: ActionNet
    about: dict[str, Any]  # the run's record
    answer: Prediction
    acts: dict[str, Tensor]  # (C, h, w) by layer
    gradients: dict[str, Tensor]
    stats: dict[str, dict[str, Any]] = field(default_factory=dict)  # histograms of both, by layer

    @property
    def example(self) -> Example:
        return self.answer.example

    @property
    def detail(self) -> str:
        return f"{self.about['dataset']} · run {self.run.name}, epoch {self.about['epoch']} · {self.about['weights']}"


def main(args: Args) -> None:
    check(args)
    device = pick_device(args.device)
    run = checkpoint.find_run(args.results, args.run)
    model, about, split = checkpoint.load_model(run, device)
    example = choose(args, about, split["test"])
    folder = args.out / example.folder
    check_folder(folder, example)
    begin = time.perf_counter()
    look = look_at(args, run, model, about, example)
    with write_folder(folder) as partial, ThreadPoolExecutor(1) as pool:
        rows = pool.submit(attribute, args, model, look.answer)  # PyTorch leaves the interpreter to the drawing
        draw_layers(look, partial)
        draw_example(look, rows.result(), partial)
        seconds = round(time.perf_counter() - begin, 2)
        write_json(partial / MANIFEST, describe(look, rows.result(), partial) | {"seconds": seconds})
    pictures = len(list(folder.glob("*.png")))
    print(f"{example.name}: {look.answer.words}")
    print(f"written: {folder}/: {pictures} pictures with their numbers in {seconds:.1f} s; see overview.png first")
    if example.index is not None:
        print(f"the same picture again: --index {example.index}")


def check(args: Args) -> None:
    chosen = [name for name in ("index", "seed", "image") if getattr(args, name) is not None]
    if len(chosen) > 1:
        raise InputError(f"--{chosen[0]} and --{chosen[1]} both choose the picture; give one of them")
    if args.true_class is not None and args.image is None:
        raise InputError("--true-class goes with --image; the test set's classes are known")
    if args.image is not None and not args.image.is_file():
        raise InputError(f"--image {args.image}: no such file")
    for name, value, least in (("tiles", args.tiles, 1), ("seed", args.seed or 0, 0)):
        if value < least:
            raise InputError(f"--{name} {value}: must be {least} or more")
    for channel in args.channels:
        if channel < 0:
            raise InputError(f"--channels {channel}: channels count from 0")


def choose(args: Args, about: dict[str, Any], digests: dict[str, str]) -> Example:
    """The example that the arguments ask for."""
    if args.image is not None:
        if args.true_class is not None and args.true_class not in about["classes"]:
            raise InputError(f"--true-class {args.true_class}: the run knows {', '.join(about['classes'])}")
        return file_example(args.image, about["image_size"], args.true_class)
    index = args.index
    if index is None:
        index = int(np.random.default_rng(args.seed).integers(len(digests)))
    return load_test_examples([index], about, digests, args.data, args.cache)[0]


def check_folder(folder: Path, example: Example) -> None:
    """Raises: InputError where the folder holds something else than an earlier look at the same picture."""
    if not folder.exists():
        return
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        same, ours = known["sha256"] == example.sha256, {MANIFEST, *known["files"], *known["files"].values()}
    except (OSError, ValueError, KeyError):
        same, ours = True, set()
    foreign = sorted({path.name for path in folder.iterdir()} - ours)
    what = "another picture of that name" if not same else f"a file that is not ours ({foreign[0]})" if foreign else ""
    if what:
        raise InputError(f"{folder}: holds {what}; move it away, or give another folder with --out")


def look_at(args: Args, run: Path, model: ActionNet, about: dict[str, Any], example: Example) -> Look:
    """Runs the network forward and, where the true class is known, back."""
    layers = leaf_layers(model) if args.all_layers else args.layers or existing_layers(model, LAYERS)
    classes, known = about["classes"], example.true in about["classes"]
    images = example.input[None].to(next(model.parameters()).device).requires_grad_(known)  # (1, 3, S, S)
    with torch.set_grad_enabled(known), record(model, layers, gradients=known) as acts:
        logits = model(images)  # (1, K)
        if known:
            target = torch.tensor([classes.index(example.true)], device=logits.device)
            nn.functional.cross_entropy(logits, target).backward()
    model.zero_grad(set_to_none=True)
    probabilities = model.probabilities(logits.detach()[0]).cpu().numpy()
    answer = Prediction(example, classes, probabilities)
    maps = as_maps(acts)
    check_channels(args.channels, maps)
    gradients = as_maps({layer: acts.gradients[layer] for layer in acts if layer in acts.gradients})
    return Look(args, run, model, about, answer, maps, gradients)


def check_channels(channels: Sequence[int], acts: dict[str, Tensor]) -> None:
    most = max(len(maps) for maps in acts.values())
    for channel in channels:
        if channel >= most:
            raise InputError(f"--channels {channel}: the layers shown have {most} channels at the most, from 0")


def attribute(args: Args, model: ActionNet, answer: Prediction) -> list[Attribution]:
    """Maps for the predicted class and for the true one; where they are the same or it is unknown, the runner-up."""
    order = np.argsort(-answer.probabilities, kind="stable").tolist()
    chosen = [(order[0], "predicted and true" if answer.predicted == answer.example.true else "predicted")]
    if answer.example.true in (None, answer.predicted):
        chosen.append((order[1], "runner-up"))
    else:
        chosen.append((answer.classes.index(answer.example.true), "true"))
    targets = [target for target, _ in chosen]
    image = answer.example.input.to(next(model.parameters()).device)
    maps: list[dict[str, np.ndarray]] = [{} for _ in chosen]
    for layer in CAM_LAYERS:
        for row, target in zip(maps, targets, strict=True):
            row[f"Grad-CAM · {layer}"] = attribution.grad_cam(model, layer, image, target).numpy()
    if args.attribution != "none":
        method = {"occlusion": attribution.occlusion, "integrated-gradients": attribution.integrated_gradients}
        for row, values in zip(maps, method[args.attribution](model, image, targets), strict=True):
            row[args.attribution.replace("-", " ")] = values.numpy()
    return [
        Attribution(answer.classes[target], role, float(answer.probabilities[target]), row)
        for (target, role), row in zip(chosen, maps, strict=True)
    ]


def draw_layers(look: Look, folder: Path) -> None:
    """Activations and kernels of every layer, and how their values are spread."""
    about = f"{look.example.label} · {look.answer.words} · {look.detail}"
    look.stats["activations"] = {layer: histogram(maps) for layer, maps in look.acts.items()}
    if look.gradients:
        look.stats["gradients"] = {layer: histogram(maps) for layer, maps in look.gradients.items()}
    headings = {
        "activations": ("histograms", "Activation values by layer"),
        "gradients": ("gradients", f"Gradients of the loss for {look.example.true}, by layer"),
    }
    for kind, stats in look.stats.items():
        name, heading = headings[kind]
        layer_pages.histograms(folder / f"{name}.png", heading, about, stats, kind)
    for layer, maps in tqdm(look.acts.items(), "draw layers", unit=" layers", leave=False):
        draw_layer(look, folder, layer, maps, about)


def draw_layer(look: Look, folder: Path, layer: str, maps: Tensor, about: str) -> None:
    module = module_of(look.model, layer)
    path = folder / f"activation_epoch{look.about['epoch']}_batch{look.example.id}_layer_{friendly(layer)}.png"
    shape = " × ".join(map(str, maps.shape))
    heading = f"{layer} · {describe_layer(module)} · {shape}"
    if module is look.model.fc:
        values = maps[:, 0, 0].numpy()
        write_array(path.with_suffix(".npy"), values)
        layer_pages.vector(path, f"{heading} (logits)", about, values, look.answer.classes)
        return
    channels = shown_channels(look.args, maps)
    order = "as chosen" if set(channels) <= set(look.args.channels) else "most active first"
    layer_pages.activations(path, heading, about, maps, channels, order)
    if isinstance(module, nn.Conv2d):
        heading = f"Kernels of {layer} · {describe_layer(module)}"
        kernels = folder / f"kernels_{friendly(layer)}.png"
        layer_pages.kernels(kernels, heading, module, look.args.kernels, channels)


def draw_example(look: Look, rows: Sequence[Attribution], folder: Path) -> None:
    """The picture, its probabilities, what spoke for the class, and the overview."""
    answer, detail, id = look.answer, look.detail, look.example.id
    example_pages.original(folder / f"originalimage_{id}.png", answer, detail)
    example_pages.probabilities(folder / f"probabilities_{id}.png", answer, detail)
    example_pages.attributions(folder / "cam.png", answer, rows, detail)
    path = folder / "overview.png"
    example_pages.overview(path, answer, look.model, look.acts, rows, look.stats, detail)


def shown_channels(args: Args, maps: Tensor) -> list[int]:
    """The channels that the arguments choose, as far as the layer has them, else its most active ones."""
    there = [channel for channel in dict.fromkeys(args.channels) if channel < len(maps)]
    return there or most_active(maps, args.tiles)


def describe(look: Look, rows: Sequence[Attribution], folder: Path) -> dict[str, Any]:
    """What `manifest.json` holds."""
    files = {}
    for picture in sorted(folder.glob("*.png")):
        numbers = [picture.with_suffix(suffix).name for suffix in (".npy", ".json")]
        files[picture.name] = next((name for name in numbers if (folder / name).exists()), MANIFEST)
    layers = {
        layer: {"shape": list(maps.shape), "channels": shown_channels(look.args, maps)}
        for layer, maps in look.acts.items()
    }
    return {
        "image": look.example.name,
        "index": look.example.index,
        "sha256": look.example.sha256,
        "true": look.example.true,
        "predicted": look.answer.predicted,
        "probabilities": example_pages.by_class(look.answer),
        "run": look.run.name,
        **{key: look.about[key] for key in ("dataset", "weights", "epoch", "image_size", "preprocessing")},
        "layers": layers,
        "cam": [{"class": row.name, "role": row.role, "methods": list(row.maps)} for row in rows],
        "files": files,
    }


if __name__ == "__main__":
    run_script(main, Args, __doc__)
