"""The network on one page: a column per stage, five rows, and lines that say what follows from what.

Lines are one to one where a channel follows from a channel alone (a kernel makes its map, a ReLU keeps it), and a fan
where every channel of the left column goes into every channel of the right one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from errors import InputError
from example_figures import Answer, by_class, draw_picture, draw_probabilities
from files import write_json, write_whole
from hooks import find_layer
from layer_stats import kernel_tiles, most_active, to_unit_range
from sheet import UNIT_GREY, Scale, Sheet

KERNELS = "kernels:"  # before a layer's name: its kernels instead of what it puts out
ONE_CHANNEL = (nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.Identity)
TILE, GAP, PITCH, TOP = 1.0, 0.62, 1.24, 2.1  # inches
LINKED = 3  # classes that lines lead to
FROZEN, TRAINED, PLAIN = "#dfe7f3", "#fbe3d1", "0.92"
ADDS, TAKES = "#c03d3e", "#4c72b0"


@dataclass(frozen=True)
class Column:
    """One stage: kernels or maps of a layer, of which `channels` are drawn."""

    spec: str
    layer: str  # as recorded
    module: nn.Module
    maps: Tensor  # (C, h, w), what the layer puts out
    channels: tuple[int, ...] = ()

    @property
    def is_kernels(self) -> bool:
        return self.spec.startswith(KERNELS)


@dataclass(frozen=True)
class Link:
    """How a column follows from the one before: `one_to_one` or a fan, over `skipped` convolutions that are not shown.

    Attributes:
        weights: of a fan without skipped layers, (rows right, rows left): L2 norms of the kernels' slices.
    """

    one_to_one: bool
    skipped: int = 0
    weights: np.ndarray | None = None


def make_columns(model: nn.Module, specs: Sequence[str], acts: Mapping[str, Tensor], rows: int) -> list[Column]:
    """Columns in the order given; those that are linked one to one show the same channels, the last one's most active.

    Args:
        acts: what every leaf layer and every layer of `specs` put out, (C, h, w), in the order of the calls.

    Raises: InputError where the model has no such layer, or one without kernels or maps is asked for those.
    """
    columns = [make_column(model, spec, acts) for spec in specs]
    chosen: list[Column] = []
    chain: list[Column] = []
    for column, after in zip(columns, [*columns[1:], None], strict=True):
        chain.append(column)
        if after is None or not is_one_to_one(model, column, after, acts):
            channels = tuple(most_active(chain[-1].maps, rows))
            chosen += [Column(c.spec, c.layer, c.module, c.maps, channels) for c in chain]
            chain = []
    return chosen


def make_column(model: nn.Module, spec: str, acts: Mapping[str, Tensor]) -> Column:
    name, call = find_layer(model, spec.removeprefix(KERNELS))
    module = model.get_submodule(name)
    calls = [layer for layer in acts if layer.partition("#")[0] == name]
    if len(calls) > 1 and not call:
        raise InputError(f"layer {spec}: called {len(calls)} times in a forward pass; say which: {', '.join(calls)}")
    if spec.startswith(KERNELS) and not isinstance(module, nn.Conv2d):
        raise InputError(f"layer {spec}: {type(module).__name__} has no kernels; give a convolution")
    layer = calls[max(call, 1) - 1]
    if acts[layer].shape[1:] == (1, 1):
        raise InputError(f"layer {spec}: puts out single values, no maps; give an earlier layer")
    return Column(spec, layer, module, acts[layer])


def calls_between(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> list[nn.Module]:
    """The leaf layers that ran after `left` (None: from the start), up to and with `right`; no shortcuts' layers."""
    leaves = [layer for layer in acts if not any(model.get_submodule(layer.partition("#")[0]).children())]

    def place(column: Column) -> int:
        if column.layer in leaves:
            return leaves.index(column.layer)
        return max(i for i, leaf in enumerate(leaves) if leaf.startswith(column.layer + "."))  # the last one inside

    ran = leaves[place(left) + 1 if left else 0 : place(right) + 1]
    return [model.get_submodule(leaf.partition("#")[0]) for leaf in ran if "downsample" not in leaf]


def is_one_to_one(model: nn.Module, left: Column, right: Column, acts: Mapping[str, Tensor]) -> bool:
    if left.is_kernels and right.layer == left.layer and not right.is_kernels:
        return True
    ran = calls_between(model, left, right, acts)
    return bool(ran) and all(isinstance(module, ONE_CHANNEL) for module in ran)


