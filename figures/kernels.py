"""Figures of a convolution's kernels, all tiles of a page on one scale; their numbers beside them, .npy or .npz."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from figures.layers import COLUMNS, PAGE, TILE, join
from figures.page import Page, Scale
from inspection.layer_stats import KernelView, is_rgb, kernel_slices, kernel_tiles, strongest_inputs
from runtime.files import write_array, write_arrays

VIEWS = {
    "norm": "L2 norm over the input channels",
    "mean": "mean over the input channels",
    "first": "first input channel",
}
SLICES, SIDE = 8, 0.44  # slices of a kernel and their size, inches


def kernels(
    path: Path, heading: str, conv: nn.Conv2d, view: KernelView, channels: Sequence[int], order: str = ""
) -> None:
    """Plots the kernels of the output `channels` of a convolution, in an `order` given in words; 1×1 ones as a matrix.

    Writes all kernels beside the figure: their tiles (see `layer_stats.kernel_tiles`), .npy, or where the view is
    "strongest" and the input not RGB, their slices and input channels, .npz.
    """
    if conv.kernel_size == (1, 1):
        matrix(path, heading, conv)
    elif view == "strongest" and not is_rgb(conv):
        slices(path, heading, conv, channels, order)
    else:
        tiles(path, heading, conv, view, channels, order)


def count_words(conv: nn.Conv2d, shown: int, order: str) -> str:
    outputs, inputs, high, wide = conv.weight.shape
    return join(f"{outputs} kernels of {inputs} × {high} × {wide}, {shown} shown", order)


def scale_words(scale: Scale) -> str:
    """What a colour bar shows: weights, the colour of zero, and the largest value where it is clipped."""
    return f"weight, 0 is {scale.zero}" + (f"; largest {scale.largest:.3g}" if scale.largest > scale.high else "")


def tiles(path: Path, heading: str, conv: nn.Conv2d, view: KernelView, channels: Sequence[int], order: str) -> None:
    """One tile per kernel."""
    values = kernel_tiles(conv, view).contiguous().numpy()
    write_array(path.with_suffix(".npy"), values)
    shown = values[list(channels)]
    scale = Scale.of_kernels(shown, signed=view != "norm")
    columns, size = (COLUMNS * 2, TILE / 2 - 0.04) if len(shown) > 32 else (COLUMNS, TILE)
    height = Page.tiles_height(len(shown), columns, size)
    page = Page(PAGE, height + 1.6)
    meaning = "in RGB" if is_rgb(conv) else VIEWS[view]
    page.title(heading, f"{count_words(conv, len(shown), order)} · {meaning} · one scale for all")
    page.tiles(0.25, 0.95, columns, size, shown, [str(channel) for channel in channels], [scale] * len(shown))
    page.colour_bar(PAGE - 3.25, height + 1.05, 3, scale, scale_words(scale))
    page.save(path)


def slices(path: Path, heading: str, conv: nn.Conv2d, channels: Sequence[int], order: str) -> None:
    """A group of tiles per kernel: its slices for its strongest input channels."""
    inputs = strongest_inputs(conv, SLICES)  # (O, n)
    values = kernel_slices(conv, inputs).contiguous().numpy()
    write_arrays(path.with_suffix(".npz"), {"slices": values, "inputs": inputs.numpy()})
    shown, count = values[list(channels)], inputs.shape[1]
    scale = Scale.of_kernels(shown.reshape(-1, *shown.shape[2:]))
    wide, high = 0.52 + count * (SIDE + 0.04) + 0.1, SIDE + 0.22
    columns = max(1, int((PAGE - 0.4) / wide))
    height = -(-len(channels) // columns) * high
    page = Page(PAGE, height + 1.75)
    what = "the slice for its one input channel" if count == 1 else f"slices for its {count} strongest input channels"
    words = f"{what} (largest L2 norm first; their numbers above) · one scale for all"
    page.title(heading, f"{count_words(conv, len(channels), order)} · of each, {words}")
    for index, channel in enumerate(channels):
        x, y = 0.25 + index % columns * wide, 0.98 + index // columns * high
        page.text(x, y + 0.13 + SIDE / 2, str(channel), 9, va="center", weight="bold")
        for place, number in enumerate(inputs[channel].tolist()):
            left = x + 0.44 + place * (SIDE + 0.04)
            page.text(left, y, str(number), 6.5, color="0.35")
            page.image(left, y + 0.13, SIDE, SIDE, shown[index, place], scale)
    page.colour_bar(PAGE - 3.25, height + 1.2, 3, scale, scale_words(scale))
    page.save(path)


def matrix(path: Path, heading: str, conv: nn.Conv2d) -> None:
    """The weights (O, I) of a 1×1 convolution, which mixes channels alone, as one image."""
    weights = conv.weight.detach().float().cpu()[:, :, 0, 0].numpy()
    write_array(path.with_suffix(".npy"), weights)
    scale = Scale.of(weights)
    side = PAGE - 3.2
    height = min(max(side * weights.shape[0] / weights.shape[1], 2), side)
    page = Page(PAGE, height + 2.2)
    page.title(heading, "1×1 kernels as a matrix of weights: output channels in rows, input channels in columns")
    axes = page.plot(1.6, 0.85, side, height)
    axes.imshow(weights, aspect="auto", **scale.options)
    axes.set(xlabel="input channel", ylabel="output channel")
    page.colour_bar(1.6, height + 1.5, 3, scale, scale_words(scale))
    page.save(path)
