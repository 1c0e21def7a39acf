"""Figures of one example: the image, its probabilities, attributions, and the overview page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from dataset import middle
from figures.layers import shortened, trend
from figures.page import Page, Scale, bars, wrap_text
from inspection.examples import Example, Prediction
from inspection.layer_names import describe_layer, module_of
from inspection.layer_stats import is_rgb, kernel_tiles, strongest_inputs
from runtime.files import write_array, write_json
from runtime.text import shorten

RIGHT, WRONG, OTHER = "#3a923a", "#c03d3e", "0.6"
MOST_BARS = 200
STRIP, KERNELS = 10, 6  # tiles in a layer's line of the overview
CLIPPED = 98  # percentile of an attribution map's absolute values at which its colours end, as captum's own plots
COLOURS_END = f"colours end at the {CLIPPED}th percentile of each map"
METHOD_UNITS = {
    "Grad-CAM": "gradient × activation",
    "occlusion": "drop of the logit when covered",
    "integrated gradients": "share of the logit per pixel",
}


@dataclass(frozen=True)
class Attribution:
    """Attribution maps (S, S) for one class by method; `role` is "predicted", "true" or "runner-up"."""

    name: str
    role: str
    probability: float
    maps: Mapping[str, np.ndarray]


def verdict_color(prediction: Prediction) -> str:
    """Green for a right prediction, red for a wrong one, black where the true class is unknown."""
    true = prediction.example.true
    return "black" if true is None else RIGHT if true == prediction.predicted else WRONG


def draw_image(axes: Axes, example: Example) -> None:
    """The full image; a dashed frame shows the network's crop."""
    wide, high = example.image.size
    small = example.image.copy()
    small.thumbnail((1400, 1400))  # a page has no more pixels for it, and large images take seconds
    axes.imshow(small, extent=(-0.5, wide - 0.5, high - 0.5, -0.5))
    left, top, right, bottom = middle(wide, high)
    for colour, style in (("black", "-"), ("white", (0, (4, 4)))):
        frame = {"edgecolor": colour, "linestyle": style, "linewidth": 1.2}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, **frame))
    axes.set_axis_off()


def original(path: Path, prediction: Prediction, detail: str) -> None:
    """The image with its true and its predicted class."""
    example = prediction.example
    wide, high = example.image.size
    width = min(6.0, 8.0 * wide / high)
    height = width * high / wide
    page = Page(6.5, height + 1.85)
    page.heading(0.25, 0.18, f"true: {'unknown' if example.true is None else example.true}", 13)
    verdict = f"predicted: {prediction.predicted} ({prediction.probabilities.max():.1%})"
    page.heading(0.25, 0.47, verdict, 13, color=verdict_color(prediction))
    page.text(0.25, 0.8, f"{example.label}\n{wrap_text(detail, 6.0, 8, most=2)}", 8, color="0.35")
    draw_image(page.plot(0.25, 1.35, width, height), example)
    page.text(0.25, height + 1.48, "dashed frame: the crop that the network sees", 8, color="0.35")
    page.save(path)


def shown_classes(prediction: Prediction, most: int) -> list[int]:
    """The most probable classes, highest first; the true one replaces the last where it is not among them."""
    order = np.argsort(-prediction.probabilities, kind="stable").tolist()
    shown, true = order[:most], prediction.example.true
    if true in prediction.classes and prediction.classes.index(true) not in shown:
        shown[-1] = prediction.classes.index(true)
    return shown


def draw_probabilities(axes: Axes, prediction: Prediction, most: int, size: float = 8) -> None:
    """Bars of the most probable classes, the true one marked."""
    order = shown_classes(prediction, most)
    names, true = [prediction.classes[index] for index in order], prediction.example.true
    colours = [RIGHT if name == true else WRONG if name == prediction.predicted and true else OTHER for name in names]
    bars(axes, names, prediction.probabilities[order].tolist(), colours, true, size)


