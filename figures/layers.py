"""Figures of layers: activation maps, histograms, dead channels; their numbers beside them, .npy or .json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter
from torch import Tensor

from figures.page import Page, Scale
from runtime.files import write_array, write_json
from runtime.text import shorten

COLUMNS, TILE = 8, 1.05
PAGE = 0.5 + COLUMNS * (TILE + 0.08)
MOST_NAMES = 40
RARE = 0.01  # share of the images
BLUE, ORANGE = "#4c72b0", "#dd8452"


def join(*words: str) -> str:
    return " · ".join(filter(None, words))


def activations(
    path: Path, heading: str, detail: str, maps: Tensor, channels: Sequence[int], order: str = "most active first"
) -> None:
    """Plots `channels` of maps (C, h, w), each on its own scale; single values (h = w = 1) as a bar plot.

    Writes all maps beside the figure, .npy.
    """
    values = maps.float().contiguous().numpy()
    write_array(path.with_suffix(".npy"), values)
    lost = values.size - int(np.isfinite(values).sum())
    detail = join(f"{lost} of {values.size} values are not finite" if lost else "", detail)
    if values.shape[1:] == (1, 1):
        vector(path, heading, detail, values[:, 0, 0])
        return
    signed = bool((values < 0).any())
    scales = [Scale.of(values[channel], signed) for channel in channels]
    labels = [f"{channel} · {scale.range}" for channel, scale in zip(channels, scales, strict=True)]
    height = Page.tiles_height(len(channels), COLUMNS, TILE)
    page = Page(PAGE, height + 1.6)
    page.title(heading, join(f"{len(channels)} of {len(values)} channels, {order}", detail))
    page.tiles(0.25, 0.95, COLUMNS, TILE, values[list(channels)], labels, scales)
    words = "activation, as a fraction of the value above each map"
    page.colour_bar(PAGE - 4.25, height + 1.05, 4, Scale.of(np.ones(1), signed), words)
    page.save(path)


def logits(path: Path, heading: str, detail: str, values: np.ndarray, classes: Sequence[str]) -> None:
    """Plots logits (K,) by class; writes them beside the figure, .npy."""
    write_array(path.with_suffix(".npy"), values)
    vector(path, f"{heading} (logits)", detail, values, classes)


def vector(path: Path, heading: str, detail: str, values: np.ndarray, names: Sequence[str] = ()) -> None:
    """Plots one value per channel (C,); up to 40 with their names, else the largest with their numbers."""
    page = Page(PAGE, 4.4)
    page.title(heading, detail)
    axes = page.plot(1.3, 1.1, PAGE - 1.65, 2.1)
    if 0 < len(names) <= MOST_NAMES:
        axes.bar(range(len(values)), values, color=BLUE)
        ticks = {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "parse_math": False}
        axes.set_xticks(range(len(names)), map(shorten, names), fontsize=8 if len(names) <= 20 else 6, **ticks)
    else:  # one outline, since hundreds of bars would take a second
        axes.stairs(values, np.arange(len(values) + 1) - 0.5, fill=True, color=BLUE)
        axes.set_xlabel("class" if names else "channel")
        for channel in largest(values, 5):
            below = {"va": "top"} if values[channel] < 0 else {"va": "bottom"}
            axes.text(channel, values[channel], str(channel), ha="center", fontsize=7, **below)
        axes.margins(y=0.12)
    axes.axhline(0, color="0.4", linewidth=0.6)
    axes.set(ylabel="logit" if names else "activation", xlim=(-0.7, len(values) - 0.3))
    axes.spines[["top", "right"]].set_visible(False)
    page.save(path)


def largest(values: np.ndarray, count: int) -> list[int]:
    """Up to `count` channels with the largest values, far enough from each other for labels of their own."""
    chosen: list[int] = []
    for channel in np.argsort(-np.abs(values)).tolist():
        if len(chosen) == count:
            break
        apart = all(abs(channel - other) > 0.06 * len(values) for other in chosen)
        if apart and np.isfinite(values[channel]):
            chosen.append(channel)
    return chosen


def histograms(path: Path, heading: str, detail: str, stats: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    """Histograms (of `layer_stats.histogram`) by layer, and standard deviation and share of zeros by depth.

    Writes the same numbers beside the figure, .json.
    """
    write_json(path.with_suffix(".json"), stats)
    columns, wide, high = 4, 2.3, 1.1
    lines = -(-len(stats) // columns)
    page = Page(0.4 + columns * (wide + 0.45), 1.2 + lines * (high + 0.95) + 3.3)
    page.title(heading, detail)
    page.text(0.25, 0.92, "heights are logarithmic: each grid line is ten times as many values as the one below", 8)
    for index, (layer, row) in enumerate(stats.items()):
        x, y = 0.65 + index % columns * (wide + 0.45), 1.35 + index // columns * (high + 0.95)
        page.text(x, y - 0.12, shortened(layer), 8, weight="bold")
        lost = f" · {row['not_finite']} not finite" if row["not_finite"] else ""
        numbers = f"mean {row['mean']:.3g} · std {row['std']:.3g} · zeros {row['zeros']:.0%}{lost}"
        page.text(x, y + 0.05, numbers, 7, color="0.35")
        page.steps(x, y + 0.27, wide, high, row["counts"], row["edges"])
    y, half = 1.25 + lines * (high + 0.95), page.width / 2
    trend(page, 0.95, y, half - 1.2, stats, "std", kind)
    trend(page, half + 0.7, y, half - 1.05, stats, "zeros", kind)
    page.save(path)


def shortened(layer: str) -> str:
    return layer if len(layer) <= 32 else f"…{layer[-31:]}"


def dead_units(path: Path, heading: str, detail: str, counts: Mapping[str, Tensor], images: int) -> dict[str, Any]:
    """Plots the share of dead channels by layer, and the activation frequency of each layer's channels.

    Args:
        counts: by layer, in how many of the `images` each channel is active (C,); see `hooks.activation_frequency`.

    Returns: what is also written beside the figure, .json: by layer the dead channels, those active in less than 1 % of
        the images, and the counts.
    """
    found = {}
    for layer, count in counts.items():
        dead, rare = (count == 0), (count > 0) & (count < RARE * images)
        found[layer] = {
            "channels": len(count),
            "dead_share": dead.float().mean().item(),
            "dead": dead.nonzero().flatten().tolist(),
            "rare": rare.nonzero().flatten().tolist(),
            "fires_in": count.tolist(),
        }
    write_json(path.with_suffix(".json"), {"images": images, "layers": found})
    draw_dead_units(path, heading, detail, found, images)
    return found


def draw_dead_units(path: Path, heading: str, detail: str, found: Mapping[str, Mapping[str, Any]], images: int) -> None:
    wide, places = max(6.0, 0.22 * len(found)), np.arange(len(found))
    page = Page(wide + 1.7, 7.4)
    page.title(heading, detail)
    limits = {"xlim": (-0.6, len(found) - 0.4)}
    axes = page.plot(1.3, 1.1, wide, 1.9)
    dead = np.array([row["dead_share"] for row in found.values()])
    rare = np.array([len(row["rare"]) / row["channels"] for row in found.values()])
    axes.bar(places, dead, color="#c03d3e", label="dead: active in no image")
    axes.bar(places, rare, bottom=dead, color=ORANGE, alpha=0.6, label=f"rare: active in less than {RARE:.0%}")
    axes.set(ylabel="share of channels", xticks=[], ylim=(0, max(0.05, 1.3 * (dead + rare).max())), **limits)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    levels = np.linspace(0, 1, 201)
    often = np.stack([np.quantile(np.array(row["fires_in"]) / images, levels) for row in found.values()], axis=1)
    below = page.plot(1.3, 3.2, wide, 2.2)
    extent = (-0.5, len(found) - 0.5, 0, 1)
    style = {"aspect": "auto", "origin": "lower", "interpolation": "nearest", "cmap": "viridis"}
    below.imshow(often, extent=extent, vmin=0, vmax=1, **style)
    below.set(ylabel="channels, least active first", yticks=[0, 0.5, 1], **limits)
    below.yaxis.set_major_formatter(PercentFormatter(1))
    ticks = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 6.5}
    below.set_xticks(places, [shortened(layer) for layer in found], **ticks)
    page.colour_bar(wide - 1.7, 6.75, 3, Scale("viridis", 0, 1), "share of images in which the channel is active")
    page.save(path)


def trend(
    page: Page, x: float, y: float, width: float, stats: Mapping[str, Mapping[str, Any]], key: str, kind: str
) -> None:
    """Plots "std" (logarithmic) or "zeros" from input to output; 3 inches high with the layers' names."""
    spread = f"standard deviation of the {kind} (logarithmic)"
    page.text(x, y, spread if key == "std" else f"share of exact zeros among the {kind}", 9.5, weight="bold")
    axes = page.plot(x, y + 0.3, width, 1.5)
    values, names = [row[key] for row in stats.values()], list(stats)
    axes.plot(values, ".-", color=BLUE if key == "std" else ORANGE)
    if key == "zeros":
        axes.set_ylim(-0.03, 1.03)
    elif max(values, default=0) > 0:
        positive = [value for value in values if value > 0]
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(positive) < 100 * min(positive) else (1,)))
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.yaxis.set_minor_locator(NullLocator())
    step = -(-len(names) // 24)  # more names would overlap
    ticks = {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "fontsize": 6.5}
    axes.set_xticks(range(0, len(names), step), map(shortened, names[::step]), **ticks)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
