"""Figures of a video's predictions: probabilities over time, and the caption on a frame."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ticker import PercentFormatter
from PIL import Image, ImageDraw, ImageFont

from figures.curves import save
from figures.fonts import OWN, family_of
from runtime.text import printable, shorten

LINES = 6  # classes with a line and a colour
OTHER = "0.82"
BAND = 0.06  # height of the band of predictions, in units of the axis


def probabilities_over_time(
    times: Sequence[float], values: np.ndarray, classes: Sequence[str], segments: Sequence[dict[str, Any]],
    threshold: float, title: str, path: Path,
) -> None:  # fmt: skip
    """Smoothed probabilities of the classes that are highest at some time, above a band of predictions.

    Args:
        values: (N, K).
        segments: of `video.timeline.Timeline.segments`.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(-values.max(0), kind="stable")[:LINES]
    colours = {classes[k]: colormaps["tab10"](place) for place, k in enumerate(order)}
    for k in order:
        axes.plot(times, values[:, k], color=colours[classes[k]], linewidth=1.6, label=shorten(classes[k], 28))
    axes.axhline(threshold, color="0.6", linestyle="--", linewidth=1, zorder=0)
    for segment in segments:
        width = max(segment["end"] - segment["start"], 1e-9)
        colour = colours.get(segment["label"], OTHER)
        axes.broken_barh([(segment["start"], width)], (-BAND - 0.02, BAND), color=colour, linewidth=0)
    axes.set(
        xlabel="seconds",
        ylabel="probability, smoothed",
        ylim=(-BAND - 0.03, 1.02),
        xlim=(times[0], max(times[-1], times[0] + 1e-3)),
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.25)
    for text in figure.legend(loc="outside right upper", frameon=False, title="classes").get_texts():
        text.set_parse_math(False)
    figure.suptitle(
        f"{title}\nband: prediction, grey where not sure (below {threshold:.0%}, dashed)",
        parse_math=False,
        fontsize="medium",
    )
    save(figure, path)


@cache
def font(size: int, words: str = "") -> ImageFont.FreeTypeFont:
    """A font that has the characters of `words`, as far as an installed one does."""
    families = [family for family in map(family_of, sorted(set(words))) if family]
    return ImageFont.truetype(findfont(families[0] if families else OWN), size)


def caption(image: Image.Image, label: str, bars: Sequence[tuple[str, float]], seconds: float) -> Image.Image:
    """A copy of an RGB image with the prediction, probability bars of a few classes and the time in a strip below.

    Args:
        bars: class and probability.
    """
    width, height = image.size
    size = max(11, round(min(width, height) / 24))
    pad, line = size // 2, round(size * 1.5)
    strip = line * max(2, len(bars)) + 2 * pad
    image = image.copy()
    shade = Image.new("RGB", (width, min(strip, height)), (18, 18, 20))
    image.paste(
        Image.blend(image.crop((0, height - shade.height, width, height)), shade, 0.78), (0, height - shade.height)
    )
    draw, top = ImageDraw.Draw(image), height - strip + pad
    left, large = width // 2, round(size * 1.3)
    label = fit(draw, label, left - 2 * pad, large)
    draw.text((pad, top), label, "white", font(large, label))
    draw.text(
        (pad, top + round(line * 1.25)), f"{int(seconds // 60)}:{seconds % 60:04.1f}", (200, 200, 200), font(size)
    )
    for row, (name, value) in enumerate(bars):
        y = top + row * line
        end = left + round((width - left - pad) * value)
        draw.rectangle((left, y + line - 0.32 * size, max(left + 1, end), y + line - 0.12 * size), fill=(205, 64, 113))
        text = f"{value:.0%}"
        room = width - left - 2 * pad - draw.textlength(text, font(size))
        name = fit(draw, name, room, size)
        draw.text((left, y), name, "white", font(size, name))
        draw.text((width - pad, y), text, "white", font(size), anchor="ra")
    return image


def fit(draw: ImageDraw.ImageDraw, text: str, width: float, size: int) -> str:
    """The text on one line, without underscores, shortened to `width` pixels at a font size."""
    text = printable(text.replace("_", " "))
    chosen = font(size, text)
    while len(text) > 2 and draw.textlength(text, chosen) > width:
        text = f"{text.removesuffix('…')[:-1]}…"
    return text