def make_link(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> Link:
    if left and is_one_to_one(model, left, right, acts):
        return Link(one_to_one=True)
    mixing = [module for module in calls_between(model, left, right, acts) if isinstance(module, nn.Conv2d)]
    skipped = len(mixing) - (right.module in mixing)
    if left is None or skipped or not isinstance(right.module, nn.Conv2d):
        return Link(one_to_one=False, skipped=skipped)
    weight = right.module.weight.detach().float().cpu()  # (O, I, kh, kw)
    slices = weight[list(right.channels)][:, list(left.channels)]
    return Link(one_to_one=False, weights=slices.flatten(2).norm(dim=2).numpy())


def contributions(model: nn.Module, last: Column, acts: Mapping[str, Tensor]) -> np.ndarray | None:
    """What each row of the last column adds to the logits, (K, rows): weight × pooled value; None where not linear."""
    fc = model.get_submodule("fc")
    leaves = [layer for layer in acts if not any(model.get_submodule(layer.partition("#")[0]).children())]
    after = [model.get_submodule(layer.partition("#")[0]) for layer in leaves[leaves.index(last.layer) + 1 :]]
    if not all(isinstance(module, ONE_CHANNEL) for module in after[:-1]) or after[-1:] != [fc]:
        return None
    channels = list(last.channels)
    pooled = acts["avgpool"][channels, 0, 0]
    return (fc.weight.detach().float().cpu()[:, channels] * pooled).numpy()


def grid(
    path: Path, answer: Answer, model: nn.Module, columns: Sequence[Column], acts: Mapping[str, Tensor], detail: str
) -> None:
    """Draws the page; beside it the links and channels, .json, and the tiles, .npz."""
    rows = max(len(column.channels) for column in columns)
    sheet = Sheet(2.9 + len(columns) * (TILE + GAP) + 3.3, TOP + rows * PITCH + 1.15)
    sheet.title(f"The way through the network: {answer.words}", f"{answer.example.name} · {detail}")
    middle = TOP + rows * PITCH / 2
    wide, high = answer.example.picture.size
    size = min(2.0 / wide, 3.0 / high)
    draw_picture(
        sheet.plot(0.3 + 1 - wide * size / 2, middle - high * size / 2, wide * size, high * size), answer.example
    )
    links = [make_link(model, left, right, acts) for left, right in zip([None, *columns[:-1]], columns, strict=True)]
    tiles = {}
    for index, (column, link) in enumerate(zip(columns, links, strict=True)):
        x = column_place(index)
        left = [(x - GAP, row_middle(row)) for row in range(rows)] if index else [(2.35, middle)]
        draw_link(sheet, left, x, link, len(column.channels))
        tiles[column.spec] = draw_column(sheet, x, rows, column)
    draw_header(sheet, model, answer, columns)
    values = contributions(model, columns[-1], acts)
    draw_answer(sheet, column_place(len(columns)), rows, answer, values)
    sheet.text(0.3, sheet.height - 0.3, LEGEND, 7.5, color="0.35")
    sheet.save(path)
    write_whole(path.with_suffix(".npz"), lambda partial: save_arrays(partial, tiles))
    write_json(path.with_suffix(".json"), describe(answer, columns, links, values))


LEGEND = (
    "Lines: one to one where a channel follows from a channel alone; a fan where every channel goes into every one, "
    "darker for a larger norm of that slice of the kernel. To the classes: red adds to the logit, blue takes away."
)


def column_place(index: int) -> float:
    return 2.9 + index * (TILE + GAP)


def row_middle(row: int) -> float:
    return TOP + row * PITCH + 0.13 + TILE / 2


def draw_column(sheet: Sheet, x: float, rows: int, column: Column) -> np.ndarray:
    """Tiles and the colour bar. Returns what the tiles show."""
    channels = list(column.channels)
    if column.is_kernels:
        values = kernel_tiles(column.module)[channels]
        shown, scale, words = to_unit_range(values).numpy(), UNIT_GREY, "each its own range"
        colours = None if values.dim() == 4 else scale
    else:
        values = column.maps[channels].float()
        shown, scale, words = values.numpy(), Scale.of(values.numpy()), "activation"
        colours = scale
    for row, (tile, channel) in enumerate(zip(shown, channels, strict=True)):
        y = TOP + row * PITCH
        sheet.text(x, y, f"channel {channel}" if not column.is_kernels else f"kernel {channel}", 6.5, color="0.35")
        sheet.image(x, y + 0.13, TILE, TILE, tile, colours)
    sheet.colour_bar(x, TOP + rows * PITCH + 0.1, TILE, scale, words)
    return values.numpy()


def draw_link(sheet: Sheet, left: Sequence[tuple[float, float]], x: float, link: Link, rows: int) -> None:
    ends = [(x, row_middle(row)) for row in range(rows)]
    if link.one_to_one:
        sheet.lines(list(zip(left, ends, strict=False)), colors="0.35", linewidths=1.1)
        return
    shares = np.ones((rows, len(left))) if link.weights is None else link.weights / link.weights.max()
    pairs = [(start, end, shares[i, j]) for i, end in enumerate(ends) for j, start in enumerate(left)]
    pairs.sort(key=lambda pair: pair[2])
    alphas = [0.3 if link.weights is None else 0.06 + 0.84 * share**2 for _, _, share in pairs]
    colours = [(0.2, 0.2, 0.2, alpha) for alpha in alphas]
    sheet.lines([pair[:2] for pair in pairs], colors=colours, linewidths=0.8)
    if link.skipped:
        words = f"… {link.skipped} convolution{'s' if link.skipped > 1 else ''} …"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        middle = (ends[0][1] + ends[-1][1]) / 2
        sheet.text(x - GAP / 2, middle, words, 7.5, rotation=90, ha="center", va="center", bbox=box, color="0.3")


def draw_header(sheet: Sheet, model: nn.Module, answer: Answer, columns: Sequence[Column]) -> None:
    """The band above the columns: which part of the network, what layer, which shape."""
    size = answer.example.input.shape
    sheet.text(0.3, 1.32, f"picture, cut to\n{' × '.join(map(str, size))}", 7.5, color="0.3")
    inside = [column.layer.startswith("base_model") for column in columns]
    edges = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(inside)) if a != b), len(columns)]
    parts = [(0.3, 2.0, "input", PLAIN)]
    for first, last in pairwise(edges):
        words, colour = ("ResNet-50, frozen", FROZEN) if inside[first] else ("head, trained", TRAINED)
        parts.append((column_place(first) - 0.1, (last - first) * (TILE + GAP) - GAP + 0.2, words, colour))
    parts.append((column_place(len(columns)), 3.0, "answer", PLAIN))
    for x, width, words, colour in parts:
        sheet.box(x, 0.92, width, 0.3, fill=True, facecolor=colour, edgecolor="none")
        sheet.text(x + width / 2, 0.99, words, 9, ha="center", weight="bold")
    for index, column in enumerate(columns):
        name = column.layer.removeprefix("base_model.")
        shape = " × ".join(map(str, column.module.weight.shape if column.is_kernels else column.maps.shape))
        kind = f"kernels of\n{name}" if column.is_kernels else f"{name}\n{type_name(column.module)}"
        if column.layer == "base_model":
            kind = "end of ResNet\n= input of the head"
        sheet.text(column_place(index) - 0.1, 1.32, f"{kind}\n{shape}", 7.5, color="0.3")


