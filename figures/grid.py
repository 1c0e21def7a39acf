"""Draws the layer-by-layer grid: kernels, activations, connections, class probabilities.

The columns are laid out in bands below each other, so that labels stay readable where the page is 16 cm wide. A band
begins with the last column of the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from figures.connections import Column, Connection, connect, contributions, shown_values
from figures.example import draw_image, draw_probabilities
from figures.page import Page, Scale, wrap_text
from inspection.examples import Prediction
from model import ActionNet
from runtime.files import write_arrays, write_json

TILE, GAP, PITCH, LEFT = 0.95, 0.4, 1.22, 0.3  # inches
SLOT = TILE + GAP
SLOTS, WIDE = 9, 2  # columns that a band has room for; image and probabilities take the room of two
SIZE = 11.5  # points
HEADER, FOOTER = 1.25, 0.85  # of a band, above and below the tiles, inches
LINKED = 3  # classes with lines to them
FROZEN, TRAINED, PLAIN = "#dfe7f3", "#fbe3d1", "0.92"
POSITIVE, NEGATIVE = "#c03d3e", "#4c72b0"
LEGEND = (
    "Single lines: a channel depends on the channel of the same number alone (shortcuts are not drawn). Fans: each "
    "channel depends on all. Where one convolution lies between two columns, darker lines have larger kernel norms. "
    "Lines to the classes: red channels raise the logit, blue ones lower it. All tiles of a column are on one scale. "
    "12 ← 345: kernel 12, its slice for input channel 345, the strongest: positive weights are red, negative ones blue."
)


@dataclass(frozen=True)
class Band:
    """The columns `first` to `last` (excluded) of `total`; `top` of its tiles, inches."""

    first: int
    last: int
    total: int
    top: float

    @property
    def ends(self) -> bool:
        """Whether the probabilities stand at its end."""
        return self.last == self.total

    def left(self, column: int) -> float:
        """Left edge of a column's tiles; behind the last column, of the probabilities."""
        return LEFT + SLOT * (column - self.first + (WIDE if self.first == 0 else 0))

    def middle(self, row: int) -> float:
        """Middle of a row's tiles, from the top of the page."""
        return self.top + row * PITCH + 0.22 + TILE / 2


def make_bands(total: int, rows: int) -> tuple[list[Band], int]:
    """Lays `total` columns out in as few bands as hold them. Returns the bands and the slots of each."""
    number = next(number for number in count(1) if total + 2 * WIDE + number - 1 <= SLOTS * number)
    slots = -(-(total + 2 * WIDE + number - 1) // number)
    lasts = [slots - WIDE + place * (slots - 1) for place in range(number - 1)] + [total]
    firsts = [0, *(last - 1 for last in lasts[:-1])]
    height = HEADER + rows * PITCH + FOOTER
    tops = [1.0 + place * height + HEADER for place in range(number)]
    return [Band(first, last, total, top) for first, last, top in zip(firsts, lasts, tops, strict=True)], slots


def grid(
    path: Path,
    prediction: Prediction,
    model: ActionNet,
    columns: Sequence[Column],
    acts: Mapping[str, Tensor],
    detail: str,
) -> None:
    """Draws the page; writes its connections and channels beside it, .json, and its tiles, .npz."""
    rows = max(3, *(len(column.channels) for column in columns))  # fewer would leave no room for the probabilities
    bands, slots = make_bands(len(columns), rows)
    width = 2 * LEFT + slots * SLOT - GAP
    legend = wrap_text(LEGEND, width - 0.6, SIZE)
    bottom = bands[-1].top + rows * PITCH + FOOTER
    page = Page(width, bottom + 0.22 * (legend.count("\n") + 1) + 0.1)
    about = f"{prediction.example.label} · {detail}"
    page.title(f"Activations through the network: {prediction.summary}", about, SIZE)
    connections = [
        connect(model, left, right, acts) for left, right in zip([None, *columns[:-1]], columns, strict=True)
    ]
    values = contributions(model, columns[-1], acts)
    draw_input(page, bands[0], rows, prediction)
    for band in bands:
        draw_header(page, band, model, columns)
        for index in range(band.first, band.last):
            draw_column(page, band, index, rows, columns[index])
        for index in range(band.first + (band.first > 0), band.last):
            draw_connection(page, band, index, rows, connections[index], len(columns[index].channels))
    draw_prediction(page, bands[-1], rows, prediction, values)
    page.text(LEFT, bottom, legend, SIZE, color="0.35")
    page.save(path)
    tiles = {column.spec: shown_values(column, column.maps).numpy() for column in columns}
    write_arrays(path.with_suffix(".npz"), tiles)
    write_json(path.with_suffix(".json"), page_numbers(prediction, columns, connections, values))


def draw_input(page: Page, band: Band, rows: int, prediction: Prediction) -> None:
    """The image in the first two slots, with its header."""
    wide, high = prediction.example.image.size
    room, middle = WIDE * SLOT - GAP, band.top + rows * PITCH / 2
    scale = min(room / wide, rows * PITCH / high)
    left, top = LEFT + (room - wide * scale) / 2, middle - high * scale / 2
    draw_image(page.plot(left, top, wide * scale, high * scale), prediction.example)
    draw_part(page, band, LEFT, room, "input", PLAIN)
    size = "×".join(map(str, prediction.example.input.shape))
    page.text(LEFT, band.top - 0.82, f"image, cropped to\n{size}", SIZE, color="0.3")


def draw_part(page: Page, band: Band, x: float, width: float, words: str, colour: str) -> None:
    """A box above a part of the network."""
    page.box(x, band.top - HEADER + 0.05, width, 0.3, fill=True, facecolor=colour, edgecolor="none")
    size = min(SIZE, 100 * width / len(words))
    page.text(x + width / 2, band.top - HEADER + 0.12, words, size, ha="center", weight="bold")


def draw_header(page: Page, band: Band, model: ActionNet, columns: Sequence[Column]) -> None:
    """The line above the columns of a band: part of the network, layer and shape."""
    shown = columns[band.first : band.last]
    inside = [column.layer.startswith("base_model") for column in shown]
    edges = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(inside)) if a != b), len(shown)]
    for first, last in pairwise(edges):
        frozen = {model.is_frozen(column.layer.partition("#")[0]) for column in shown[first:last]}
        state = "frozen" if frozen == {True} else "trained" if frozen == {False} else "partly fine-tuned"
        width = (last - first) * SLOT - GAP
        words = f"{model.backbone_title if inside[first] else 'head'}, {state}" if last > first + 1 else state
        draw_part(page, band, band.left(band.first + first), width, words, FROZEN if True in frozen else TRAINED)
    for index, column in enumerate(shown, band.first):
        shape = "×".join(map(str, column.module.weight.shape if column.is_kernels else column.maps.shape))
        page.text(band.left(index), band.top - 0.82, f"{column_title(column)}\n{shape}", SIZE, color="0.3")


