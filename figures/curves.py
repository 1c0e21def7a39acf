"""Learning curves, confusion matrix, sample predictions. The numbers are given; none is computed here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.example import OTHER, RIGHT, WRONG
from figures.fonts import make_legible
from figures.page import DPI, Page
from runtime.files import write_atomically
from runtime.images import load_image
from runtime.text import shorten

TRAIN, VAL = "#4c72b0", "#dd8452"
NAME = 40  # characters of a class beside the confusion matrix
BALANCED = 1.1  # largest by smallest number of images of a class, up to which counts show the shares too


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically, cut to what is drawn; needs no display."""
    make_legible(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")  # with one, and with the box "tight", savefig would draw once more to measure
    style = {"dpi": DPI, "bbox_inches": figure.get_tightbbox(renderer).padded(0.1), "pil_kwargs": {"compress_level": 1}}
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", **style))


def learning_curves(history: Sequence[dict[str, Any]], best: int, title: str, path: Path) -> None:
    """Loss and accuracy over epochs (rows of `metrics.jsonl`), with the best epoch marked on the deciding curve."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, key, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("cross-entropy", "accuracy"), strict=True):
        raw = ", raw" if key == "loss" else ""
        for part, colour, label in (("train", TRAIN, "training (augmented)"), ("val", VAL, f"validation{raw}")):
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)  # above: covers no point
        if key == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle(title, parse_math=False)
    save(figure, path)


def compared_curves(histories: dict[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Calibrated validation loss and validation accuracy of several runs over epochs, by run."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run, history in histories.items():
        epochs = [row["epoch"] for row in history]
        left.plot(epochs, [row["calibrated"] for row in history], ".-", label=shorten(run, 40))
        right.plot(epochs, [row["val"]["accuracy"] for row in history], ".-")
    left.set(xlabel="epoch", ylabel="validation cross-entropy, calibrated")
    right.set(xlabel="epoch", ylabel="validation accuracy")
    right.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
    for text in figure.legend(loc="outside upper center", ncols=min(3, len(histories)), frameon=False).get_texts():
        text.set_parse_math(False)
    save(figure, path)


def confusion(counts: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix (K, K) as counts; where classes have different numbers of images, also row-normalised."""
    totals, classes = counts.sum(axis=1), [shorten(name, NAME) for name in classes]
    least, most = int(totals.min()), int(totals.max())
    panels = [(counts, f"counts of {least}{f' to {most}' if most > least else ''} images of each class", "d")]
    if most > BALANCED * least:
        panels.append((counts / np.maximum(totals[:, None], 1), "row-normalised (recall)", ".2f"))
    cell = min(max(0.42 if len(classes) <= 20 else 0.3, 3.3 / len(classes)), 27 / len(classes))  # inches
    side, names = cell * len(classes), 0.085 * max(map(len, classes))
    width = max(4.5, 1.1 * side + names + 1)  # the title needs as much
    figure = Figure(figsize=(len(panels) * width, side + 0.87 * names + 1.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    small, style = {"fontsize": min(10, 20 * cell)}, {"fontsize": min(10, 60 * cell), "parse_math": False}
    for axes, (values, name, form) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=max(values.max(), 1e-9))
        for (row, column), value in np.ndenumerate(values):
            if value and len(classes) <= 60:
                light = value > values.max() / 2
                shown = format(value, form).removeprefix("0")
                colour = "white" if light else "0.2"
                words = axes.text(column, row, shown, ha="center", va="center", color=colour, **small)
                words.set_in_layout(False)  # lies inside the axes, and measuring all of them takes long
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor", **style)
        axes.set_yticks(range(len(classes)), classes, **style)
        axes.set(xlabel="predicted", ylabel="true", title=name)
        figure.colorbar(image, ax=axes, shrink=0.8)
    figure.suptitle(title, parse_math=False)
    save(figure, path)


def fit_image(path: Path, width: float, height: float) -> tuple[np.ndarray, float, float]:
    """An image as colours (h, w, 3), 0..1, and the width and height that it takes in a box, all in inches."""
    image = load_image(path, round(DPI * min(width, height)))
    scale = min(width / image.width, height / image.height)
    return np.asarray(image) / 255, max(0.05, scale * image.width), max(0.05, scale * image.height)


def predictions(rows: Sequence[dict[str, Any]], title: str, detail: str, path: Path, given: str = "true") -> None:
    """Images above their most probable classes, five in a line.

    Args:
        rows: for each image `path`, `true` (None where unknown), `predicted` and `top`, (class, probability) highest
            first; of a test image `index`, of others `filename`.
        given: word for the class that the dataset gives.
    """
    width, gap = 2.8, 0.2
    lines = [rows[start : start + 5] for start in range(0, len(rows), 5)]
    images = [[fit_image(row["path"], width, 2.8) for row in line] for line in lines]
    tallest = [max(height for *_, height in line) for line in images]
    chart = 0.23 * len(rows[0]["top"])
    columns = min(5, max(2, len(rows)))
    page = Page(0.3 + columns * (width + gap), 0.95 + sum(tallest) + len(lines) * (chart + 1.03))
    page.title(title, detail)
    y = 0.95
    for line, pixels, high in zip(lines, images, tallest, strict=True):
        for place, (row, image) in enumerate(zip(line, pixels, strict=True)):
            x, true = 0.25 + place * (width + gap), row["true"]
            page.text(x, y, image_name(row), color="0.35")
            page.text(x, y + 0.17, verdict(row, given), color=verdict_colour(row))
            page.image(x, y + 0.57, image[1], image[2], image[0])
            names, values = zip(*row["top"], strict=True)
            marks = {row["predicted"]: WRONG, true: RIGHT} if true else {}
            colours = [marks.get(name, OTHER) for name in names]
            page.bars(x, y + 0.67 + high, width, chart, names, values, colours)
        y += high + chart + 1.03
    page.save(path)


def image_name(row: dict[str, Any]) -> str:
    """What figures call an image: its position in the test set, or the name of any other file."""
    return f"test image {row['index']}" if "index" in row else shorten(Path(row["filename"]).name, 40)


def verdict(row: dict[str, Any], given: str) -> str:
    """Two lines: the true class, where it is known, and the predicted one, or that the network is not sure."""
    predicted = f"predicted: {shorten(row['predicted'])}"
    if row["true"] is None:
        return predicted if row.get("sure", True) else f"not sure,\nmost probable: {shorten(row['predicted'])}"
    return f"{given}: {shorten(row['true'])}\n{predicted}"


def verdict_colour(row: dict[str, Any]) -> str:
    return "black" if row["true"] is None else RIGHT if row["true"] == row["predicted"] else WRONG
