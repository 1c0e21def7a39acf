"""The network on one page: a column per stage, five rows, and lines that say what follows from what.

Lines are one to one where a channel follows from the one of its number (a kernel makes its map, a ReLU keeps it;
shortcuts are not drawn), and a fan where every channel of the left column goes into every channel of the right one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from errors import InputError
from example_figures import Answer, by_class, draw_picture, draw_probabilities
from files import write_arrays, write_json
from hooks import find_layer, module_of
from layer_stats import kernel_tiles, most_active, to_unit_range
from sheet import UNIT_GREY, Scale, Sheet, lines_of

SHORTCUT = "downsample"
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

    Raises: InputError where the model has no such layer, or one without kernels or maps is asked for those, or the
        columns are not in the order of the network.
    """
    columns = [make_column(model, spec, acts) for spec in specs]
    for left, right in pairwise(columns):
        if not is_before(model, left, right, acts):
            raise InputError(f"layer {right.spec}: does not come after {left.spec}; give layers in the network's order")
    chosen: list[Column] = []
    chain: list[Column] = []
    for column, after in zip(columns, [*columns[1:], None], strict=True):
        chain.append(column)
        if after is None or not is_one_to_one(model, column, after, acts):
            channels = tuple(most_active(chain[-1].maps, rows))
            chosen += [replace(column, channels=channels) for column in chain]
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
    if SHORTCUT in name:
        raise InputError(f"layer {spec}: lies on a shortcut beside the way that the page draws; leave it out")
    layer = calls[max(call, 1) - 1]
    if acts[layer].shape[1:] == (1, 1):
        raise InputError(f"layer {spec}: puts out single values, no maps; give an earlier layer")
    return Column(spec, layer, module, acts[layer])


def leaves_of(model: nn.Module, acts: Mapping[str, Tensor]) -> list[str]:
    """The layers that hold no others, by call, from input to output."""
    return [layer for layer in acts if not any(module_of(model, layer).children())]


def place_of(model: nn.Module, column: Column, acts: Mapping[str, Tensor]) -> int:
    """The position of a column's layer, or of the last one inside it, among the leaves."""
    inside = column.layer + "."
    found = [i for i, leaf in enumerate(leaves_of(model, acts)) if leaf == column.layer or leaf.startswith(inside)]
    return found[-1]


def is_before(model: nn.Module, left: Column, right: Column, acts: Mapping[str, Tensor]) -> bool:
    """Whether two columns can stand side by side; a layer's kernels stand before its map."""
    first, second = place_of(model, left, acts), place_of(model, right, acts)
    if left.layer == right.layer:
        return left.is_kernels and not right.is_kernels
    return first < second or (first == second and not right.is_kernels)


