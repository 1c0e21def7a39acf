"""Pictures of how far a network can be trusted: calibration, coverage, and the classes that it confuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dataset import load_image
from figures.curves import TRAIN, VAL, save

FEW = 10  # pictures, whose accuracy says little


def trust(kinds: dict[str, list[dict[str, float]]], curve: np.ndarray, title: str, path: Path) -> None:
    """Reliability diagrams beside coverage and accuracy by threshold.

    Args:
        kinds: bins of `trust.calibration` by the panel's title.
        curve: of `trust.coverage`.
    """
    figure = Figure(figsize=(5 * (len(kinds) + 1), 4.8), layout="constrained")
    *diagrams, last = figure.subplots(1, len(kinds) + 1)
    for axes, (name, bins) in zip(diagrams, kinds.items(), strict=True):
        reliability(axes, bins)
        axes.set_title(name, fontsize="medium")
    last.plot(curve[:, 0], curve[:, 2], color=TRAIN, label="accuracy of the answers")
    last.plot(curve[:, 0], curve[:, 1], color=VAL, label="coverage: share that gets an answer")
    last.set(xlabel="answers only from this probability on", xlim=(0, 1), ylim=(0, 1.02))
    last.set_title("what a threshold gains and costs", fontsize="medium")
    last.legend()
    figure.legend(*diagrams[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    for axes in (*diagrams, last):
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.suptitle(title)
    save(figure, path)


def reliability(axes: Axes, bins: list[dict[str, float]]) -> None:
    """A bar for the accuracy of each bin, pale where pictures are few, and the diagonal that it should reach."""
    total = sum(row["n"] for row in bins)
    for row in bins:
        width, gap = row["to"] - row["from"], abs(row["accuracy"] - row["confidence"])
        fade = 1 if row["n"] >= FEW else 0.3
        axes.bar(row["from"], row["accuracy"], width, align="edge", color=TRAIN, edgecolor="white", alpha=fade)
        low = min(row["accuracy"], row["confidence"])
        axes.bar(row["from"], gap, width, low, align="edge", facecolor="none", edgecolor=VAL, hatch="////", linewidth=0)
    axes.bar(0, 0, color=TRAIN, label="accuracy")
    axes.bar(0, 0, facecolor="none", edgecolor=VAL, hatch="////", linewidth=0, label="distance to what was said")
    centres = [(row["from"] + row["to"]) / 2 for row in bins]
    axes.plot(centres, [row["n"] / total for row in bins], ".-", color="0.25", label="share of the pictures")
    axes.plot((0, 1), (0, 1), "--", color="0.5")
    axes.set(xlabel="probability that the network says", xlim=(0, 1), ylim=(0, 1.02))


def confused(
    pairs: Sequence[dict[str, Any]], pictures: Sequence[Sequence[dict[str, Any]]], title: str, path: Path
) -> None:
    """For each pair of classes (`trust.confused_pairs`) a line of pictures of one that were taken for the other."""
    most = max(3, *(len(rows) for rows in pictures))
    figure = Figure(figsize=(2.6 * most, 2.9 * len(pairs) + 0.8), layout="constrained")
    figure.suptitle(title)
    for pair, rows, line in zip(pairs, pictures, figure.subfigures(len(pairs), 1, squeeze=False)[:, 0], strict=True):
        (first, second), (there, back) = pair["classes"], pair["n"]
        words = f"{first} taken for {second}: {there}, {second} for {first}: {back}, of {pair['of']} pictures"
        line.suptitle(words, fontsize="medium", weight="bold")
        for axes, row in zip(line.subplots(1, most, squeeze=False)[0], [*rows, *[None] * most], strict=False):
            axes.set_axis_off()
            if row:
                axes.imshow(load_image(row["path"]))
                axes.set_title(f"{row['true']},\nsaid {row['predicted']} {row['probability']:.0%}", fontsize="small")
    save(figure, path)
