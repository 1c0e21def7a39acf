"""The same channels side by side: for two images, and over the epochs of a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor, nn

from figures.connections import Column
from figures.example import RIGHT, WRONG, draw_image, draw_probabilities, verdict_color
from figures.layers import shortened
from figures.page import Page, Scale
from inspection.channels import activity, ranking_layer
from inspection.examples import Prediction
from inspection.layer_names import describe_layer, module_of
from runtime.files import write_arrays, write_json
from runtime.text import shorten

EACH = 5  # channels of either kind in a comparison
MOST_EPOCHS = 10


def similarity(left: Tensor, right: Tensor) -> float:
    """Cosine similarity of the channel means of two outputs (C, h, w) of a layer."""
    return torch.cosine_similarity(left.float().mean((1, 2)), right.float().mean((1, 2)), dim=0).item()


def compared_channels(left: Tensor, right: Tensor) -> tuple[list[int], list[int]]:
    """Channels to compare, by two outputs (C, h, w) of the layer that ranks them (see `inspection.channels`).

    Returns: those most active in both together, and those of the others that differ most.
    """
    first, second = activity(left), activity(right)
    both = (first + second).argsort(descending=True, stable=True)[:EACH].tolist()
    differ = (first - second).abs().argsort(descending=True, stable=True).tolist()
    return both, [channel for channel in differ if channel not in both][:EACH]


def compare(
    path: Path,
    predictions: Sequence[Prediction],
    layers: Sequence[str],
    acts: Sequence[Mapping[str, Tensor]],
    model: nn.Module,
    detail: str,
) -> None:
    """Draws two images, their predictions, and the same channels of both for each layer.

    Each channel has one scale for both images. Writes channels and similarities beside the page, .json, and the maps of
    those channels by layer (2, n, h, w), .npz.

    Args:
        layers: those to draw.
        acts: of either image, (C, h, w) by layer, also of the layers that rank channels.
    """
    size, line = 0.8, 2.05
    page = Page(13.2, 4.5 + line * len(layers))
    page.title("Two images, the same channels", detail)
    for place, (letter, prediction) in enumerate(zip("AB", predictions, strict=True)):
        x = 0.3 + place * 6.4
        page.text(x, 0.95, f"{letter}  {prediction.example.label}", 10, weight="bold")
        page.text(x, 1.17, prediction.summary, 9, color=verdict_color(prediction))
        wide, high = prediction.example.image.size
        scale = min(3.0 / wide, 2.3 / high)
        draw_image(page.plot(x, 1.5, wide * scale, high * scale), prediction.example)
        draw_probabilities(page.plot(x + 3.2, 1.5, 2.8, 2.3), prediction, most=9)
    page.text(0.3, 3.96, "cosine similarity of the channels'\nmeans: 1 is the same mix, 0 none in common", 8)
    page.text(3.2, 4.0, "channels most active in both", 10, weight="bold")
    page.text(3.2 + EACH * (size + 0.08) + 0.4, 4.0, "other channels that differ most", 10, weight="bold")
    found = {}
    for index, layer in enumerate(layers):
        left, right = acts[0][layer], acts[1][layer]
        y, module = 4.3 + index * line, module_of(model, layer)
        by = ranking_layer(model, layer, acts[0])
        near, chosen = similarity(left, right), compared_channels(acts[0][by], acts[1][by])
        shape = " × ".join(map(str, left.shape))
        page.text(0.3, y + 0.3, shortened(layer), 9.5, weight="bold")
        page.text(0.3, y + 0.52, f"{describe_layer(module)}\n{shape}\ncosine similarity {near:.2f}", 8.5, color="0.35")
        for place, channels in enumerate(chosen):
            draw_pair(page, 3.2 + place * (EACH * (size + 0.08) + 0.4), y, size, left, right, channels)
        found[layer] = {"similarity": near, "most_active": chosen[0], "most_different": chosen[1]}
    page.save(path)
    images = [{"image": a.example.name, "true": a.example.true, "probabilities": a.by_class} for a in predictions]
    write_json(path.with_suffix(".json"), {"pictures": images, "layers": found})
    rows = {layer: row["most_active"] + row["most_different"] for layer, row in found.items()}
    maps = {layer: torch.stack([acts[0][layer], acts[1][layer]])[:, channels] for layer, channels in rows.items()}
    write_arrays(path.with_suffix(".npz"), {layer: values.numpy() for layer, values in maps.items()})


def draw_pair(
    page: Page, x: float, y: float, size: float, left: Tensor, right: Tensor, channels: Sequence[int]
) -> None:
    both = torch.stack([left, right])[:, list(channels)].float().numpy()  # (2, n, h, w)
    signed = bool((left < 0).any() or (right < 0).any())
    scales = [Scale.of(both[:, place], signed) for place in range(len(channels))]
    labels = [f"{channel} · {scale.range}" for channel, scale in zip(channels, scales, strict=True)]
    for row, (letter, names) in enumerate((("A", labels), ("B", [""] * len(labels)))):
        top = y + row * (size + 0.06)
        page.text(x - 0.16, top + 0.13 + size / 2, letter, 8, va="center", weight="bold")
        page.tiles(x, top, len(channels), size, both[row], names, scales)


def shown_epochs(epochs: Sequence[int]) -> list[int]:
    """Positions of at most `MOST_EPOCHS` epochs to draw, first and last included.

    Denser at the start, where most changes.
    """
    last = len(epochs) - 1
    if last < MOST_EPOCHS:
        return list(range(last + 1))
    return sorted({round(last * (place / (MOST_EPOCHS - 1)) ** 1.6) for place in range(MOST_EPOCHS)})


def training(
    path: Path,
    predictions: Sequence[Prediction],
    columns: Sequence[Column],
    history: Sequence[Mapping[str, np.ndarray]],
    distances: Mapping[str, Sequence[float]],
    epochs: Sequence[int],
    detail: str,
) -> None:
    """Draws maps and kernels over the epochs, probabilities, and distances of the kernels.

    Writes probabilities and distances beside the page, .json, and the tiles by column (epochs, rows, …), .npz.

    Args:
        predictions, history, epochs: one for each snapshot; history has the values of the tiles by `Column.spec`.
        distances: by convolution, the relative distance of its kernels from the start at each snapshot.
    """
    size, shown = 0.85, shown_epochs(epochs)
    lines = sum(len(column.channels) for column in columns)
    bottom = 1.35 + lines * (size + 0.08) + len(columns) * 0.3
    page = Page(2.6 + MOST_EPOCHS * (size + 0.08) + 0.3, bottom + 3.0)
    heading = f"Activations and kernels during training: {predictions[-1].summary} at the end"
    page.title(heading, f"{predictions[0].example.label} · {detail}")
    for place, position in enumerate(shown):
        words = "start" if epochs[position] == 0 else f"epoch {epochs[position]}"
        page.text(2.6 + place * (size + 0.08) + size / 2, 1.02, words, 8.5, ha="center", weight="bold")
    y = 1.35
    for column in columns:
        draw_history(page, y, size, column, np.stack([history[position][column.spec] for position in shown]))
        y += len(column.channels) * (size + 0.08) + 0.3
    draw_probability_history(page, bottom + 0.35, predictions, epochs)
    draw_distances(page, bottom + 0.35, distances, epochs)
    page.save(path)
    channels = {column.spec: list(column.channels) for column in columns}
    inputs = {c.spec: c.inputs[list(c.channels), 0].tolist() for c in columns if c.inputs is not None}
    numbers = {"epochs": list(epochs), "channels": channels, "kernel_inputs": inputs, "distances": distances}
    probabilities = [prediction.by_class for prediction in predictions]
    write_json(
        path.with_suffix(".json"), {"image": predictions[0].example.name, **numbers, "probabilities": probabilities}
    )
    tiles = {column.spec: np.stack([tiles[column.spec] for tiles in history]) for column in columns}
    write_arrays(path.with_suffix(".npz"), tiles)


def draw_history(page: Page, y: float, size: float, column: Column, values: np.ndarray) -> None:
    """Draws one column (epochs, rows, …), all tiles on one scale."""
    page.text(0.3, y + 0.05, f"kernels of {column.layer}" if column.is_kernels else column.layer, 10, weight="bold")
    flat = values.reshape(-1, *values.shape[2:])
    scale = Scale.of_kernels(flat) if column.is_kernels else Scale.of(flat)
    words = f"one scale for all tiles:\n{scale.range}, 0 is {scale.zero}"
    if column.inputs is not None:
        words += "\n12 ← 345: kernel 12,\nits slice for input 345,\nthe strongest at the end"
    page.text(0.3, y + 0.27, words, 7.5, color="0.35")
    for row, label in enumerate(column.labels):
        top = y + row * (size + 0.08)
        page.text(2.45, top + size / 2, label, 7.5, ha="right", va="center", color="0.3")
        for place, tile in enumerate(values[:, row]):
            page.image(2.6 + place * (size + 0.08), top, size, size, tile, scale)


def draw_probability_history(page: Page, y: float, predictions: Sequence[Prediction], epochs: Sequence[int]) -> None:
    last = predictions[-1]
    page.text(0.75, y, "probability of", 9.5, weight="bold")
    axes = page.plot(0.75, y + 0.3, page.width / 2 - 1.3, 1.7)
    names = [last.predicted] + ([last.example.true] if last.example.true not in (None, last.predicted) else [])
    for name in names:
        place = list(last.classes).index(name)
        role = "true" if name == last.example.true else "predicted"
        colour = RIGHT if role == "true" else WRONG if last.example.true else "0.4"
        axes.plot(
            epochs, [a.probabilities[place] for a in predictions], ".-", color=colour, label=f"{shorten(name)} ({role})"
        )
    axes.set(ylim=(-0.03, 1.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    finish_axes(axes)


def draw_distances(page: Page, y: float, distances: Mapping[str, Sequence[float]], epochs: Sequence[int]) -> None:
    if not distances:
        return
    x = page.width / 2 + 0.35
    page.text(x, y, "relative distance of the kernels from the start", 9.5, weight="bold")
    axes = page.plot(x, y + 0.3, page.width / 2 - 0.7, 1.7)
    for layer, values in distances.items():
        axes.plot(epochs, values, ".-", label=layer)
    finish_axes(axes)


def finish_axes(axes: Axes) -> None:
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7.5)
    axes.grid(alpha=0.25)
    for text in axes.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)
    axes.spines[["top", "right"]].set_visible(False)
