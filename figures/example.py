"""Pictures of one example: itself, its probabilities, what spoke for a class, and everything on one page."""

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
from figures.page import UNIT_GREY, Page, Scale, bars, short, wrap_text
from hooks import describe_layer, module_of
from inspection.examples import Example
from inspection.layer_stats import kernel_tiles, most_active, to_unit_range
from runtime.files import write_array, write_json

RIGHT, WRONG, OTHER = "#3a923a", "#c03d3e", "0.6"
MOST_BARS = 200
STRIP, KERNELS = 10, 6  # tiles of a layer's line in the overview


@dataclass(frozen=True)
class Prediction:
    """What the network says about an example: `probabilities` (K,) over `classes`."""

    example: Example
    classes: Sequence[str]
    probabilities: np.ndarray

    @property
    def predicted(self) -> str:
        return self.classes[int(self.probabilities.argmax())]

    @property
    def colour(self) -> str:
        true = self.example.true
        return "black" if true is None else RIGHT if true == self.predicted else WRONG

    @property
    def words(self) -> str:
        said = f"predicted {short(self.predicted)} ({self.probabilities.max():.0%})"
        return f"true {short(self.example.true)}, {said}" if self.example.true is not None else said


@dataclass(frozen=True)
class Attribution:
    """Maps (S, S) that say where a picture speaks for one class; `role` is "predicted", "true" or "runner-up"."""

    name: str
    role: str
    probability: float
    maps: Mapping[str, np.ndarray]


def draw_image(axes: Axes, example: Example) -> None:
    """The whole picture; a frame shows the part that the network sees."""
    wide, high = example.picture.size
    small = example.picture.copy()
    small.thumbnail((1400, 1400))  # a page has no more pixels for it, and large ones take seconds
    axes.imshow(small, extent=(-0.5, wide - 0.5, high - 0.5, -0.5))
    left, top, right, bottom = middle(wide, high)
    for colour, style in (("black", "-"), ("white", (0, (4, 4)))):
        frame = {"edgecolor": colour, "linestyle": style, "linewidth": 1.2}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, **frame))
    axes.set_axis_off()


def original(path: Path, answer: Prediction, detail: str) -> None:
    """The picture with its true and its predicted class."""
    wide, high = answer.example.picture.size
    width = min(6.0, 8.0 * wide / high)
    height = width * high / wide
    sheet = Page(6.5, height + 1.85)
    true = answer.example.true
    sheet.heading(0.25, 0.18, f"true: {'unknown' if true is None else true}", 13)
    verdict = f"predicted: {answer.predicted} ({answer.probabilities.max():.1%})"
    sheet.heading(0.25, 0.47, verdict, 13, color=answer.colour)
    sheet.text(0.25, 0.8, f"{answer.example.label}\n{wrap_text(detail, 6.0, 8, most=2)}", 8, color="0.35")
    draw_image(sheet.plot(0.25, 1.35, width, height), answer.example)
    sheet.text(0.25, height + 1.48, "dashed frame: the part that the network sees", 8, color="0.35")
    sheet.save(path)


def shown_classes(answer: Prediction, most: int) -> list[int]:
    """The most probable classes, highest first; the true one takes the last place where it is not among them."""
    order = np.argsort(-answer.probabilities, kind="stable").tolist()
    shown, true = order[:most], answer.example.true
    if true in answer.classes and answer.classes.index(true) not in shown:
        shown[-1] = answer.classes.index(true)
    return shown


def draw_probabilities(axes: Axes, answer: Prediction, most: int) -> None:
    order = shown_classes(answer, most)
    names, true = [answer.classes[index] for index in order], answer.example.true
    colours = [RIGHT if name == true else WRONG if name == answer.predicted and true else OTHER for name in names]
    bars(axes, names, answer.probabilities[order].tolist(), colours, marked=true)


def probabilities(path: Path, answer: Prediction, detail: str) -> None:
    """All classes (of very many the first) from the most probable down, the true one marked; the numbers, .json."""
    write_json(path.with_suffix(".json"), by_class(answer))
    count = min(len(answer.classes), MOST_BARS)
    sheet = Page(6.5, 1.2 + 0.27 * count)
    cut = "" if count == len(answer.classes) else f": {count} of {len(answer.classes)}"
    sheet.title(f"Class probabilities{cut}", f"{answer.example.label} · {detail}")
    draw_probabilities(sheet.plot(0.25, 0.95, 6.0, 0.27 * count), answer, count)
    sheet.save(path)


def by_class(answer: Prediction) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(answer.classes, answer.probabilities, strict=True)}


def draw_attribution(sheet: Page, x: float, y: float, size: float, view: np.ndarray, values: np.ndarray) -> Scale:
    """A map over the grey picture: the larger a value, the less of the picture shines through. Returns its scale."""
    signed = bool((values < 0).any())
    top = float(np.abs(values).max()) or 1.0
    scale = Scale("RdBu_r", -top, top) if signed else Scale("inferno", 0.0, top)
    grey = view.mean(axis=2, keepdims=True)
    strength = np.minimum(1.3 * np.abs(values) / top, 0.75)[..., None]
    sheet.image(x, y, size, size, grey * (1 - strength) + scale.colour(values) * strength)
    return scale


