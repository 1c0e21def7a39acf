"""Shows everything that a trained network does with one image.

    python visualize_single_example.py                      a random test image
    python visualize_single_example.py --index 12           that test image
    python visualize_single_example.py IMAGE                any image
    python visualize_single_example.py --layers base_model_layer1_block1_conv1 relu2 --channels 3 17
    python visualize_single_example.py --all-layers

Writes the folder activations/<image>/, all of it or nothing: overview.png (everything on one page), cam.png
(attributions), originalimage_<id>.png, probabilities_<id>.png, activation_epoch<E>_batch<id>_layer_<name>.png,
kernels_epoch<E>_batch<id>_layer_<name>.png, histograms_epoch<E>_batch<id>.png, gradients.png (where the true class is
known), with their numbers as .npy, .npz or .json, and manifest.json, which lists them. --format pdf or
svg writes those instead of .png.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.console import parse_arguments, run_script, suggest
from runtime.errors import InputError
from runtime.options import FigureOptions, KernelView, require_range, same_run


@dataclass
class Args(FigureOptions):
    file: Path | None = field(default=None, metadata={"positional": "IMAGE"})
    """An image file. Default: a test image."""
    index: int | None = None
    """Position of the image in the run's test set. Default: a random one."""
    seed: int | None = None
    """Makes the random choice repeatable."""
    image: Path | None = None
    """The same as IMAGE."""
    true_class: str | None = None
    """With IMAGE: its true class, if it is known."""
    layers: tuple[str, ...] = ()
    """Layers to show, as `base_model.layer1.0.conv1` or `base_model_layer1_block1_conv1`; `relu#2` is a second call.
    Default: some of every depth."""
    all_layers: bool = False
    """Show every layer."""
    channels: tuple[int, ...] = ()
    """Channels to show where a layer has them. Default, and where it has none of them: the most active ones, of a
    convolution those of the ReLU after it."""
    tiles: int = 24
    """How many of the most active channels to show."""
    kernels: KernelView = "strongest"
    """Kernels whose input is not RGB: slices for the strongest input channels, or one tile each: L2 norm or mean over
    the input channels, or the slice for the first one."""
    attribution: Literal["occlusion", "integrated-gradients", "none"] = "occlusion"
    """Shown in cam.png beside Grad-CAM; both take some seconds."""
    out: Path = Path("activations")
    """Folder for the image's own folder."""


def check(args: Args) -> None:
    """Raises InputError on wrong arguments."""
    ways = {"IMAGE": args.file, "--image": args.image, "--index": args.index, "--seed": args.seed}
    chosen = [name for name, value in ways.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(f"{chosen[0]} and {chosen[1]} both choose the image; give one of them")
    image = args.file or args.image
    if args.true_class is not None and image is None:
        raise InputError("--true-class goes with IMAGE; the classes of test images are known")
    if image is not None and not image.is_file():
        raise InputError(f"{image}: no such file")
    require_range("tiles", args.tiles, 1)
    require_range("seed", args.seed, 0)
    require_range("dpi", args.dpi, 30, 600)
    for channel in args.channels:
        if channel < 0:
            raise InputError(f"--channels {channel}: channels count from 0")


if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__, check)  # before the imports below, which take seconds

import copy
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from hooks import Recording, dump, record
from inspection.channels import most_active, ranked_maps
from inspection.examples import Example, Prediction
from inspection.layer_names import as_maps, existing_layers, leaf_layers
from inspection.layer_stats import histogram
from model import ActionNet
from runtime.device import pick_device
from runtime.files import write_folder, write_json
from training.trained_run import TrainedRun, load_run

if TYPE_CHECKING:
    from figures.example import Attribution  # matplotlib takes a second

LAYERS = (
    "base_model.conv1", "base_model.layer1.0.conv1", "base_model.layer1.0.conv2", "base_model.layer1.0.relu#2",
    "base_model.layer2", "base_model.layer3", "base_model", "conv1", "relu1", "conv2", "relu2", "avgpool", "fc",
)  # fmt: skip
CAM_LAYERS = ("base_model", "relu2")
MANIFEST = "manifest.json"


