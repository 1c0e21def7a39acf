"""Draws the stages of a network with their shapes and parameters, frozen or trained."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import FancyArrowPatch, Polygon
from torch import nn

from figures.page import Page, wrap_text
from model import ActionNet
from runtime.files import write_json

FROZEN, TRAINED, BARE = "#9fb8dc", "#f2b184", "0.85"
JOINED = (nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Dropout2d)  # drawn with the stage that they belong to
LEFT, PITCH = 0.3, 1.12  # of the boxes, inches
BOTTOM = 3.95  # of the boxes, inches from the top
DEPTH = 0.16  # of a high box, inches
ARROW = 0.125  # height of the arrows above the bottom of the boxes, inches: half of the lowest box


def stage_layers(model: ActionNet) -> list[str]:
    """Dotted names of the layers that the drawing consists of, whose output shapes it needs."""
    inside = [f"base_model.{name}" for name, _ in model.base_model.named_children()]
    return inside + [name for name, _ in model.named_children() if name != "base_model"]


def stages(model: ActionNet, shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """The stages of the network from input to output.

    Args:
        shapes: of the outputs of `stage_layers`, (C, h, w) or (K,), in the order of the calls (`hooks.layer_shapes`).

    Returns: for each stage `name`, `parts` (dotted names of its layers), `kind`, `output` (its shape), `parameters` and
        how many of them are `trained`.
    """
    found: list[dict[str, Any]] = []
    before: list[str] = []  # a dropout in front of its stage
    for name, shape in shapes.items():
        module = model.get_submodule(name)
        if isinstance(module, JOINED) and not (found and same_part(found[-1]["name"], name)):
            before.append(name)
        elif isinstance(module, JOINED):
            add_layer(found[-1], name, module)
        else:
            found.append({"name": name, "parts": [], "kind": kind(model, name), "parameters": 0, "trained": 0})
            for part in [*before, name]:
                add_layer(found[-1], part, model.get_submodule(part))
            before = []
        if found:
            found[-1]["output"] = list(shape)
    return found


def same_part(left: str, right: str) -> bool:
    return left.startswith("base_model.") == right.startswith("base_model.")


def add_layer(stage: dict[str, Any], name: str, module: nn.Module) -> None:
    stage["parts"].append(name)
    stage["parameters"] += sum(parameter.numel() for parameter in module.parameters())
    stage["trained"] += sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def kind(model: ActionNet, name: str) -> str:
    """A layer's type in the words of the drawing."""
    module = model.get_submodule(name)
    if isinstance(module, nn.Sequential):
        return f"{len(module)} bottlenecks"
    if name == "base_model.network":  # of another library, drawn as one box
        return model.backbone.partition(".")[0]
    if isinstance(module, nn.Conv2d):
        return "×".join(map(str, module.kernel_size)) + " convolution"
    return {nn.MaxPool2d: "max pooling", nn.AdaptiveAvgPool2d: "average pooling", nn.Linear: "linear"}.get(
        type(module), type(module).__name__
    )


def network(path: Path, model: ActionNet, size: int, shapes: Mapping[str, tuple[int, ...]], detail: str) -> None:
    """Draws the stages as boxes from the image to the class probabilities.

    A box's height grows with the logarithm of the feature maps' side, its width with that of their channels. Writes
    `stages` beside the figure, .json.
    """
    rows = stages(model, shapes)
    image = {"name": "image", "parts": ["RGB, normalised"], "kind": "", "output": [3, size, size], "parameters": 0}
    count = rows[-1]["output"][0]
    name = f"{count} class\nprobabilities"
    classes = {"name": name, "parts": ["softmax"], "kind": "", "output": [count], "parameters": 0}
    boxes = [image, *rows, classes]
    page = Page(2 * LEFT + PITCH * len(boxes) - 0.1, BOTTOM + 2.15)
    total = sum(row["parameters"] for row in rows)
    trained = sum(row["trained"] for row in rows)
    words = f"{total / 1e6:.2f} M parameters: {(total - trained) / 1e6:.2f} M frozen, {trained / 1e6:.2f} M trained"
    scale = "height and width of a box: logarithms of the maps' side and channels"
    page.title(f"{type(model).__name__}: {words}", f"{detail} · {scale}")
    for x, colour, meaning in ((0.25, FROZEN, "frozen"), (1.25, TRAINED, "trained"), (2.25, BARE, "no parameters")):
        page.box(x, 0.85, 0.16, 0.16, fill=True, facecolor=colour, edgecolor="0.4")
        page.text(x + 0.24, 0.86, meaning, 8.5)
    ends = [draw_box(page, LEFT + index * PITCH, box) for index, box in enumerate(boxes)]
    for (_, start), (end, _) in pairwise(ends):
        tips = (start, BOTTOM - ARROW), (end, BOTTOM - ARROW)
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "0.3", "shrinkA": 0, "shrinkB": 0, "zorder": 3}
        page.axes.add_patch(FancyArrowPatch(*tips, **style))
    draw_parts(page, rows, model.backbone_title)
    page.save(path)
    write_json(path.with_suffix(".json"), {"image_size": size, "parameters": total, "trained": trained, "stages": rows})