def probabilities(path: Path, prediction: Prediction, detail: str) -> None:
    """All classes (of very many the first) from the most probable down; writes them beside the figure, .json."""
    write_json(path.with_suffix(".json"), prediction.by_class)
    count = min(len(prediction.classes), MOST_BARS)
    page = Page(6.5, 1.2 + 0.27 * count)
    cut = "" if count == len(prediction.classes) else f": {count} of {len(prediction.classes)}"
    page.title(f"Class probabilities{cut}", f"{prediction.example.label} · {detail}")
    draw_probabilities(page.plot(0.25, 0.95, 6.0, 0.27 * count), prediction, count)
    page.save(path)


def draw_attribution(page: Page, x: float, y: float, size: float, pixels: np.ndarray, values: np.ndarray) -> Scale:
    """A map over the grey image, which shines through where values are small. Returns the map's scale."""
    scale = attribution_scale(values)
    grey = pixels.mean(axis=2, keepdims=True)
    strength = np.minimum(1.3 * np.abs(values) / scale.high, 0.75)[..., None]
    page.image(x, y, size, size, grey * (1 - strength) + scale.colour(values) * strength)
    return scale


def attribution_scale(values: np.ndarray) -> Scale:
    """Ends at a percentile: of integrated gradients, single pixels exceed it many times and would hide all others."""
    size = np.abs(values)
    top = float(size.max())
    end = float(np.percentile(size, CLIPPED)) or top or 1.0
    return Scale("RdBu_r", -end, end, top) if (values < 0).any() else Scale("inferno", 0.0, end, top)


def attribution_unit(method: str, scale: Scale) -> str:
    """Label of a map's colour bar."""
    unit = METHOD_UNITS.get(method.split(" · ")[0], "")
    return f"{unit}; largest {scale.largest:.3g}" if unit else ""


def attributions(path: Path, prediction: Prediction, rows: Sequence[Attribution], detail: str) -> None:
    """A line per class: the network's input, then each method's map.

    Writes all maps beside the figure, .npy (class, method, S, S).
    """
    write_array(path.with_suffix(".npy"), np.stack([np.stack(list(row.maps.values())) for row in rows]))
    size, methods, pixels = 2.5, list(rows[0].maps), prediction.example.input_pixels
    page = Page(0.2 + (len(methods) + 1) * (size + 0.3), 1.2 + len(rows) * (size + 1.35))
    page.title("Attributions", f"{prediction.example.label} · {prediction.summary} · {detail}")
    page.text(0.25, 0.9, f"{COLOURS_END}; red raises the class's logit, blue lowers it", 8)
    for line, row in enumerate(rows):
        y = 1.8 + line * (size + 1.35)
        page.text(0.25, y - 0.55, f"{row.role}: {shorten(row.name)} ({row.probability:.1%})", 10, weight="bold")
        page.text(0.25, y - 0.2, "input of the network", 9)
        page.image(0.25, y, size, size, pixels)
        for place, name in enumerate(methods):
            x = 0.25 + (place + 1) * (size + 0.3)
            page.text(x, y - 0.2, name, 9)
            scale = draw_attribution(page, x, y, size, pixels, row.maps[name])
            page.colour_bar(x, y + size + 0.1, size, scale, attribution_unit(name, scale))
    page.save(path)