def main(args: Args) -> None:
    # Now and not in a thread: captum imports IPython, which Matplotlib must not find half imported.
    import inspection.attribution  # noqa: F401
    from figures.page import resolution

    check(args)
    run = load_run(args, pick_device(args.device))
    example = choose(args, run)
    folder = args.out / example.folder
    check_folder(folder, example)
    begin = time.perf_counter()
    layers = leaf_layers(run.model) if args.all_layers else args.layers or existing_layers(run.model, LAYERS)
    prediction = predict(args, run, example, layers)
    with write_folder(folder) as partial, resolution(args.dpi), ThreadPoolExecutor(1) as pool:
        # Runs while plots are drawn; on a copy of the model, since captum's passes would trigger dump's hooks.
        attributions = pool.submit(attribute, args, copy.deepcopy(run.model), prediction)
        acts, stats = draw_layers(args, run, prediction, layers, partial)
        rows = attributions.result()
        draw_example(args, run, prediction, acts, stats, rows, partial)
        seconds = round(time.perf_counter() - begin, 2)
        manifest = describe(args, run, prediction, acts, rows, partial) | {"seconds": seconds}
        write_json(partial / MANIFEST, manifest)
    images = len(list(folder.glob(f"*.{args.format}")))
    print(f"{example.reference}: {prediction.summary}")
    written = f"{images} images with their numbers in {seconds:.1f} s"
    print(f"written: {folder}/: {written}; see overview.{args.format} first")
    image = [example.name] if example.index is None else ["--index", example.index]
    suggest("visualize_activations.py", *same_run(args), *image)


def choose(args: Args, run: TrainedRun) -> Example:
    """The example that the arguments ask for."""
    image = args.file or args.image
    if image is not None:
        if args.true_class is not None and args.true_class not in run.classes:
            raise InputError(f"--true-class {args.true_class}: the run knows {', '.join(run.classes)}")
        return run.file_example(image, args.true_class)
    return run.random_example(args.seed) if args.index is None else run.test_examples([args.index])[0]


