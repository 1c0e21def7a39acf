"""Learning curves, confusion matrix, sample predictions. The numbers are given; none is computed here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dataset import load_image
from runtime.files import write_atomically

TRAIN, VAL, RIGHT, WRONG = "#4c72b0", "#dd8452", "#3a923a", "#c03d3e"


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically; needs no display."""
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=120, bbox_inches="tight"))


def plain(text: Text) -> Text:
    """Draws a text with names in it as it stands, not as mathematics."""
    text.set_parse_math(False)
    return text


def learning_curves(history: Sequence[dict[str, Any]], best: int, title: str, path: Path) -> None:
    """Loss and accuracy over epochs (rows of `metrics.jsonl`), with the best epoch marked on the deciding curve."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, key, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("cross-entropy", "accuracy"), strict=True):
        for part, colour, label in (("train", TRAIN, "training (augmented)"), ("val", VAL, "validation")):
            axes.plot(epochs, [row[part][key] for row in history], ".-", color=colour, label=label)
        value = history[best - 1]["val"][key]
        if key == "loss":
            value = history[best - 1]["calibrated"]
            calibrated = [row["calibrated"] for row in history]
            axes.plot(epochs, calibrated, ".:", color=VAL, label="validation, calibrated")
        shown = f"{value:.1%}" if key == "accuracy" else f"{value:.3f}"
        axes.axvline(best, color="0.6", linestyle="--", zorder=0)
        axes.plot(
            best, value, "o", color=VAL, markersize=9, markerfacecolor="none", label=f"best epoch {best}: {shown}"
        )
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)  # above: covers no point
        if key == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    plain(figure.suptitle(title))
    save(figure, path)


def confusion(counts: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix (K, K) as counts and row-normalised."""
    size = min(max(4.5, 0.42 * len(classes) + 1.2), 30)
    figure = Figure(figsize=(2 * size + 1.2, size + 0.4), layout="constrained")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    small = {"fontsize": 8 if len(classes) <= 20 else 5}
    panels = ((counts, "counts", "d"), (shares, "row-normalised (recall)", ".2f"))
    names = {"parse_math": False}
    for axes, (values, name, form) in zip(figure.subplots(1, 2), panels, strict=True):
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=max(values.max(), 1e-9))
        for (row, column), value in np.ndenumerate(values):
            if value and len(classes) <= 60:
                light = value > values.max() / 2
                shown = format(value, form).removeprefix("0")
                axes.text(column, row, shown, ha="center", va="center", color="white" if light else "0.2", **small)
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor", **names)
        axes.set_yticks(range(len(classes)), classes, **names)
        axes.set(xlabel="predicted", ylabel="true", title=name)
        figure.colorbar(image, ax=axes, shrink=0.8)
    plain(figure.suptitle(title))
    save(figure, path)


def predictions(rows: Sequence[dict[str, Any]], title: str, path: Path, given: str = "true") -> None:
    """Images above their most probable classes, five in a line.

    Args:
        rows: for each image `path`, `true`, `predicted` and `top`, a list of (class, probability), highest first.
        given: word for the class that the dataset gives.
    """
    lines = -(-len(rows) // 5)
    figure = Figure(figsize=(15, 4.6 * lines + 0.7), layout="constrained")
    grid = figure.subplots(2 * lines, 5, squeeze=False, height_ratios=[3, 1.7] * lines)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, row in enumerate(rows):
        image, bars = grid[index // 5 * 2, index % 5], grid[index // 5 * 2 + 1, index % 5]
        image.imshow(load_image(row["path"]))
        colour = RIGHT if row["true"] == row["predicted"] else WRONG
        plain(image.set_title(f"{given}: {row['true']}\npredicted: {row['predicted']}", color=colour))
        for place, (name, value) in enumerate(row["top"]):
            tint = RIGHT if name == row["true"] else WRONG if name == row["predicted"] else "0.6"
            bars.barh(place, 1, 0.86, color="0.95")
            bars.barh(place, value, 0.86, color=tint, alpha=0.55)
            bars.text(0.02, place, name, va="center", parse_math=False)
            bars.text(0.98, place, f"{value:.2f}", va="center", ha="right")
        bars.set(xlim=(0, 1), ylim=(len(row["top"]) - 0.5, -0.5), title="probability")
        bars.title.set_size("small")
    plain(figure.suptitle(title))
    save(figure, path)