def overview(
    path: Path,
    prediction: Prediction,
    model: nn.Module,
    acts: Mapping[str, Tensor],
    channels: Mapping[str, Sequence[int]],
    rows: Sequence[Attribution],
    stats: Mapping[str, Mapping[str, Mapping[str, Any]]],
    detail: str,
) -> None:
    """One page: image, probabilities, attributions, each layer's kernels and maps, statistics by depth.

    Args:
        acts: maps (C, h, w) by layer, from input to output.
        channels: up to `STRIP` to show, by layer.
        rows: of `attributions`; may be empty.
        stats: of "activations" and, where the true class is known, "gradients": `layer_stats.histogram` by layer.
    """
    layers = {layer: maps for layer, maps in acts.items() if maps.shape[1:] != (1, 1)}
    top, line = 4.9, 1.0
    page = Page(16.2, top + line * len(layers) + 3.5)
    page.heading(0.3, 0.18, f"From image to prediction: {prediction.summary}", 15, color=verdict_color(prediction))
    detail = wrap_text(f"{prediction.example.label} · {detail}", 15.6, 9, most=1)
    page.text(0.3, 0.52, detail, 9, color="0.35")
    draw_head(page, prediction, rows)
    page.text(3.0, top - 0.45, "kernels of the channels to the right", 10, weight="bold")
    page.text(3.0, top - 0.24, "12 ← 345: kernel 12, its slice for input channel 345, the strongest", 8)
    words = "activations of the most active channels (of a convolution: of the ReLU after it), each on its own scale"
    page.text(7.0, top - 0.45, words, 10, weight="bold")
    for index, (layer, maps) in enumerate(layers.items()):
        module = module_of(model, layer)
        draw_layer(page, top + index * line, layer, module, maps, channels[layer])
    y = top + line * len(layers) + 0.25
    for place, (kind, key) in enumerate((("activations", "std"), ("activations", "zeros"), ("gradients", "std"))):
        if kind in stats:
            trend(page, 0.95 + place * 5.2, y, 4.3, stats[kind], key, kind)
    page.save(path)


def draw_head(page: Page, prediction: Prediction, rows: Sequence[Attribution]) -> None:
    """Image, probabilities and up to three attribution maps of the predicted class."""
    example = prediction.example
    wide, high = example.image.size
    scale = min(4.3 / wide, 2.9 / high)
    page.text(0.3, 0.9, "image", 10, weight="bold")
    draw_image(page.plot(0.3, 1.15, wide * scale, high * scale), example)
    page.text(4.9, 0.9, "probabilities", 10, weight="bold")
    draw_probabilities(page.plot(4.9, 1.15, 3.2, 2.9), prediction, most=13)
    if not rows:
        return
    size = 2.3
    for place, (name, values) in enumerate(rows[0].maps.items()):
        x = 8.4 + place * (size + 0.25)
        page.text(x, 0.9, name, 10, weight="bold")
        used = draw_attribution(page, x, 1.15, size, example.input_pixels, values)
        page.colour_bar(x, 1.25 + size, size, used, attribution_unit(name, used))
    page.text(8.4, 4.08, f"for {shorten(rows[0].name)} ({rows[0].role}) · {COLOURS_END}", 9, color="0.35")


def draw_layer(page: Page, y: float, layer: str, module: nn.Module, maps: Tensor, channels: Sequence[int]) -> None:
    """A line of the overview: the layer's name, kernels and maps."""
    size = 0.8
    page.text(0.3, y + 0.1, shortened(layer), 9, weight="bold")
    shape = " × ".join(map(str, maps.shape))
    page.text(0.3, y + 0.3, f"{describe_layer(module)}\n{shape}", 8, color="0.35")
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        draw_kernels(page, 3.0, y, module, channels[:KERNELS])
    values = maps[list(channels)].float().numpy()
    signed = bool((maps < 0).any())
    scales = [Scale.of(tile, signed) for tile in values]
    labels = [f"{channel} · {scale.range}" for channel, scale in zip(channels, scales, strict=True)]
    page.tiles(7.0, y, STRIP, size, values, labels, scales)


def draw_kernels(page: Page, x: float, y: float, conv: nn.Conv2d, channels: Sequence[int]) -> None:
    """Kernels of a line: in RGB, or the slice of each for its strongest input channel; one scale for all."""
    tiles, names = kernel_tiles(conv, "strongest")[list(channels)].numpy(), [str(channel) for channel in channels]
    if not is_rgb(conv):
        inputs = strongest_inputs(conv, 1)[list(channels), 0].tolist()
        names = [f"{name} ← {number}" for name, number in zip(names, inputs, strict=True)]
    scale = Scale.of_kernels(tiles)
    page.tiles(x, y, KERNELS, 0.55, tiles, names, [scale] * len(tiles))
    page.text(x, y + 0.72, f"one scale for the line: {scale.range}, 0 is {scale.zero}", 6.5, color="0.35")