def check_folder(folder: Path, example: Example) -> None:
    """Raises InputError where the folder holds something else than an earlier output for the same image."""
    if not folder.exists():
        return
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        same, ours = known["sha256"] == example.sha256, {MANIFEST, *known["files"], *known["files"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        same, ours = True, set()
    foreign = sorted({path.name for path in folder.iterdir()} - ours)
    what = "another image of that name" if not same else f"a file that is not ours ({foreign[0]})" if foreign else ""
    if what:
        raise InputError(f"{folder}: holds {what}; move it away, or give another folder with --out")


@torch.inference_mode()
def predict(args: Args, run: TrainedRun, example: Example, layers: Sequence[str]) -> Prediction:
    """Predicts the class. Raises: InputError naming a layer that the model lacks, or a channel that all layers lack."""
    with record(run.model, layers) as acts:
        logits = run.model(example.input[None].to(run.device))  # (1, K)
    most = max(len(values) for values in as_maps(acts).values())
    for channel in args.channels:
        if channel >= most:
            raise InputError(f"--channels {channel}: the layers shown have at most {most} channels, counted from 0")
    return run.prediction(example, logits)


def draw_layers(
    args: Args, run: TrainedRun, prediction: Prediction, layers: Sequence[str], folder: Path
) -> tuple[Recording, dict[str, dict[str, Any]]]:
    """Plots the layers; returns their outputs, and histograms of these and of gradients by layer."""
    from figures import layers as layer_figures

    example, model = prediction.example, run.model
    known = example.true in run.classes
    images = example.input[None].to(run.device).requires_grad_(known)  # (1, 3, S, S)
    about = f"{example.label} · {prediction.summary} · {run.detail}"
    style = {"channels": args.channels, "tiles": args.tiles, "kernels": args.kernels, "classes": run.classes}
    style |= {"format": args.format, "dpi": args.dpi}
    prefix = f"epoch{run.record['epoch']}_batch{example.id}"
    with (
        torch.set_grad_enabled(known),
        dump(model, layers, folder, prefix=prefix, gradients=known, detail=about, **style) as acts,
    ):
        logits = model(images)  # (1, K)
        if known:
            target = torch.tensor([run.classes.index(example.true)], device=logits.device)
            cross_entropy(logits, target).backward()
    model.zero_grad(set_to_none=True)
    gradients = as_maps({layer: acts.gradients[layer] for layer in acts if layer in acts.gradients})
    stats = {"activations": json.loads((folder / f"histograms_{prefix}.json").read_text(encoding="utf-8"))}
    if gradients:
        heading = f"Gradients of the loss for {example.true}, by layer"
        stats["gradients"] = {layer: histogram(values) for layer, values in gradients.items()}
        layer_figures.histograms(folder / f"gradients.{args.format}", heading, about, stats["gradients"], "gradients")
    return acts, stats


def attribute(args: Args, model: ActionNet, prediction: Prediction) -> list["Attribution"]:
    """Maps for the predicted class and the true one; for the runner-up where these are the same or it is unknown."""
    from figures.example import Attribution
    from inspection import attribution  # captum takes a second

    order = np.argsort(-prediction.probabilities, kind="stable").tolist()
    true = prediction.example.true
    chosen = [(order[0], "predicted and true" if prediction.predicted == true else "predicted")]
    if true in (None, prediction.predicted):
        chosen.append((order[1], "runner-up"))
    else:
        chosen.append((prediction.classes.index(true), "true"))
    targets = [target for target, _ in chosen]
    image = prediction.example.input.to(next(model.parameters()).device)
    maps: list[dict[str, np.ndarray]] = [{} for _ in chosen]
    for layer in CAM_LAYERS:
        for row, target in zip(maps, targets, strict=True):
            row[f"Grad-CAM · {layer}"] = attribution.grad_cam(model, layer, image, target).numpy()
    if args.attribution != "none":
        method = {"occlusion": attribution.occlusion, "integrated-gradients": attribution.integrated_gradients}
        for row, values in zip(maps, method[args.attribution](model, image, targets), strict=True):
            row[args.attribution.replace("-", " ")] = values.numpy()
    return [
        Attribution(prediction.classes[target], role, float(prediction.probabilities[target]), row)
        for (target, role), row in zip(chosen, maps, strict=True)
    ]


def draw_example(
    args: Args,
    run: TrainedRun,
    prediction: Prediction,
    acts: Recording,
    stats: dict[str, dict[str, Any]],
    rows: Sequence["Attribution"],
    folder: Path,
) -> None:
    """The image, its probabilities, attributions, and the overview."""
    from figures import example as example_figures

    detail, id, ranked = run.detail, prediction.example.id, ranked_maps(acts, acts.ranking)
    example_figures.original(folder / f"originalimage_{id}.{args.format}", prediction, detail)
    example_figures.probabilities(folder / f"probabilities_{id}.{args.format}", prediction, detail)
    example_figures.attributions(folder / f"cam.{args.format}", prediction, rows, detail)
    channels = {layer: most_active(run.model, layer, ranked, example_figures.STRIP) for layer in acts}
    page = folder / f"overview.{args.format}"
    example_figures.overview(page, prediction, run.model, as_maps(acts), channels, rows, stats, detail)


def describe(
    args: Args,
    run: TrainedRun,
    prediction: Prediction,
    acts: Recording,
    rows: Sequence["Attribution"],
    folder: Path,
) -> dict[str, Any]:
    """The content of `manifest.json`."""
    from figures.dump import shown_channels

    files = {}
    for image in sorted(folder.glob(f"*.{args.format}")):
        numbers = [image.with_suffix(suffix).name for suffix in (".npy", ".npz", ".json")]
        files[image.name] = next((name for name in numbers if (folder / name).exists()), MANIFEST)
    ranked = ranked_maps(acts, acts.ranking)
    layers = {
        layer: {
            "shape": list(ranked[layer].shape),
            "channels": shown_channels(run.model, layer, ranked, args.channels, args.tiles),
        }
        for layer in acts
    }
    example = prediction.example
    return {
        "image": example.name,
        "index": example.index,
        "sha256": example.sha256,
        "true": example.true,
        "predicted": prediction.predicted,
        "probabilities": prediction.by_class,
        "run": run.name,
        **{key: run.record[key] for key in ("dataset", "weights", "epoch", "image_size", "preprocessing")},
        "layers": layers,
        "cam": [{"class": row.name, "role": row.role, "methods": list(row.maps)} for row in rows],
        "files": files,
    }


if __name__ == "__main__":
    run_script(main, ARGS)
