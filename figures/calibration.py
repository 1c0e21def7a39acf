"""Figures of a test: reliability diagrams, accuracy and coverage by threshold, confused class pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dataset import load_image
from figures.curves import TRAIN, VAL, plain, save

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
    last.plot(curve[:, 0], curve[:, 2], color=TRAIN, label="accuracy of predictions above the threshold")
    last.plot(curve[:, 0], curve[:, 1], color=VAL, label="coverage: share of images above it")
    last.set(xlabel="confidence threshold", xlim=(0, 1), ylim=(0, 1.02))
    last.set_title("accuracy and coverage by confidence threshold", fontsize="medium")
    last.legend()
    figure.legend(*diagrams[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    for axes in (*diagrams, last):
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    plain(figure.suptitle(title))
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
    axes.bar(0, 0, color=TRAIN, alpha=0.3, label=f"… of fewer than {FEW} images")
    axes.bar(0, 0, facecolor="none", edgecolor=VAL, hatch="////", linewidth=0, label="gap to mean confidence")
    centres = [(row["from"] + row["to"]) / 2 for row in bins]
    axes.plot(centres, [row["n"] / total for row in bins], ".-", color="0.25", label="share of images")
    axes.plot((0, 1), (0, 1), "--", color="0.5")
    axes.set(xlabel="confidence (highest probability)", xlim=(0, 1), ylim=(0, 1.02))


def confused_pairs(
    pairs: Sequence[dict[str, Any]], images: Sequence[Sequence[dict[str, Any]]], title: str, path: Path
) -> None:
    """A line per pair of classes (`evaluation.calibration.confused_pairs`): images of one predicted as the other."""
    most = max(3, *(len(rows) for rows in images))
    figure = Figure(figsize=(2.6 * most, 2.9 * len(pairs) + 0.8), layout="constrained")
    plain(figure.suptitle(title))
    for pair, rows, line in zip(pairs, images, figure.subfigures(len(pairs), 1, squeeze=False)[:, 0], strict=True):
        (first, second), (there, back) = pair["classes"], pair["n"]
        words = f"{first} predicted as {second}: {there}, {second} as {first}: {back}, of {pair['of']} images"
        plain(line.suptitle(words, fontsize="medium", weight="bold"))
        for axes, row in zip(line.subplots(1, most, squeeze=False)[0], [*rows, *[None] * most], strict=False):
            axes.set_axis_off()
            if row:
                axes.imshow(load_image(row["path"]))
                words = f"{row['true']},\npredicted {row['predicted']} {row['probability']:.0%}"
                plain(axes.set_title(words, fontsize="small"))
    save(figure, path)
