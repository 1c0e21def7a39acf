"""Runs and checkpoints on disk: the only place that knows their format.

results/<run>/best.pt       the whole network at its best epoch, and the record; opens with weights_only=True
results/<run>/best.json     the record, readable
results/<run>/last.pt       head, optimiser and schedule after the last epoch, for --resume
results/<run>/split.json    file names by part
results/<run>/metrics.jsonl one line per epoch
results/<run>/snapshots/    the head after each epoch, float16 (train.py --snapshots)
"""

import pickle
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dataset import IMAGENET_MEAN, IMAGENET_STD
from model import ActionNet
from runtime.errors import InputError, first_line
from runtime.files import write_atomically, write_json

BEST, LAST, RECORD, SPLIT, METRICS = "best.pt", "last.pt", "best.json", "split.json", "metrics.jsonl"
SNAPSHOTS = "snapshots"


def preprocessing(image_size: int) -> dict[str, Any]:
    """What `dataset.EvalTransform` does, in words and numbers, for whoever reads a checkpoint."""
    return {
        "image_size": image_size,
        "resize": f"the middle square to {image_size}, bilinear, antialiased",
        "colour": "RGB, 0..1",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "numpy", "pillow", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def commit() -> str | None:
    """The commit of the code, with "+" where files differ from it; None outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def save_best(run: Path, model: ActionNet, record: dict[str, Any], split: dict[str, dict[str, str]]) -> None:
    """Writes `best.pt` (with backbone, so that the file is all that is needed) and `best.json`.

    Args:
        split: by part, file names and the SHA-256 of the files' bytes.
    """
    parts = {"stride_on": model.stride_on, "unfreeze": model.unfreeze, "backbone": model.backbone}
    content = {"model": model.wide(model.state_dict()), **parts, "record": record, "split": split}
    write_atomically(run / BEST, lambda partial: torch.save(content, partial))
    write_json(run / RECORD, record)


def load_model(run: Path, device: torch.device) -> tuple[ActionNet, dict[str, Any], dict[str, dict[str, str]]]:
    """Returns the network of a run, ready to predict, its record (keys of `best.json`) and its split (see `save_best`).

    Raises: InputError where the file is damaged, or of an earlier version.
    """
    path = run / BEST
    content = read_checkpoint(path, device)
    record = content["record"]
    if record.get("preprocessing") != preprocessing(record["image_size"]):
        raise InputError(f"{path}: trained on pictures cut out in another way, before this version; train anew")
    parts = {key: content[key] for key in ("stride_on", "unfreeze", "backbone") if key in content}
    model = ActionNet(len(record["classes"]), **parts, size=record["image_size"])
    model.load_state_dict(content["model"])
    model.temperature = record.get("temperature", 1.0)
    model = model.to(device, memory_format=torch.channels_last).eval()
    return model, record, content["split"]


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: no readable checkpoint ({first_line(error)})") from error


def save_last(run: Path, model: ActionNet, state: dict[str, Any]) -> None:
    """Writes `last.pt`; what is frozen is left out, since it never changes."""
    write_atomically(run / LAST, lambda partial: torch.save({"head": model.trained_state(), **state}, partial))


def load_last(run: Path, model: ActionNet, device: torch.device) -> dict[str, Any]:
    """Puts the last epoch's head into `model` and returns the rest of the state."""
    state = read_checkpoint(run / LAST, device)
    load_head(run / LAST, model, state.pop("head"))
    return state


def load_head(path: Path, model: ActionNet, head: dict[str, Any]) -> None:
    if {name: value.shape for name, value in head.items()} != {
        name: value.shape for name, value in model.trained_state().items()
    }:
        raise InputError(f"{path}: belongs to another network")
    model.load_state_dict(head, strict=False)


def copy_head(
    results: Path, name: str, model: ActionNet, weights_sha256: str, split: dict[str, dict[str, str]]
) -> None:
    """Puts the head of the run `name`, at its best epoch, into `model`.

    Raises: InputError where that run has other classes, weights or parts: it may have learned what is tested here.
    """
    run = find_run(results, name, option="--head")
    other, record, learned = load_model(run, torch.device("cpu"))
    for what, same in (
        ("weights", record["weights_sha256"] == weights_sha256),
        ("pictures or another --seed", learned == split),
        ("classes", other.fc.out_features == model.fc.out_features),
    ):
        if not same:
            raise InputError(f"--head {name}: {run} has other {what}; give a run that was trained as this one will be")
    for part, layers in other.named_children():
        if part != "base_model":
            getattr(model, part).load_state_dict(layers.state_dict())


def save_snapshot(run: Path, model: ActionNet, epoch: int) -> None:
    """Writes the head as it is after `epoch` (0: before training); half the precision, which pictures do not show."""
    state = model.wide(model.trained_state())
    head = {key: value.half() if "conv" in key else value for key, value in state.items()}
    write_atomically(run / SNAPSHOTS / f"epoch_{epoch:03d}.pt", lambda partial: torch.save(head, partial))


def find_snapshots(run: Path) -> dict[int, Path]:
    """Returns the snapshots of a run by epoch. Raises: InputError where there are fewer than two."""
    found = {int(path.stem.removeprefix("epoch_")): path for path in sorted((run / SNAPSHOTS).glob("epoch_*.pt"))}
    if len(found) < 2:
        raise InputError(f"{run}: has no snapshots; train with: python train.py --snapshots --run NAME")
    return found


def load_snapshot(path: Path, model: ActionNet) -> None:
    """Puts a snapshot's head into `model`."""
    head = read_checkpoint(path, next(model.parameters()).device)
    load_head(path, model, {key: value.float() if value.is_floating_point() else value for key, value in head.items()})


def find_run(results: Path, name: str = "", needs: str = BEST, option: str = "--run") -> Path:
    """Returns the folder of the run `name`, or of the newest one that has the file `needs`.

    Raises: InputError naming the folder and the runs that there are.
    """
    runs = sorted(results.glob(f"*/{needs}"), key=lambda path: path.stat().st_mtime)
    if name and (results / name / needs).is_file():
        return results / name
    if name:
        there = ", ".join(path.parent.name for path in runs) or "none"
        raise InputError(f"{option} {name}: {results / name} has no {needs}; runs that have: {there}")
    if not runs:
        raise InputError(f"{results}: no run with {needs} there; run train.py first")
    return runs[-1].parent