def draw_box(page: Page, x: float, box: dict[str, Any]) -> tuple[float, float]:
    """Draws a stage; returns where the arrow to it ends and the one from it starts."""
    channels, side = box["output"][0], box["output"][-1] if len(box["output"]) == 3 else 1
    high, wide = 0.25 + 0.27 * np.log2(side), 0.08 + 0.045 * np.log2(channels)
    bare = not box["parameters"]
    colour = BARE if bare else TRAINED if box["trained"] else FROZEN
    left, top, right = x, BOTTOM - high, x + wide
    shift = DEPTH * min(1.0, high / 1.5)
    style = {"edgecolor": "0.35", "linewidth": 0.7, "facecolor": colour, "zorder": 2}
    for corners, shade in (
        ([(left, top), (right, top), (right, BOTTOM), (left, BOTTOM)], 1.0),
        ([(left, top), (left + shift, top - shift), (right + shift, top - shift), (right, top)], 0.75),
        ([(right, top), (right + shift, top - shift), (right + shift, BOTTOM - shift), (right, BOTTOM)], 0.9),
    ):
        page.axes.add_patch(Polygon(corners, alpha=shade, **style))
    name = box["name"].replace("base_model.", "base_model.\n")  # in full: the head has a conv1 of its own
    kind = wrap_text(box["kind"], PITCH, 8.5)
    parts = [kind if part == box["name"] else part.removeprefix("base_model.") for part in box["parts"]]
    count = "" if bare else f"{box['parameters'] / 1e6:.2f} M" if box["parameters"] > 1e5 else f"{box['parameters']:,}"
    page.text(x, BOTTOM + 0.47 - 0.17 * (1 + name.count("\n")), name, 9, weight="bold")
    page.text(x, BOTTOM + 0.5, " × ".join(map(str, box["output"])), 8.5, color="0.2")
    details = [*([f"{count} params"] if count else []), *parts]
    page.text(x, BOTTOM + 0.68, "\n".join(details), 8.5, color="0.35")
    return left, right + shift * 0.5


def draw_parts(page: Page, rows: Sequence[dict[str, Any]], backbone: str) -> None:
    """Bands below: input, the stages of the backbone, those of the head, output."""
    inside = sum(row["name"].startswith("base_model.") for row in rows)
    parts = [(0, 0, "input", BARE)]
    for first, last, words in (
        (1, inside, f"base_model: {backbone}" if inside > 1 else backbone),
        (inside + 1, len(rows), "head"),
    ):
        trained = [row["trained"] > 0 for row in rows[first - 1 : last] if row["parameters"]]
        state = "trained" if all(trained) else "partly fine-tuned" if any(trained) else "frozen"
        parts.append((first, last, f"{words}, {state}", TRAINED if all(trained) else FROZEN))
    parts.append((len(rows) + 1, len(rows) + 1, "output", BARE))
    for first, last, words, colour in parts:
        left, right = LEFT + first * PITCH, LEFT + (last + 1) * PITCH - 0.12
        page.box(left, BOTTOM + 1.75, right - left, 0.28, fill=True, facecolor=colour, edgecolor="none", alpha=0.6)
        size = min(9, 110 * (right - left) / len(words))
        page.text((left + right) / 2, BOTTOM + 1.81, words, size, ha="center", weight="bold")