def column_title(column: Column) -> str:
    """Two lines above a column."""
    name = column.layer.removeprefix("base_model.")
    name = name if len(name) <= 15 else f"…{name[-14:]}"
    if column.is_kernels:
        return f"kernels of\n{name}"
    if column.layer == "base_model":
        return "backbone\noutput"
    return f"{name}\n{'Conv2d' if isinstance(column.module, nn.Conv2d) else type(column.module).__name__}"


def draw_column(page: Page, band: Band, index: int, rows: int, column: Column) -> None:
    """Draws tiles and the colour bar."""
    values, x = shown_values(column, column.maps).numpy(), band.left(index)
    scale = Scale.of_kernels(values) if column.is_kernels else Scale.of(values)
    for row, (tile, label) in enumerate(zip(values, column.labels, strict=True)):
        y = band.top + row * PITCH
        page.text(x, y, label, SIZE, color="0.35")
        page.image(x, y + 0.22, TILE, TILE, tile, scale)
    y = band.top + rows * PITCH + 0.05
    page.image(x, y, TILE, 0.12, np.linspace(scale.low, scale.high, 128)[None], scale)
    page.text(x, y + 0.16, f"{'weight' if column.is_kernels else 'activation'}\n{scale.range}", SIZE, color="0.3")


def draw_connection(page: Page, band: Band, index: int, rows: int, connection: Connection, count: int) -> None:
    """Lines to the `count` tiles of a column, from those of the column before it or from the image."""
    x = band.left(index)
    ends = [(x, band.middle(row)) for row in range(count)]
    left = [(x - GAP, band.middle(row)) for row in range(rows)] if index else [(x - GAP, band.top + rows * PITCH / 2)]
    if connection.one_to_one:
        page.lines(list(zip(left, ends, strict=False)), colors="0.35", linewidths=1.1)
        return
    weights = connection.weights
    shares = np.ones((count, len(left))) if weights is None else weights / weights.max()
    pairs = [(start, end, shares[i, j]) for i, end in enumerate(ends) for j, start in enumerate(left)]
    pairs.sort(key=lambda pair: pair[2])
    alphas = [0.3 if weights is None else 0.06 + 0.84 * share**2 for _, _, share in pairs]
    colours = [(0.2, 0.2, 0.2, alpha) for alpha in alphas]
    page.lines([pair[:2] for pair in pairs], colors=colours, linewidths=0.8)
    if connection.skipped:
        words = f"{connection.skipped} convolution{'s' if connection.skipped > 1 else ''}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        middle = (ends[0][1] + ends[-1][1]) / 2
        page.text(x - GAP / 2, middle, words, SIZE, rotation=90, ha="center", va="center", bbox=box, color="0.3")


def draw_prediction(page: Page, band: Band, rows: int, prediction: Prediction, values: np.ndarray | None) -> None:
    """Draws class probabilities and what the last column contributes to their logits.

    Lines go to the most probable classes: red raises a logit, blue lowers it, thicker is more.
    """
    x, width, height = band.left(band.total), WIDE * SLOT - GAP, rows * PITCH - 0.1
    count = min(len(prediction.classes), 15)
    draw_probabilities(page.plot(x, band.top + 0.1, width, height), prediction, count, SIZE)
    draw_part(page, band, x, width, "prediction", PLAIN)
    of = f"{count} of {len(prediction.classes)}" if count < len(prediction.classes) else f"{count}"
    page.text(x, band.top - 0.82, f"probabilities\nof {of} classes", SIZE, color="0.3")
    if values is None:
        return
    order = np.argsort(-prediction.probabilities, kind="stable")[: min(LINKED, count)].tolist()
    largest = float(np.abs(values[order]).max()) or 1.0
    step = height / count
    for place, index in enumerate(order):
        end = (x, band.top + 0.1 + (place + 0.5) * step)
        for row, value in enumerate(values[index]):
            share = float(value) / largest
            colour = POSITIVE if share > 0 else NEGATIVE
            options = {"colors": colour, "linewidths": 0.3 + 2 * abs(share), "alpha": 0.25 + 0.6 * abs(share)}
            page.lines([((x - GAP, band.middle(row)), end)], **options)


def page_numbers(
    prediction: Prediction, columns: Sequence[Column], connections: Sequence[Connection], values: np.ndarray | None
) -> dict:
    rows = [
        {
            "column": column.spec,
            "layer": column.layer,
            "shape": list(column.maps.shape),
            "channels": list(column.channels),
            "kernel_inputs": None if column.inputs is None else column.inputs[list(column.channels), 0].tolist(),
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
