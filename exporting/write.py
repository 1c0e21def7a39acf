"""Exports a run: writes its network in other formats, compares them with PyTorch, describes them."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset import EvalTransform, Sample
from exporting.graph import NAMES, OPSET, Portable, in_batches, open_graph, quantise, write_graph
from layouts.parts import EXAMPLES
from runtime.errors import InputError
from runtime.files import write_folder, write_json, write_text
from runtime.images import image_files, load_image
from runtime.status import Progress, say, track
from runtime.text import wrap
from runtime.version import commit
from training.trained_run import TrainedRun

COMPARED = 32  # images
CALIBRATION = 64  # images
BOUND = 1e-3  # largest difference of probabilities from PyTorch's
BATCH = 8
CARD = """\
# {title}

* From: {run}
* By: `{command}`, commit {commit}
* Input `images`, batches of any size: {input}; the largest centre square of an RGB image, resized to {size} × {size}
  (bilinear, antialiased)
* Output: calibrated probabilities (temperature {temperature:.3f}) of the {classes} `classes` in `export.json`
{files}

```python
{code}
```
"""
CODE = {
    "onnx": """\
import onnxruntime
network = onnxruntime.InferenceSession("{file}")
probabilities = network.run(None, {{"images": images}})[0]  # of a NumPy array""",
    "program": """\
import torch
network = torch.export.load("{file}").module()
probabilities = network(images)  # of a tensor""",
}


def export_run(run: TrainedRun, form: str, preprocessing: bool, int8: bool, command: str) -> None:
    """Writes results/<run>/export/.

    Args:
        form: "onnx" or "program".
        int8: also write int8 ONNX, calibrated on training images, and test both on the run's test set.

    Raises: InputError where the network cannot be converted, or differs from PyTorch's by more than `BOUND`.
    """
    samples = {part: run.samples(part) for part in ("train", "test")} if int8 else {}  # fails before the work
    network = Portable(run.model, preprocessing)
    images, source = some_images(run)
    about: dict[str, Any] = {"run": run.detail, "classes": run.classes, "image_size": run.image_size, "files": {}}
    about |= {"temperature": run.model.temperature, "preprocessing_inside": preprocessing, "compared_on": source}
    about |= {"versions": versions(form), "commit": commit()} | ({"opset": OPSET} if form == "onnx" else {})
    with write_folder(run.folder / "export") as partial:
        path = partial / NAMES[form]
        write_graph(network, images[:2], path)
        difference = largest_difference(network, path, images)
        if difference > BOUND:
            raise InputError(f"{path.name}: probabilities differ by {difference:.2g} from PyTorch's; not written")
        megabytes = f"{path.stat().st_size / 1e6:.1f} MB"
        print(f"{path.name}: {megabytes}, probabilities differ by {difference:.1e} at most on {source}")
        about["files"][path.name] = {"bytes": path.stat().st_size, "largest_difference": difference}
        if int8:
            about["files"] |= add_int8(run, network, partial, samples, images)
        write_json(partial / "export.json", about)
        write_text(partial / "README.md", card(run, about, form, command))
    folder = run.folder / "export"
    say(wrap(f"written: {folder}/: {' '.join(sorted(path.name for path in folder.iterdir()))}"))


def add_int8(
    run: TrainedRun, network: Portable, folder: Path, samples: dict[str, list[Sample]], images: Tensor
) -> dict[str, Any]:
    """Writes int8 ONNX; returns what `export.json` says of it and of the float network, by file."""
    path, whole = folder / NAMES["int8"], folder / NAMES["onnx"]
    order = np.random.default_rng(0).permutation(len(samples["train"]))[:CALIBRATION]
    chosen = track([samples["train"][index] for index in order], "calibrate")
    with TemporaryDirectory(dir=folder.parent) as scratch:  # ONNX Runtime writes its statistics beside the file
        quantise(whole, Path(scratch) / path.name, (network.input_of(crops(run, [sample])) for sample in chosen))
        (Path(scratch) / path.name).replace(path)
    found = {}
    for file in (whole, path):
        found[file.name] = {
            "bytes": file.stat().st_size, "largest_difference": largest_difference(network, file, images),
            "test_accuracy": accuracy(run, network, file, samples["test"]), "test_images": len(samples["test"]),
        }  # fmt: skip
        row = found[file.name]
        tested = f"test accuracy {row['test_accuracy']:.4f} on {row['test_images']} images"
        print(f"{file.name}: {row['bytes'] / 1e6:.1f} MB, {tested}")
    return found


def accuracy(run: TrainedRun, network: Portable, path: Path, samples: Sequence[Sample]) -> float:
    graph, right = open_graph(path), 0
    with Progress(f"test {path.name}", len(samples)) as progress:
        for batch in in_batches(samples, BATCH):
            found = graph(network.input_of(crops(run, batch))).argmax(1)
            right += sum(run.classes[k] == sample.label for k, sample in zip(found, batch, strict=True))
            progress.update(len(batch))
    return right / len(samples)


def largest_difference(network: Portable, path: Path, images: Tensor) -> float:
    """Largest difference of probabilities from PyTorch's, one by one and in a batch."""
    graph, expected = open_graph(path), network.reference(images).numpy()
    found = [graph(network.input_of(part)) for part in (images[:1], images[1:])]
    return float(np.abs(np.concatenate(found) - expected).max())


def some_images(run: TrainedRun) -> tuple[Tensor, str]:
    """Crops (B, 3, S, S) uint8 of the first test images, else of the example photographs, and what they are."""
    try:
        samples = run.samples("test", list(run.split["test"])[:COMPARED])
        return crops(run, samples), f"{len(samples)} test images"
    except InputError:
        files = image_files(EXAMPLES)
        samples = [Sample(file.name, file, None) for file in files]
        return crops(run, samples), f"{len(samples)} example photographs"


def crops(run: TrainedRun, samples: Sequence[Sample]) -> Tensor:
    view = EvalTransform(run.image_size)
    return torch.stack([view(load_image(sample.path, view.min_side)) for sample in samples])


def versions(form: str) -> dict[str, str]:
    names = ("torch", "onnx", "onnxruntime") if form == "onnx" else ("torch",)
    return {name: importlib.metadata.version(name) for name in names}


def card(run: TrainedRun, about: dict[str, Any], form: str, command: str) -> str:
    lines = []
    for name, row in about["files"].items():
        tested = "test_images" in row and f"; test accuracy {row['test_accuracy']:.2%} on {row['test_images']} images"
        difference = f"probabilities differ from PyTorch's by {row['largest_difference']:.1e} at most"
        lines.append(f"* `{name}`: {row['bytes'] / 1e6:.1f} MB; {difference} ({about['compared_on']}){tested or ''}")
    size = run.image_size
    pixels = f"pixels (B, {size}, {size}, 3) uint8"
    tensor = f"(B, 3, {size}, {size}) float32, normalised by ImageNet's mean and standard deviation"
    values = {"title": run.called.capitalize(), "run": run.detail, "command": command, "commit": about["commit"]}
    values |= {"classes": len(run.classes), "temperature": run.model.temperature, "size": size}
    values |= {"input": pixels if about["preprocessing_inside"] else tensor, "files": "\n".join(lines)}
    return CARD.format(**values, code=CODE[form].format(file=NAMES[form]))
