"""Draws the layer-by-layer grid: kernels, activations, connections, class probabilities."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from figures.connections import Column, Connection, connect, contributions, shown_values
from figures.example import draw_image, draw_probabilities
from figures.page import UNIT_GREY, Page, Scale, wrap_text
from inspection.examples import Prediction
from inspection.layer_stats import to_unit_range
from model import ActionNet
from runtime.files import write_arrays, write_json

TILE, GAP, PITCH, TOP = 1.0, 0.62, 1.24, 2.1  # inches
LINKED = 3  # classes with lines to them
FROZEN, TRAINED, PLAIN = "#dfe7f3", "#fbe3d1", "0.92"
POSITIVE, NEGATIVE = "#c03d3e", "#4c72b0"


def grid(
    path: Path,
    prediction: Prediction,
    model: ActionNet,
    columns: Sequence[Column],
    acts: Mapping[str, Tensor],
    detail: str,
) -> None:
    """Draws the page; writes its connections and channels beside it, .json, and its tiles, .npz."""
    rows = max(len(column.channels) for column in columns)
    body = max(rows, 3) * PITCH  # fewer would leave no room for image and probabilities
    width = 2.9 + len(columns) * (TILE + GAP) + 3.3
    legend = wrap_text(LEGEND, width - 0.6, 7.5)
    page = Page(width, TOP + body + 0.95 + 0.15 * (legend.count("\n") + 1))
    page.title(f"Activations through the network: {prediction.summary}", f"{prediction.example.label} · {detail}")
    middle = TOP + body / 2
    wide, high = prediction.example.image.size
    size = min(2.0 / wide, 3.0 / high)
    draw_image(
        page.plot(0.3 + 1 - wide * size / 2, middle - high * size / 2, wide * size, high * size), prediction.example
    )
    connections = [
        connect(model, left, right, acts) for left, right in zip([None, *columns[:-1]], columns, strict=True)
    ]
    tiles = {}
    for index, (column, connection) in enumerate(zip(columns, connections, strict=True)):
        x = column_place(index)
        left = [(x - GAP, row_middle(row)) for row in range(rows)] if index else [(2.35, middle)]
        draw_connection(page, left, x, connection, len(column.channels))
        tiles[column.spec] = draw_column(page, x, rows, column)
    draw_header(page, model, prediction, columns)
    values = contributions(model, columns[-1], acts)
    draw_prediction(page, column_place(len(columns)), body - 0.1, prediction, values)
    page.text(0.3, TOP + body + 0.8, legend, 7.5, color="0.35")
    page.save(path)
    write_arrays(path.with_suffix(".npz"), tiles)
    write_json(path.with_suffix(".json"), page_numbers(prediction, columns, connections, values))


LEGEND = (
    "Single lines: a channel depends on the channel of the same number alone (shortcuts are not drawn). Fans: each "
    "channel depends on all. Where one convolution lies between two columns, darker lines have larger kernel norms. "
    "Lines to the classes: red channels raise the logit, blue ones lower it."
)


def column_place(index: int) -> float:
    return 2.9 + index * (TILE + GAP)


def row_middle(row: int) -> float:
    return TOP + row * PITCH + 0.13 + TILE / 2


def draw_column(page: Page, x: float, rows: int, column: Column) -> np.ndarray:
    """Draws tiles and the colour bar; returns the values of the tiles."""
    values = shown_values(column, column.maps)
    if column.is_kernels:
        shown, scale, words = to_unit_range(values).numpy(), UNIT_GREY, "each on its own scale"
        colours = None if values.dim() == 4 else scale
    else:
        shown, scale, words = values.numpy(), Scale.of(values.numpy()), "activation"
        colours = scale
    for row, (tile, channel) in enumerate(zip(shown, column.channels, strict=True)):
        y = TOP + row * PITCH
        page.text(x, y, f"channel {channel}" if not column.is_kernels else f"kernel {channel}", 6.5, color="0.35")
        page.image(x, y + 0.13, TILE, TILE, tile, colours)
    page.colour_bar(x, TOP + rows * PITCH + 0.1, TILE, scale, words)
    return values.numpy()


def draw_connection(
    page: Page, left: Sequence[tuple[float, float]], x: float, connection: Connection, rows: int
) -> None:
    ends = [(x, row_middle(row)) for row in range(rows)]
    if connection.one_to_one:
        page.lines(list(zip(left, ends, strict=False)), colors="0.35", linewidths=1.1)
        return
    shares = np.ones((rows, len(left))) if connection.weights is None else connection.weights / connection.weights.max()
    pairs = [(start, end, shares[i, j]) for i, end in enumerate(ends) for j, start in enumerate(left)]
    pairs.sort(key=lambda pair: pair[2])
    alphas = [0.3 if connection.weights is None else 0.06 + 0.84 * share**2 for _, _, share in pairs]
    colours = [(0.2, 0.2, 0.2, alpha) for alpha in alphas]
    page.lines([pair[:2] for pair in pairs], colors=colours, linewidths=0.8)
    if connection.skipped:
        words = f"… {connection.skipped} convolution{'s' if connection.skipped > 1 else ''} …"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        middle = (ends[0][1] + ends[-1][1]) / 2
        page.text(x - GAP / 2, middle, words, 7.5, rotation=90, ha="center", va="center", bbox=box, color="0.3")


def draw_header(page: Page, model: ActionNet, prediction: Prediction, columns: Sequence[Column]) -> None:
    """The band above the columns: part of the network, layer and shape."""
    size = prediction.example.input.shape
    page.text(0.3, 1.32, f"image, cropped to\n{' × '.join(map(str, size))}", 7.5, color="0.3")
    inside = [column.layer.startswith("base_model") for column in columns]
    edges = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(inside)) if a != b), len(columns)]
    parts = [(0.3, 2.0, "input", PLAIN)]
    for first, last in pairwise(edges):
        frozen = {model.is_frozen(column.layer.partition("#")[0]) for column in columns[first:last]}
        state = "frozen" if frozen == {True} else "trained" if frozen == {False} else "partly fine-tuned"
        words = f"{model.backbone_title if inside[first] else 'head'}, {state}"
        colour = FROZEN if True in frozen else TRAINED
        parts.append((column_place(first) - 0.1, (last - first) * (TILE + GAP) - GAP + 0.2, words, colour))
    parts.append((column_place(len(columns)), 3.0, "prediction", PLAIN))
    for x, width, words, colour in parts:
        page.box(x, 0.92, width, 0.3, fill=True, facecolor=colour, edgecolor="none")
        page.text(x + width / 2, 0.99, words, min(9, 100 * width / len(words)), ha="center", weight="bold")
    for index, column in enumerate(columns):
        name = column.layer.removeprefix("base_model.")
        shape = " × ".join(map(str, column.module.weight.shape if column.is_kernels else column.maps.shape))
        kind = f"kernels of\n{name}" if column.is_kernels else f"{name}\n{type_name(column.module)}"
        if column.layer == "base_model":
            kind = "backbone output\n= head input"
        page.text(column_place(index) - 0.1, 1.32, f"{kind}\n{shape}", 7.5, color="0.3")


def type_name(module: nn.Module) -> str:
    return "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__


def draw_prediction(page: Page, x: float, height: float, prediction: Prediction, values: np.ndarray | None) -> None:
    """Draws class probabilities and what the last column contributes to their logits.

    Lines go to the most probable classes: red raises a logit, blue lowers it, thicker is more.
    """
    count = min(len(prediction.classes), 15)
    draw_probabilities(page.plot(x, TOP + 0.1, 3.0, height), prediction, most=count)
    of = f"{count} of {len(prediction.classes)}" if count < len(prediction.classes) else f"{count}"
    page.text(x, 1.32, f"probabilities\nof {of} classes", 7.5, color="0.3")
    if values is None:
        return
    order = np.argsort(-prediction.probabilities, kind="stable")[: min(LINKED, count)].tolist()
    largest = float(np.abs(values[order]).max()) or 1.0
    step = height / count
    for place, index in enumerate(order):
        end = (x, TOP + 0.1 + (place + 0.5) * step)
        for row, value in enumerate(values[index]):
            share = float(value) / largest
            colour = POSITIVE if share > 0 else NEGATIVE
            options = {"colors": colour, "linewidths": 0.3 + 2 * abs(share), "alpha": 0.25 + 0.6 * abs(share)}
            page.lines([((x - GAP, row_middle(row)), end)], **options)


def page_numbers(
    prediction: Prediction, columns: Sequence[Column], connections: Sequence[Connection], values: np.ndarray | None
) -> dict:
    rows = [
        {
            "column": column.spec,
            "layer": column.layer,
            "shape": list(column.maps.shape),
            "channels": list(column.channels),
            "link": "one to one" if connection.one_to_one else "fan",
            "skipped_convolutions": connection.skipped,
            "kernel_norms": None if connection.weights is None else connection.weights.tolist(),
        }
        for column, connection in zip(columns, connections, strict=True)
    ]
    added = None if values is None else dict(zip(prediction.classes, values.tolist(), strict=True))
    return {
        "image": prediction.example.name,
        "true": prediction.example.true,
        "predicted": prediction.predicted,
        "probabilities": prediction.by_class,
        "columns": rows,
        "logit_contributions": added,
    }