def type_name(module: nn.Module) -> str:
    return "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__


def draw_answer(sheet: Sheet, x: float, rows: int, answer: Answer, values: np.ndarray | None) -> None:
    """Class probabilities, and lines from the last column to the most probable ones."""
    count = min(len(answer.classes), 15)
    height = rows * PITCH - 0.1
    draw_probabilities(sheet.plot(x, TOP + 0.1, 3.0, height), answer, most=count)
    sheet.text(x, 1.32, f"probabilities\nof {len(answer.classes)} classes", 7.5, color="0.3")
    order = np.argsort(-answer.probabilities, kind="stable")[: min(LINKED, count)].tolist()
    largest = 1.0 if values is None else float(np.abs(values[order]).max()) or 1.0
    step = height / count
    for place, index in enumerate(order):
        end = (x, TOP + 0.1 + (place + 0.5) * step)
        for row in range(rows if values is None else values.shape[1]):
            share = 0.4 if values is None else float(values[index, row]) / largest
            colour = "0.6" if values is None else ADDS if share > 0 else TAKES
            options = {"colors": colour, "linewidths": 0.3 + 2 * abs(share), "alpha": 0.25 + 0.6 * abs(share)}
            sheet.lines([((x - GAP, row_middle(row)), end)], **options)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def describe(answer: Answer, columns: Sequence[Column], links: Sequence[Link], values: np.ndarray | None) -> dict:
    rows = [
        {
            "column": column.spec,
            "layer": column.layer,
            "shape": list(column.maps.shape),
            "channels": list(column.channels),
            "link": "one to one" if link.one_to_one else "fan",
            "skipped_convolutions": link.skipped,
            "kernel_norms": None if link.weights is None else link.weights.tolist(),
        }
        for column, link in zip(columns, links, strict=True)
    ]
    added = None if values is None else dict(zip(answer.classes, values.tolist(), strict=True))
    return {
        "image": answer.example.name,
        "true": answer.example.true,
        "predicted": answer.predicted,
        "probabilities": by_class(answer),
        "columns": rows,
        "logit_contributions": added,
    }
