"""Page layout in inches: images, tiles with colour scales, histograms, text and plots on one figure."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from figures.fonts import make_legible
from runtime.files import write_atomically
from runtime.text import shorten

DPI = 120
RESOLUTION = ContextVar("dpi", default=DPI)
ASCENT, LINE = 0.76, 1.35  # of text: height above the baseline and distance of lines, in units of its size
FRAME = 0.75  # grey level of the frame around images


@contextmanager
def resolution(dpi: int) -> Iterator[None]:
    """Pages that are saved within the block have `dpi` pixels per inch; in PDF and SVG, the images on them."""
    token = RESOLUTION.set(dpi)
    try:
        yield
    finally:
        RESOLUTION.reset(token)


@dataclass(frozen=True)
class Scale:
    """A colour map and the values at its ends."""

    colours: str
    low: float
    high: float
    largest: float | None = field(default=None, compare=False)  # value, which may lie beyond the scale or be 0

    @classmethod
    def of(cls, values: np.ndarray, signed: bool | None = None) -> "Scale":
        """From 0 to the largest value, or symmetric about 0 where values are `signed` (None: where one is negative).

        Ends at the 99.8th percentile where that lies below half of the largest value: a few outliers would leave all
        else in one colour.
        """
        size = np.abs(values[np.isfinite(values)])
        top = float(size.max(initial=0.0))
        most = float(np.quantile(size, 0.998)) if size.size else 0.0
        end = (most if 0 < most < top / 2 else top) or 1.0
        signed = bool((values < 0).any()) if signed is None else signed
        return cls("RdBu_r", -end, end, top) if signed else cls("magma", 0.0, end, top)

    @classmethod
    def of_kernels(cls, tiles: np.ndarray, signed: bool = True) -> "Scale":
        """As `of`, for all tiles of kernels (n, kh, kw) together; for those on RGB (n, kh, kw, 3), 0 is mid-grey."""
        scale = cls.of(tiles, signed)
        return replace(scale, colours="gray", low=-scale.high) if tiles.ndim == 4 else scale

    def share(self, values: np.ndarray) -> np.ndarray:
        """Places of values on the scale, 0..1."""
        return np.clip((values.astype(np.float64) - self.low) / (self.high - self.low), 0, 1)  # float32 may overflow

    def colour(self, values: np.ndarray) -> np.ndarray:
        """Values (…) as colours (…, 3), 0..1; NaN is grey."""
        share = self.share(values)
        colours = colormaps[self.colours](share)[..., :3]
        return np.where(np.isnan(share)[..., None], FRAME, colours)

    @property
    def range(self) -> str:
        """The end of the scale in words: the largest value, or that larger ones are clipped."""
        largest = self.high if self.largest is None else self.largest
        clipped, sign = largest > self.high, "±" if self.low < 0 else ""
        if clipped:
            return f"over {sign}{self.high:.3g}"
        return f"{sign or 'max '}{largest:.3g}"

    @property
    def zero(self) -> str:
        """The colour of zero."""
        return {"magma": "black", "inferno": "black", "gray": "grey"}.get(self.colours, "white")

    @property
    def options(self) -> dict[str, Any]:
        return {"cmap": self.colours, "vmin": self.low, "vmax": self.high}


Box = tuple[float, float, float, float]  # left, top, width, height, inches


class Page:
    """A figure of `width` × `height` inches; x from the left, y from the top, text sizes in points."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.pasted: list[tuple[Box, np.ndarray, Scale | None]] = []  # of `image`

    def save(self, path: Path) -> None:
        """Writes the page atomically, in the format of the file's ending: .png, .pdf or .svg (see `resolution`)."""
        self.figure.set_dpi(RESOLUTION.get())
        make_legible(self.figure)
        form = path.suffix[1:]
        write_atomically(path, self.write_png if form == "png" else lambda partial: self.write_vector(partial, form))

    def write_png(self, path: Path) -> None:
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        canvas, dpi = FigureCanvasAgg(self.figure), self.figure.dpi
        canvas.draw()
        page = np.array(canvas.buffer_rgba())[..., :3]
        for (x, y, *_), pixels in self.framed_images():  # exact pixels, and many times faster than one artist for each
            top, left = round(y * dpi), round(x * dpi)
            page[top : top + len(pixels), left : left + pixels.shape[1]] = pixels
        # Level 1 is three times as fast as the usual 6, for files a seventh larger.
        Image.fromarray(page).save(path, format="png", compress_level=1, dpi=(dpi, dpi))

    def write_vector(self, path: Path, form: str) -> None:
        for (x, y, width, height), pixels in self.framed_images():
            style = {"aspect": "auto", "interpolation": "none", "zorder": 2.5}
            self.axes.imshow(pixels, extent=(x, x + width, y + height, y), **style)
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.figure.savefig(path, format=form, dpi=self.figure.dpi)

    def framed_images(self) -> Iterator[tuple[Box, np.ndarray]]:
        """Places of all images in inches, with their pixels."""
        for box, values, scale in self.pasted:
            yield box, framed(values, scale, *(round(side * self.figure.dpi) for side in box[2:]))

    def text(self, x: float, y: float, words: str, size: float = 9, **options: Any) -> None:
        """Text below `y`, its lines at one height whatever their letters; or where `va` says."""
        style = {"fontsize": size, "parse_math": False} | options
        if "va" in options:
            self.axes.text(x, y, words, linespacing=LINE, **style)
            return
        for number, line in enumerate(words.split("\n")):
            self.axes.text(x, y + (ASCENT + LINE * number) * size / 72, line, va="baseline", linespacing=1, **style)

    def heading(self, x: float, y: float, words: str, size: float, **options: Any) -> None:
        """Bold text, smaller where the page is too narrow for it."""
        self.text(x, y, words, min(size, 100 * (self.width - x - 0.2) / max(1, len(words))), weight="bold", **options)

    def title(self, words: str, detail: str = "", size: float = 9) -> None:
        """A heading at the top left with one or two lines of detail of `size`; 0.9 inches high."""
        self.heading(0.25, 0.16, words, size + 4)
        self.text(0.25, 0.45, wrap_text(detail, self.width - 0.5, size, most=2), size, color="0.35")

    def image(
        self, x: float, y: float, width: float, height: float, values: np.ndarray, scale: Scale | None = None
    ) -> None:
        """Values (h, w) or RGB (h, w, 3) on a `scale`, or colours (h, w, 3), 0..1, in a thin frame."""
        self.pasted.append(((x, y, width, height), values, scale))

    def box(self, x: float, y: float, width: float, height: float, **options: Any) -> None:
        style = {"fill": False, "edgecolor": str(FRAME), "linewidth": 0.6}
        self.axes.add_patch(Rectangle((x, y), width, height, **style | options))

    def tiles(
        self,
        x: float,
        y: float,
        columns: int,
        size: float,
        tiles: Sequence[np.ndarray],
        labels: Sequence[str],
        scales: Sequence[Scale | None],
    ) -> None:
        """Square tiles (h, w) or (h, w, 3) of `size` inches in rows, each below its label and on its scale."""
        for index, (tile, label, scale) in enumerate(zip(tiles, labels, scales, strict=True)):
            left, top = x + index % columns * (size + 0.08), y + index // columns * (size + 0.22)
            self.text(left, top, label, 6.5, color="0.35")
            self.image(left, top + 0.13, size, size, tile, scale)

    @staticmethod
    def tiles_height(count: int, columns: int, size: float) -> float:
        return -(-count // columns) * (size + 0.22)

    def colour_bar(self, x: float, y: float, width: float, scale: Scale, label: str = "") -> None:
        """A horizontal colour bar with its numbers and label below; 0.5 inches high."""
        self.image(x, y, width, 0.12, np.linspace(scale.low, scale.high, 128)[None], scale)
        for place, value in ((0, scale.low), (0.5, (scale.low + scale.high) / 2), (1, scale.high)):
            side = {0: "left", 0.5: "center", 1: "right"}[place]
            self.text(x + place * width, y + 0.15, f"{value:.3g}", 6.5, ha=side, color="0.3")
        self.text(x + width / 2, y + 0.29, label, 7, ha="center", color="0.3")

    def lines(self, segments: Sequence[Any], **options: Any) -> None:
        """Straight lines ((x, y), (x, y)) behind everything else."""
        self.axes.add_collection(LineCollection(segments, zorder=1, **options))

    def steps(
        self, x: float, y: float, width: float, height: float, counts: Sequence[int], edges: Sequence[float]
    ) -> None:
        """A histogram with logarithmic counts, labelled left and below; many times faster than axes of its own."""
        top = max(1, math.ceil(math.log10(max(counts) + 1)))  # in powers of ten
        heights = np.log10(np.maximum(counts, 0.8)) - math.log10(0.8)  # a count of 1 is visible, 0 is not
        unit = height / (top - math.log10(0.8))
        corners = np.repeat(x + width * (np.asarray(edges) - edges[0]) / (edges[-1] - edges[0]), 2)
        outline = np.concatenate(([0], np.repeat(heights, 2), [0]))
        self.axes.fill_between(corners, y + height, y + height - unit * outline, color="#4c72b0", zorder=2, linewidth=0)
        levels = [(power, y + height - unit * (power - math.log10(0.8))) for power in range(top + 1)]
        self.lines([((x, level), (x + width, level)) for _, level in levels], colors="0.88", linewidths=0.5)
        for power, level in (levels[0], levels[-1]):
            words, style = f"$10^{power}$" if power else "1", {"ha": "right", "va": "center", "color": "0.3"}
            self.text(x - 0.05, level, words, 6.5, parse_math=True, **style)
        for side, value in (("left", edges[0]), ("right", edges[-1])):
            self.text(x + (side == "right") * width, y + height + 0.05, f"{value:.3g}", 6.5, ha=side, color="0.3")
        if edges[0] < 0 < edges[-1]:
            zero = x - width * edges[0] / (edges[-1] - edges[0])
            self.lines([((zero, y), (zero, y + height))], colors="0.6", linewidths=0.6, linestyles=":")
            if 0.12 * width < zero - x < 0.88 * width:
                self.text(zero, y + height + 0.05, "0", 6.5, ha="center", color="0.3")

    def bars(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        names: Sequence[str],
        values: Sequence[float],
        colours: Sequence[Any],
    ) -> None:
        """Horizontal bars of probabilities (0..1) with their names inside; many times faster than axes of its own."""
        step = height / len(names)
        for place, (name, value, colour) in enumerate(zip(names, values, colours, strict=True)):
            top, middle = y + (place + 0.08) * step, y + (place + 0.5) * step
            self.box(x, top, width, 0.84 * step, fill=True, facecolor="0.95", edgecolor="none")
            self.box(x, top, width * value, 0.84 * step, fill=True, facecolor=colour, edgecolor="none", alpha=0.55)
            self.text(x + 0.02 * width, middle, shorten(name), 8, va="center")
            self.text(x + 0.98 * width, middle, f"{value:.3f}", 8, va="center", ha="right")

    def plot(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes of a plot inside the given box; their labels need room outside it."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )


def wrap_text(words: str, width: float, size: float, most: int = 9) -> str:
    """Text wrapped into at most `most` lines of `width` inches at `size` points; the rest is cut off."""
    letters = max(8, int(width * 120 / size))  # a letter is about 0.6 times its size wide
    return textwrap.fill(words, letters, break_on_hyphens=False, max_lines=most, placeholder=" …")


def framed(values: np.ndarray, scale: Scale | None, width: int, height: int) -> np.ndarray:
    """Values as pixels (height, width, 3), 0..255, with a thin frame; few values become squares."""
    colours = values
    if scale:
        colours = scale.colour(values) if values.ndim == 2 else scale.share(values)
    how = Image.Resampling.BICUBIC if scale is None and len(values) > 32 else Image.Resampling.NEAREST
    how = Image.Resampling.BOX if len(values) > height else how
    image = Image.fromarray((np.clip(colours, 0, 1) * 255).round().astype(np.uint8))
    drawn = np.array(image.resize((width, height), how))
    drawn[[0, -1]] = drawn[:, [0, -1]] = round(255 * FRAME)
    return drawn


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[Any],
    marked: str | None = None,
    size: float = 8,
) -> None:
    """Horizontal bars of probabilities (0..1) with their names inside; the `marked` one in bold with an arrow."""
    room = 0.96 * axes.get_position().width * axes.figure.get_figwidth() * 72 / size  # in units of the letters' size
    for place, (name, value, colour) in enumerate(zip(names, values, colours, strict=True)):
        axes.barh(place, 1, 0.84, color="0.95")
        axes.barh(place, value, 0.84, color=colour, alpha=0.55)
        known = {"weight": "bold" if name == marked else "normal", "va": "center", "fontsize": size}
        mark, letters = (" ◂ true", room / 0.7 - 12) if name == marked else ("", room / 0.6 - 5)  # the number has five
        words = shorten(name, min(24, int(letters))) + mark
        axes.text(0.02, place, words, parse_math=False, **known)
        axes.text(0.98, place, f"{value:.3f}", ha="right", **known)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes.set_axis_off()
