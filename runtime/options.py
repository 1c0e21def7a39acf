"""Options that several scripts share, their choices, and checks of their values."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.errors import InputError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8"]
KernelView = Literal["strongest", "norm", "mean", "first"]
LARGEST = 2**31 - 1  # of numbers without a limit of their own: what libraries take, too
GROUPS = {  # headings of --help; options in none of them matter most and come first
    "data": ("val_share", "seed", "ignore_duplicates", "group", "skip_bad"),
    "model": ("weights", "backbone", "unfreeze", "head", "snapshots"),
    "training": ("balance",),  # and the numbers of the recipe
    "video": ("video", "fps", "smooth"),
    "trackers": ("tensorboard", "wandb"),
    "hardware": ("device", "precision", "batch_size", "workers"),
    "files": ("csv", "json", "no_report", "out", "format", "dpi", "cache", "results"),
}


@dataclass
class RunOptions:
    """Which run, on which data and device."""

    run: str = ""
    """Name of the run, a folder in results/, or "pretrained". Default: the newest finished run, else "pretrained"."""
    data: Path | None = None
    """Folder of the dataset. Default: the one the run was trained on."""
    device: str = "auto"
    """auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:N or mps."""
    cache: Path = Path("data/cache")
    """Folder of cached feature maps and image checks."""
    results: Path = Path("results")
    """Folder of the runs."""


@dataclass
class FigureOptions(RunOptions):
    """As `RunOptions`, for scripts that draw."""

    format: Literal["png", "pdf", "svg"] = "png"
    """File format of the figures."""
    dpi: int = 120
    """Pixels per inch of the figures; in PDF and SVG, of the images in them. 30 to 600."""


def same_run(options: RunOptions) -> list[str]:
    """Words of a command line that give another script the same run: what differs from the defaults."""
    words = []
    for field in ("run", "data", "cache", "results"):
        value = getattr(options, field)
        words += [option_name(field), str(value)] if value != getattr(RunOptions, field) else []
    return words


def option_name(field: str) -> str:
    """`low_res` to `--low-res`."""
    return f"--{field.replace('_', '-')}"


def group_pattern(text: str) -> re.Pattern | None:
    """The pattern that --group gives; None where that is the name of a column, which has no brackets."""
    if "(" not in text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"--group {text}: is no regular expression ({error}); fix it") from error
    if not pattern.groups:
        raise InputError(f'--group {text}: put brackets around what names the group, as in "(clip_\\d+)_"')
    return pattern


def require_range(field: str, value: float | None, low: float, high: float | None = None) -> None:
    """Raises InputError naming the option where `value` is given and not within low..high; `LARGEST` is the highest."""
    if value is not None and not low <= value <= (LARGEST if high is None else high):
        words = f"to {high}" if high is not None else "or more" if value < low else f"to {LARGEST}"
        raise InputError(f"{option_name(field)} {value}: must be {low} {words}")
