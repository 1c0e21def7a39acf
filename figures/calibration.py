"""Figures of a test: reliability diagrams, accuracy and coverage by threshold, confused class pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures.curves import TRAIN, VAL, fit_image, image_name, save
from figures.page import Page, wrap_text
from runtime.text import shorten

FEW = 10  # images, too few for a reliable accuracy


def reliability_and_coverage(
    kinds: dict[str, list[dict[str, float]]], curve: np.ndarray, title: str, path: Path
) -> None:
    """Reliability diagrams beside accuracy and coverage by confidence threshold.

    Args:
        kinds: bins of `evaluation.calibration.calibration_error` by the panel's title.
        curve: of `evaluation.calibration.accuracy_by_coverage`.
    """
    figure = Figure(figsize=(5 * (len(kinds) + 1), 4.8), layout="constrained")
    *diagrams, last = figure.subplots(1, len(kinds) + 1)
    for axes, (name, bins) in zip(diagrams, kinds.items(), strict=True):
        reliability(axes, bins)
        axes.set_title(name, fontsize="medium")
    last.plot(curve[:, 0], curve[:, 2], color=TRAIN, label="accuracy above the threshold")
    last.plot(curve[:, 0], curve[:, 1], color=VAL, label="coverage (share of images)")
    last.set(xlabel="confidence threshold", xlim=(0, 1), ylim=(0, 1.02))
    last.set_title("accuracy and coverage by confidence threshold", fontsize="medium")
    style = {"frameon": False, "columnspacing": 1.4}
    figure.legend(*diagrams[0].get_legend_handles_labels(), loc="outside lower left", ncols=5, **style)
    figure.legend(*last.get_legend_handles_labels(), loc="outside lower right", ncols=2, **style)
    for axes in (*diagrams, last):
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.suptitle(title, parse_math=False)
    save(figure, path)


def reliability(axes: Axes, bins: list[dict[str, float]]) -> None:
    """Accuracy of each bin as a bar, pale where it holds few images, against the diagonal of perfect calibration."""
    total = sum(row["n"] for row in bins)
    for row in bins:
        width, gap = row["to"] - row["from"], abs(row["accuracy"] - row["confidence"])
        fade = 1 if row["n"] >= FEW else 0.3
        axes.bar(row["from"], row["accuracy"], width, align="edge", color=TRAIN, edgecolor="white", alpha=fade)
        low = min(row["accuracy"], row["confidence"])
        axes.bar(row["from"], gap, width, low, align="edge", facecolor="none", edgecolor=VAL, hatch="////", linewidth=0)
    axes.bar(0, 0, color=TRAIN, label="accuracy")
    axes.bar(0, 0, color=TRAIN, alpha=0.3, label=f"pale: under {FEW} images")
    axes.bar(0, 0, facecolor="none", edgecolor=VAL, hatch="////", linewidth=0, label="gap to mean confidence")
    centres = [(row["from"] + row["to"]) / 2 for row in bins]
    axes.plot(centres, [row["n"] / total for row in bins], ".-", color="0.25", label="share of images")
    axes.plot((0, 1), (0, 1), "--", color="0.5", label="perfect calibration")
    axes.set(xlabel="confidence (highest probability)", xlim=(0, 1), ylim=(0, 1.02))


def confused_pairs(
    pairs: Sequence[dict[str, Any]], examples: Sequence[Sequence[dict[str, Any]]], detail: str, path: Path
) -> None:
    """A line per pair of classes (`evaluation.calibration.confused_pairs`): images of one predicted as the other.

    Args:
        examples: for each pair its images, each with `filename` (of a test image `index`), `path`, `true`, `predicted`
            and `probability`.
    """
    size, gap = 2.4, 0.2
    images = [[fit_image(row["path"], size, size) for row in line] for line in examples]
    width = 0.3 + max(3, *map(len, images)) * (size + gap)
    headings = []
    for pair in pairs:
        (first, second), (there, back) = pair["classes"], pair["n"]
        words = f"{first} predicted as {second}: {there}, {second} as {first}: {back}, of {pair['of']} images"
        headings.append(wrap_text(words, width - 0.5, 9.7))  # bold letters are wider
    tops = [0.2 * (1 + words.count("\n")) for words in headings]
    tallest = [max((height for *_, height in line), default=0.0) for line in images]
    page = Page(width, 0.95 + sum(tops) + sum(tallest) + 0.85 * len(pairs))
    page.title("Most confused pairs of classes", f"{detail} · copies of a photograph are shown once")
    y = 0.95
    for words, line, pixels, top, high in zip(headings, examples, images, tops, tallest, strict=True):
        page.text(0.25, y, words, 9, weight="bold")
        y += top
        for place, (row, image) in enumerate(zip(line, pixels, strict=True)):
            x = 0.25 + place * (size + gap)
            predicted = f"predicted: {shorten(row['predicted'], 20)} ({row['probability']:.0%})"
            page.text(x, y, f"{image_name(row)}\ntrue: {shorten(row['true'], 20)}\n{predicted}", 8)
            page.image(x, y + 0.53, image[1], image[2], image[0])
        y += high + 0.85
    page.save(path)
