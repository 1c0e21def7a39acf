"""Files of a run: the only module that knows their format.

results/<run>/best.pt       whole network at its best epoch, and the record; opens with weights_only=True
results/<run>/best.json     the record, readable
results/<run>/last.pt       head, optimiser and schedule after the last epoch, for --resume
results/<run>/split.json    file names by part
results/<run>/metrics.jsonl one line per epoch
results/<run>/loss.png      learning curves; a run without them was interrupted
results/<run>/snapshots/    the head after each epoch, float16 (train.py --snapshots)
"""

import json
import platform
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.names import RESNET
from backbones.packed import PRETRAINED, read_packed, write_packed
from dataset import IMAGENET_MEAN, IMAGENET_STD
from layers.conv3x3 import accelerate
from model import ActionNet
from runtime.errors import InputError, first_line, naming
from runtime.files import check_archive, read_text, write_atomically, write_json
from training.checks import PREPROCESSING_VERSION, SplitDigests, check_record, check_split, check_tensors, upgrade

BEST, LAST, RECORD, SPLIT, METRICS = "best.pt", "last.pt", "best.json", "split.json", "metrics.jsonl"
SNAPSHOTS, CURVES = "snapshots", "loss.png"  # the curves are drawn at the end of a training
PRETRAINED_NAME = "pretrained"  # what --run calls the network in this repository
FIX = "give another run, or train it again"