def ran_between(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> list[nn.Module]:
    """The leaf layers that ran after `left` (None: from the start), up to and with `right`; no shortcuts' layers."""
    start = place_of(model, left, acts) + 1 if left else 0
    ran = leaves_of(model, acts)[start : place_of(model, right, acts) + 1]
    return [module_of(model, leaf) for leaf in ran if SHORTCUT not in leaf]


def is_one_to_one(model: nn.Module, left: Column, right: Column, acts: Mapping[str, Tensor]) -> bool:
    return all(isinstance(module, ONE_CHANNEL) for module in ran_between(model, left, right, acts))


def make_link(model: nn.Module, left: Column | None, right: Column, acts: Mapping[str, Tensor]) -> Link:
    """How `right` follows from the column before it, or from the picture (None)."""
    if left and is_one_to_one(model, left, right, acts):
        return Link(one_to_one=True)
    mixing = [module for module in ran_between(model, left, right, acts) if isinstance(module, nn.Conv2d)]
    if left is None or mixing != [right.module]:
        return Link(one_to_one=False, skipped=len(mixing) - (right.module in mixing))
    weight = right.module.weight.detach().float().cpu()  # (O, I, kh, kw)
    slices = weight[list(right.channels)][:, list(left.channels)]
    return Link(one_to_one=False, weights=slices.flatten(2).norm(dim=2).numpy())


def contributions(model: nn.Module, last: Column, acts: Mapping[str, Tensor]) -> np.ndarray | None:
    """What each row of the last column adds to the logits, (K, rows): weight × pooled value; None where not linear."""
    fc = model.get_submodule("fc")
    after = [module_of(model, leaf) for leaf in leaves_of(model, acts)[place_of(model, last, acts) + 1 :]]
    if last.is_kernels or not all(isinstance(module, ONE_CHANNEL) for module in after[:-1]) or after[-1:] != [fc]:
        return None
    channels = list(last.channels)
    pooled = acts["avgpool"][channels, 0, 0]
    return (fc.weight.detach().float().cpu()[:, channels] * pooled).numpy()


def shown_values(column: Column, maps: Tensor) -> Tensor:
    """What a column's tiles show: of its kernels as they are now, or of the maps (C, h, w) given, its channels."""
    return (kernel_tiles(column.module) if column.is_kernels else maps.float())[list(column.channels)]


def grid(
    path: Path, answer: Answer, model: nn.Module, columns: Sequence[Column], acts: Mapping[str, Tensor], detail: str
) -> None:
    """Draws the page; beside it the links and channels, .json, and the tiles, .npz."""
    rows = max(len(column.channels) for column in columns)
    body = max(rows, 3) * PITCH  # fewer would leave no room for picture and probabilities
    width = 2.9 + len(columns) * (TILE + GAP) + 3.3
    legend = lines_of(LEGEND, width - 0.6, 7.5)
    sheet = Sheet(width, TOP + body + 0.95 + 0.15 * (legend.count("\n") + 1))
    sheet.title(f"The way through the network: {answer.words}", f"{answer.example.label} · {detail}")
    middle = TOP + body / 2
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
    draw_answer(sheet, column_place(len(columns)), body - 0.1, answer, values)
    sheet.text(0.3, TOP + body + 0.8, legend, 7.5, color="0.35")
    sheet.save(path)
    write_arrays(path.with_suffix(".npz"), tiles)
    write_json(path.with_suffix(".json"), describe(answer, columns, links, values))


LEGEND = (
    "Lines: one to one where a channel follows from the one of its number (shortcuts are not drawn); a fan where every "
    "channel goes into every one. Where a single convolution lies between two columns, a line is the darker the larger "
    "the norm of its slice of the kernel. To the classes: red adds to the logit, blue takes away."
)


def column_place(index: int) -> float:
    return 2.9 + index * (TILE + GAP)


def row_middle(row: int) -> float:
    return TOP + row * PITCH + 0.13 + TILE / 2


def draw_column(sheet: Sheet, x: float, rows: int, column: Column) -> np.ndarray:
    """Tiles and the colour bar. Returns what the tiles show."""
    values = shown_values(column, column.maps)
    if column.is_kernels:
        shown, scale, words = to_unit_range(values).numpy(), UNIT_GREY, "each its own range"
        colours = None if values.dim() == 4 else scale
    else:
        shown, scale, words = values.numpy(), Scale.of(values.numpy()), "activation"
        colours = scale
    for row, (tile, channel) in enumerate(zip(shown, column.channels, strict=True)):
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
        trained = any(parameter.requires_grad for parameter in columns_parameters(model, inside[first]))
        words = f"{'ResNet-50' if inside[first] else 'head'}, {'trained' if trained else 'frozen'}"
        colour = TRAINED if trained else FROZEN
        parts.append((column_place(first) - 0.1, (last - first) * (TILE + GAP) - GAP + 0.2, words, colour))
    parts.append((column_place(len(columns)), 3.0, "answer", PLAIN))
    for x, width, words, colour in parts:
        sheet.box(x, 0.92, width, 0.3, fill=True, facecolor=colour, edgecolor="none")
        sheet.text(x + width / 2, 0.99, words, min(9, 100 * width / len(words)), ha="center", weight="bold")
    for index, column in enumerate(columns):
        name = column.layer.removeprefix("base_model.")
        shape = " × ".join(map(str, column.module.weight.shape if column.is_kernels else column.maps.shape))
        kind = f"kernels of\n{name}" if column.is_kernels else f"{name}\n{type_name(column.module)}"
        if column.layer == "base_model":
            kind = "end of ResNet\n= input of the head"
        sheet.text(column_place(index) - 0.1, 1.32, f"{kind}\n{shape}", 7.5, color="0.3")


def columns_parameters(model: nn.Module, of_backbone: bool) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.startswith("base_model.") == of_backbone]


def type_name(module: nn.Module) -> str:
    return "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__


def draw_answer(sheet: Sheet, x: float, height: float, answer: Answer, values: np.ndarray | None) -> None:
    """Class probabilities, and lines from the last column to the most probable, where its channels add to them."""
    count = min(len(answer.classes), 15)
    draw_probabilities(sheet.plot(x, TOP + 0.1, 3.0, height), answer, most=count)
    of = f"{count} of {len(answer.classes)}" if count < len(answer.classes) else f"{count}"
    sheet.text(x, 1.32, f"probabilities\nof {of} classes", 7.5, color="0.3")
    if values is None:
        return
    order = np.argsort(-answer.probabilities, kind="stable")[: min(LINKED, count)].tolist()
    largest = float(np.abs(values[order]).max()) or 1.0
    step = height / count
    for place, index in enumerate(order):
        end = (x, TOP + 0.1 + (place + 0.5) * step)
        for row, value in enumerate(values[index]):
            share = float(value) / largest
            colour = ADDS if share > 0 else TAKES
            options = {"colors": colour, "linewidths": 0.3 + 2 * abs(share), "alpha": 0.25 + 0.6 * abs(share)}
            sheet.lines([((x - GAP, row_middle(row)), end)], **options)


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
