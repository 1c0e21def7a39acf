"""Sends the rows of metrics.jsonl to TensorBoard and Weights & Biases, where --tensorboard or --wandb ask for it."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtime.errors import InputError, first_line
from runtime.status import say
from training import checkpoint
from training.loop import best_epoch

PROJECT = "see-actions"
FIGURES = {"learning curves": checkpoint.CURVES, "network": "network.png"}
History = Sequence[dict[str, Any]]
Log = Callable[[History], None]


class Trackers:
    """The trackers of a run; does nothing where it has none."""

    def __init__(self, logs: Sequence[Log], ends: Sequence[Log]) -> None:
        self.logs, self.ends = logs, ends

    def log(self, history: History) -> None:
        """Sends the epochs that were not sent yet; after a resume all of them."""
        for log in self.logs:
            log(history)

    def end(self, history: History) -> None:
        """Sends figures and settings with the best epoch's metrics, after all epochs."""
        for end in self.ends:
            end(history)


@contextmanager
def open_trackers(folder: Path, arguments: dict[str, Any], tensorboard: bool, wandb: bool) -> Iterator[Trackers]:
    """Opens what is asked for, and closes it at the end of the block, also after an exception.

    Args:
        arguments: plain values, as in `best.json`.

    Raises: InputError where Weights & Biases does not let anybody in.
    """
    with ExitStack() as stack:
        opened = []
        if tensorboard:
            opened.append(stack.enter_context(open_tensorboard(folder, arguments)))
        if wandb:
            opened.append(stack.enter_context(open_wandb(folder, arguments)))
        yield Trackers([log for log, _ in opened], [end for _, end in opened])


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """An epoch's numbers by tag: "loss/train", "loss/val", "loss/val_calibrated", …, "learning_rate"."""
    found = {f"{key}/{part}": row[part][key] for part in ("train", "val") for key in row[part]}
    found |= {"loss/val_calibrated": row["calibrated"], "temperature": row["temperature"]}
    return found | {"learning_rate": row["lr"], "seconds": row["seconds"]}


def best_scalars(history: History) -> dict[str, float]:
    row = best_epoch(history)
    return {"best/epoch": row["epoch"]} | {f"best/{tag}": value for tag, value in scalars(row).items() if "/" in tag}


@contextmanager
def open_tensorboard(folder: Path, arguments: dict[str, Any]) -> Iterator[tuple[Log, Log]]:
    """Event files in <run>/tensorboard/, written anew by a resumed run."""
    from torch.utils.tensorboard import SummaryWriter

    place = folder / "tensorboard"
    shutil.rmtree(place, ignore_errors=True)
    writer = SummaryWriter(str(place))
    sent = 0

    def log(history: History) -> None:
        nonlocal sent
        for row in history[sent:]:
            for tag, value in scalars(row).items():
                writer.add_scalar(tag, value, row["epoch"])
        sent = len(history)
        writer.flush()

    def end(history: History) -> None:
        for name, file in figures(folder).items():
            writer.add_image(name, np.asarray(Image.open(file).convert("RGB")), len(history), dataformats="HWC")
        known = {key: value for key, value in arguments.items() if isinstance(value, str | float | int | bool)}
        writer.add_hparams(known, best_scalars(history), run_name=".")
        say(f"tensorboard --logdir {folder.parent}")

    try:
        yield log, end
    finally:
        writer.close()


@contextmanager
def open_wandb(folder: Path, arguments: dict[str, Any]) -> Iterator[tuple[Log, Log]]:
    """A run of Weights & Biases, whose files lie in <run>/wandb/; a resumed run goes on with it."""
    import wandb

    (folder / "wandb").mkdir(exist_ok=True)  # else it would write to a temporary folder
    id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    settings = wandb.Settings(silent=True, console="off")
    options = {"dir": folder, "name": folder.name, "id": id, "resume": "allow", "settings": settings}
    try:
        run = wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), config=arguments, **options)
    except (wandb.Error, OSError) as error:
        raise InputError(
            f"--wandb: {first_line(error)}; run `wandb login`, or set WANDB_MODE=offline and later `wandb sync`"
        ) from error
    sent = 0

    def log(history: History) -> None:
        nonlocal sent
        for row in history[sent:]:
            run.log(scalars(row), step=row["epoch"])  # steps that it has already are left out
        sent = len(history)

    def end(history: History) -> None:
        run.log({name: wandb.Image(str(file)) for name, file in figures(folder).items()})
        run.summary.update(best_scalars(history))

    failed = True
    try:
        yield log, end
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def figures(folder: Path) -> dict[str, Path]:
    return {name: folder / file for name, file in FIGURES.items() if (folder / file).exists()}