def preprocessing(image_size: int) -> dict[str, Any]:
    """What `dataset.EvalTransform` and `normalise` do, for readers of a checkpoint; only `version` is compared."""
    return {
        "version": PREPROCESSING_VERSION,
        "image_size": image_size,
        "crop": "centre crop of the short side",
        "resize": "bilinear, antialiased",
        "colour": "RGB, 0..1",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    names = ("torch", "torchvision", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def save_best(
    run: Path, model: ActionNet, state: dict[str, Tensor], record: dict[str, Any], split: SplitDigests
) -> None:
    """Writes `best.pt` (backbone included, so that the file is all that is needed) and `best.json`.

    Args:
        state: the model's state dict, for all feature channels (`features.pca.full_state`).
    """
    parts = {"stride_on": model.stride_on, "unfreeze": model.unfreeze, "backbone": model.backbone}
    content = {"model": state, **parts, "record": record, "split": split}
    write_atomically(run / BEST, lambda partial: torch.save(content, partial))
    write_json(run / RECORD, record)


def load_model(run: Path, device: torch.device) -> tuple[ActionNet, dict[str, Any], SplitDigests]:
    """Returns a run's network, ready to predict, its record (keys of `best.json`) and its split.

    Raises: InputError where the file is damaged, or its images were preprocessed differently.
    """
    path = run / BEST
    return restore_model(read_checkpoint(path, device), device, path)


def save_pretrained(path: Path, model: ActionNet, about: dict[str, Any]) -> None:
    """Writes the network packed (`backbones.packed`).

    Args:
        about: JSON values beside it, with those of `save_best`, `record` and `split`, among them.
    """
    parts = {"stride_on": model.stride_on, "unfreeze": model.unfreeze, "backbone": model.backbone}
    write_packed(path, model.cpu().state_dict(), parts | about)


def load_pretrained(device: torch.device, path: Path = PRETRAINED) -> tuple[ActionNet, dict[str, Any], SplitDigests]:
    """As `load_model`, for the network in this repository."""
    state, about = read_packed(path)
    return restore_model({"model": state} | about, device, path)


def restore_model(
    content: dict[str, Any], device: torch.device, path: Path
) -> tuple[ActionNet, dict[str, Any], SplitDigests]:
    """The network, the record and the split in the content of a checkpoint; `path` names it in errors."""
    with naming(path, FIX):
        record = upgrade(content["record"])
        if record["preprocessing"]["version"] != PREPROCESSING_VERSION:
            raise InputError(f"{path}: trained with the preprocessing of another version; start a new run")
        record, split = check_record(record), check_split(content["split"])
    parts = {key: content[key] for key in ("stride_on", "unfreeze", "backbone") if key in content}
    library = parts.get("backbone", RESNET) != RESNET  # has tensors that no state dict holds
    with naming(path, FIX):
        with nullcontext() if library else torch.device("meta"):  # no time for weights that are replaced at once
            model = ActionNet(len(record["classes"]), **parts, size=record["image_size"])
        check_tensors(content["model"], model.state_dict())
        model.load_state_dict(content["model"], assign=not library)
    model.temperature = record.get("temperature", 1.0)
    model = accelerate(model).to(device, memory_format=torch.channels_last).eval()
    return model, record, split


def read_record(run: Path) -> dict[str, Any]:
    """The content of a run's `best.json`. Raises: InputError where it is damaged."""
    with naming(run / RECORD, FIX):
        return check_record(json.loads(read_text(run / RECORD)))


def read_about(results: Path, name: str) -> tuple[Path, dict[str, Any], SplitDigests]:
    """The folder, the record and the split of the run `name`, or of the pretrained network; not the network itself."""
    if name == PRETRAINED_NAME:
        run, path, content = results / name, PRETRAINED, read_packed(PRETRAINED)[1]
    else:
        run = find_run(results, name, option="RUN")
        path = run / BEST
        content = read_checkpoint(path, torch.device("cpu"))
    with naming(path, FIX):
        return run, check_record(content["record"]), check_split(content["split"])


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Opens a checkpoint safely. Raises: InputError where it cannot be read."""
    try:
        check_archive(path)
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # of damaged files, zipfile and torch raise almost anything
        what = first_line(error).partition(". ")[0]  # then torch says how to execute what is in the file
        raise InputError(f"{path}: not a readable checkpoint ({what})") from error


def save_last(run: Path, model: ActionNet, state: dict[str, Any]) -> None:
    """Writes `last.pt`, without what is frozen."""
    write_atomically(run / LAST, lambda partial: torch.save({"head": model.trained_state(), **state}, partial))


def load_last(run: Path, model: ActionNet, device: torch.device) -> dict[str, Any]:
    """Loads the last epoch's head into `model`; returns the rest of the state."""
    state = read_checkpoint(run / LAST, device)
    with naming(run / LAST, FIX):
        load_head(run / LAST, model, state.pop("head"))
    return state


def load_head(path: Path, model: ActionNet, head: dict[str, Any]) -> None:
    """Loads what is trained; raises InputError naming `path` where it has other names or shapes."""
    if {name: value.shape for name, value in head.items()} != {
        name: value.shape for name, value in model.trained_state().items()
    }:
        raise InputError(f"{path}: belongs to another network; give the run that it was written by")
    check_tensors(head, model.state_dict())
    model.load_state_dict(head, strict=False)


def copy_head(results: Path, name: str, model: ActionNet, weights_sha256: str, split: SplitDigests) -> None:
    """Copies the head of the run `name`, at its best epoch, into `model`.

    Raises: InputError where that run has other classes, weights or parts: it may have seen this run's test images.
    """
    run = find_run(results, name, option="--head")
    other, record, other_split = load_model(run, torch.device("cpu"))
    for what, same in (
        ("weights", record["weights_sha256"] == weights_sha256),
        ("images or another --seed", other_split == split),
        ("classes", other.fc.out_features == model.fc.out_features),
    ):
        if not same:
            raise InputError(f"--head {name}: {run} has other {what}; give a run with the same ones")
    for part, layer in other.named_children():
        if part != "base_model":
            getattr(model, part).load_state_dict(layer.state_dict())


def save_snapshot(run: Path, state: dict[str, Tensor], epoch: int) -> None:
    """Writes the head after `epoch` (0: before training) in float16, which figures do not show.

    Args:
        state: what is trained, for all feature channels.
    """
    head = {key: value.half() if "conv" in key else value for key, value in state.items()}
    write_atomically(run / SNAPSHOTS / f"epoch_{epoch:03d}.pt", lambda partial: torch.save(head, partial))


def find_snapshots(run: Path) -> dict[int, Path]:
    """Returns the snapshots of a run by epoch. Raises: InputError where there are fewer than two."""
    files = {path.stem.removeprefix("epoch_"): path for path in sorted((run / SNAPSHOTS).glob("epoch_*.pt"))}
    found = {int(epoch): path for epoch, path in files.items() if epoch.isdecimal()}
    if len(found) < 2:
        raise InputError(f"{run}: has no snapshots; train with: python train.py --snapshots --run NAME")
    return found


def load_snapshot(path: Path, model: ActionNet) -> None:
    """Loads a snapshot's head into `model`."""
    head = read_checkpoint(path, next(model.parameters()).device)
    with naming(path, FIX):
        head = {key: value.float() if value.is_floating_point() else value for key, value in head.items()}
        load_head(path, model, head)


def newest(results: Path) -> Path | None:
    """The folder of the newest finished run; None where there is none."""
    finished = [path for path in results.glob(f"*/{BEST}") if (path.parent / CURVES).exists()]
    return max(finished, key=lambda path: path.stat().st_mtime).parent if finished else None


def find_run(results: Path, name: str = "", needs: str = BEST, option: str = "--run") -> Path:
    """Returns the folder of the run `name`, or of the newest run that has the file `needs`.

    Raises: InputError naming the folder and the runs that exist.
    """
    runs = sorted(results.glob(f"*/{needs}"), key=lambda path: path.stat().st_mtime)
    if name and (results / name / needs).is_file():
        return results / name
    if name:
        there = ", ".join(path.parent.name for path in runs) or "none"
        raise InputError(f"{option} {name}: {results / name} has no {needs}; runs that have one: {there}")
    if not runs:
        raise InputError(f"{results}: no run has a {needs}; run train.py first")
    return runs[-1].parent