def attributions(path: Path, answer: Prediction, rows: Sequence[Attribution], detail: str) -> None:
    """A line per class: the picture, then each method's map. Beside it all maps, .npy (class, method, S, S)."""
    write_array(path.with_suffix(".npy"), np.stack([np.stack(list(row.maps.values())) for row in rows]))
    size, methods = 2.5, list(rows[0].maps)
    sheet = Page(0.2 + (len(methods) + 1) * (size + 0.3), 1.0 + len(rows) * (size + 1.35))
    sheet.title("What spoke for the class", f"{answer.example.label} · {answer.words} · {detail}")
    for line, row in enumerate(rows):
        y = 1.6 + line * (size + 1.35)
        sheet.text(0.25, y - 0.55, f"{row.role}: {short(row.name)} ({row.probability:.1%})", 10, weight="bold")
        sheet.text(0.25, y - 0.2, "what the network sees", 9)
        sheet.image(0.25, y, size, size, answer.example.view)
        for place, name in enumerate(methods):
            x = 0.25 + (place + 1) * (size + 0.3)
            sheet.text(x, y - 0.2, name, 9)
            scale = draw_attribution(sheet, x, y, size, answer.example.view, row.maps[name])
            sheet.colour_bar(x, y + size + 0.1, size, scale, METHOD_UNITS.get(name.split(" · ")[0], ""))
    sheet.save(path)


METHOD_UNITS = {
    "Grad-CAM": "gradient × activation",
    "occlusion": "fall of the logit where it is covered",
    "integrated gradients": "share of the logit, per pixel",
}


def overview(
    path: Path,
    answer: Prediction,
    model: nn.Module,
    acts: Mapping[str, Tensor],
    rows: Sequence[Attribution],
    stats: Mapping[str, Mapping[str, Mapping[str, Any]]],
    detail: str,
) -> None:
    """One page: picture, probabilities, what spoke for the class, every layer's kernels and maps, and how values go.

    Args:
        acts: maps (C, h, w) by layer, from input to output.
        rows: of `attributions`; may be empty.
        stats: of "activations" and, where there is a true class, "gradients": `layer_stats.histogram` by layer.
    """
    layers = {layer: maps for layer, maps in acts.items() if maps.shape[1:] != (1, 1)}
    top, line = 4.9, 1.0
    sheet = Page(16.2, top + line * len(layers) + 3.5)
    sheet.heading(0.3, 0.18, f"From picture to answer: {answer.words}", 15, color=answer.colour)
    sheet.text(0.3, 0.52, wrap_text(f"{answer.example.label} · {detail}", 15.6, 9, most=1), 9, color="0.35")
    draw_head(sheet, answer, rows)
    sheet.text(3.0, top - 0.45, "kernels of the channels at the right", 10, weight="bold")
    words = "activations of the most active channels (a convolution: of the ReLU below it), each on its own scale"
    sheet.text(7.0, top - 0.45, words, 10, weight="bold")
    channels = strip_channels(model, layers)
    for index, (layer, maps) in enumerate(layers.items()):
        module = module_of(model, layer)
        draw_layer(sheet, top + index * line, layer, module, maps, channels[layer])
    y = top + line * len(layers) + 0.25
    for place, (kind, key) in enumerate((("activations", "std"), ("activations", "zeros"), ("gradients", "std"))):
        if kind in stats:
            trend(sheet, 0.95 + place * 5.2, y, 4.3, stats[kind], key, kind)
    sheet.save(path)


def draw_head(sheet: Page, answer: Prediction, rows: Sequence[Attribution]) -> None:
    """Picture, probabilities and up to three maps of the predicted class, below one another's headings."""
    wide, high = answer.example.picture.size
    scale = min(4.3 / wide, 2.9 / high)
    sheet.text(0.3, 0.9, "picture", 10, weight="bold")
    draw_image(sheet.plot(0.3, 1.15, wide * scale, high * scale), answer.example)
    sheet.text(4.9, 0.9, "probabilities", 10, weight="bold")
    draw_probabilities(sheet.plot(4.9, 1.15, 3.2, 2.9), answer, most=13)
    if not rows:
        return
    size = 2.3
    for place, (name, values) in enumerate(rows[0].maps.items()):
        x = 8.4 + place * (size + 0.25)
        sheet.text(x, 0.9, name, 10, weight="bold")
        used = draw_attribution(sheet, x, 1.15, size, answer.example.view, values)
        sheet.colour_bar(x, 1.25 + size, size, used, METHOD_UNITS.get(name.split(" · ")[0], ""))
    sheet.text(8.4, 4.08, f"for {short(rows[0].name)} ({rows[0].role})", 9, color="0.35")


def strip_channels(model: nn.Module, acts: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Which channels the overview shows: the most active, but of a convolution those of a ReLU shown right after it."""
    chosen: dict[str, list[int]] = {}
    after = ""
    for layer, maps in reversed(acts.items()):
        same = after and isinstance(module_of(model, after), nn.ReLU) and isinstance(module_of(model, layer), nn.Conv2d)
        same = same and maps.shape == acts[after].shape
        chosen[layer] = chosen[after] if same else most_active(maps, STRIP)
        after = layer
    return chosen


def draw_layer(sheet: Page, y: float, layer: str, module: nn.Module, maps: Tensor, channels: Sequence[int]) -> None:
    size = 0.8
    sheet.text(0.3, y + 0.1, shortened(layer), 9, weight="bold")
    shape = " × ".join(map(str, maps.shape))
    sheet.text(0.3, y + 0.3, f"{describe_layer(module)}\n{shape}", 8, color="0.35")
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        tiles = kernel_tiles(module)[channels[:KERNELS]]
        scale = None if tiles.dim() == 4 else UNIT_GREY
        names = [str(channel) for channel in channels[:KERNELS]]
        sheet.tiles(3.0, y, KERNELS, 0.55, to_unit_range(tiles).numpy(), names, [scale] * len(tiles))
    values = maps[list(channels)].float().numpy()
    signed = bool((maps < 0).any())
    scales = [Scale.of(tile, signed) for tile in values]
    labels = [f"{channel} · {scale.range}" for channel, scale in zip(channels, scales, strict=True)]
    sheet.tiles(7.0, y, STRIP, size, values, labels, scales)
