"""The network on one page: a column per stage, five rows, and lines that say what follows from what."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from figures.connections import Column, Connection, connect, contributions, shown_values
from figures.example import Prediction, by_class, draw_image, draw_probabilities
from figures.page import UNIT_GREY, Page, Scale, wrap_text
from inspection.layer_stats import to_unit_range
from model import ActionNet
from runtime.files import write_arrays, write_json

TILE, GAP, PITCH, TOP = 1.0, 0.62, 1.24, 2.1  # inches
LINKED = 3  # classes that lines lead to
FROZEN, TRAINED, PLAIN = "#dfe7f3", "#fbe3d1", "0.92"
ADDS, TAKES = "#c03d3e", "#4c72b0"


def grid(
    path: Path, answer: Prediction, model: ActionNet, columns: Sequence[Column], acts: Mapping[str, Tensor], detail: str
) -> None:
    """Draws the page; beside it the links and channels, .json, and the tiles, .npz."""
    rows = max(len(column.channels) for column in columns)
    body = max(rows, 3) * PITCH  # fewer would leave no room for picture and probabilities
    width = 2.9 + len(columns) * (TILE + GAP) + 3.3
    legend = wrap_text(LEGEND, width - 0.6, 7.5)
    sheet = Page(width, TOP + body + 0.95 + 0.15 * (legend.count("\n") + 1))
    sheet.title(f"The way through the network: {answer.words}", f"{answer.example.label} · {detail}")
    middle = TOP + body / 2
    wide, high = answer.example.picture.size
    size = min(2.0 / wide, 3.0 / high)
    draw_image(
        sheet.plot(0.3 + 1 - wide * size / 2, middle - high * size / 2, wide * size, high * size), answer.example
    )
    links = [connect(model, left, right, acts) for left, right in zip([None, *columns[:-1]], columns, strict=True)]
    tiles = {}
    for index, (column, link) in enumerate(zip(columns, links, strict=True)):
        x = column_place(index)
        left = [(x - GAP, row_middle(row)) for row in range(rows)] if index else [(2.35, middle)]
        draw_connection(sheet, left, x, link, len(column.channels))
        tiles[column.spec] = draw_column(sheet, x, rows, column)
    draw_header(sheet, model, answer, columns)
    values = contributions(model, columns[-1], acts)
    draw_prediction(sheet, column_place(len(columns)), body - 0.1, answer, values)
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


def draw_column(sheet: Page, x: float, rows: int, column: Column) -> np.ndarray:
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


def draw_connection(sheet: Page, left: Sequence[tuple[float, float]], x: float, link: Connection, rows: int) -> None:
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


def draw_header(sheet: Page, model: ActionNet, answer: Prediction, columns: Sequence[Column]) -> None:
    """The band above the columns: which part of the network, what layer, which shape."""
    size = answer.example.input.shape
    sheet.text(0.3, 1.32, f"picture, cut to\n{' × '.join(map(str, size))}", 7.5, color="0.3")
    inside = [column.layer.startswith("base_model") for column in columns]
    edges = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(inside)) if a != b), len(columns)]
    parts = [(0.3, 2.0, "input", PLAIN)]
    for first, last in pairwise(edges):
        frozen = {model.is_frozen(column.layer.partition("#")[0]) for column in columns[first:last]}
        state = "frozen" if frozen == {True} else "trained" if frozen == {False} else "frozen, then trained"
        words = f"{model.backbone_title if inside[first] else 'head'}, {state}"
        colour = FROZEN if True in frozen else TRAINED
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
            kind = "end of the backbone\n= input of the head"
        sheet.text(column_place(index) - 0.1, 1.32, f"{kind}\n{shape}", 7.5, color="0.3")


def type_name(module: nn.Module) -> str:
    return "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__


def draw_prediction(sheet: Page, x: float, height: float, answer: Prediction, values: np.ndarray | None) -> None:
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


def describe(
    answer: Prediction, columns: Sequence[Column], links: Sequence[Connection], values: np.ndarray | None
) -> dict:
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
