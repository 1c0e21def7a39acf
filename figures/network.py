"""The network drawn from the model itself: every stage with its shape, its parameters, and whether they are trained."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.patches import Polygon
from torch import nn

from backbones.timm_torchvision import LibraryBackbone
from figures.page import Page
from hooks import record
from model import ActionNet
from runtime.files import write_json

FROZEN, TRAINED, BARE = "#9fb8dc", "#f2b184", "0.85"
JOINED = (nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Dropout2d)  # drawn with the stage that they belong to
BOTTOM = 3.95  # of the boxes, inches from the top
DEPTH = 0.16


def stages(model: ActionNet, size: int) -> list[dict[str, Any]]:
    """What the network is made of, from input to output.

    Returns: for each stage `name`, `parts` (dotted names of its layers), `kind`, `output` (C, h, w), `parameters` and
    how many of them are `trained`.
    """
    names = [f"base_model.{name}" for name, _ in model.base_model.named_children()]
    names += [name for name, _ in model.named_children() if name != "base_model"]
    device = next(model.parameters()).device
    with record(model, names, keep=lambda output: torch.tensor(output.shape[1:])) as shapes, torch.inference_mode():
        model.eval()
        model(torch.zeros(1, 3, size, size, device=device))
    found: list[dict[str, Any]] = []
    before: list[str] = []  # a dropout that stands in front of its stage
    for name in shapes:
        module = model.get_submodule(name)
        if isinstance(module, JOINED) and not (found and same_part(found[-1]["name"], name)):
            before.append(name)
        elif isinstance(module, JOINED):
            add_part(found[-1], name, module)
        else:
            found.append({"name": name, "parts": [], "kind": kind(module), "parameters": 0, "trained": 0})
            for part in [*before, name]:
                add_part(found[-1], part, model.get_submodule(part))
            before = []
        if found:
            found[-1]["output"] = shapes[name].tolist()
    return found


def same_part(left: str, right: str) -> bool:
    return left.startswith("base_model.") == right.startswith("base_model.")


def add_part(stage: dict[str, Any], name: str, module: nn.Module) -> None:
    stage["parts"].append(name)
    stage["parameters"] += sum(parameter.numel() for parameter in module.parameters())
    stage["trained"] += sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def kind(module: nn.Module) -> str:
    if isinstance(module, nn.Sequential):
        return f"{len(module)} bottlenecks"
    if isinstance(module, LibraryBackbone):
        return module.name.partition(".")[0]
    if isinstance(module, nn.Conv2d):
        return "×".join(map(str, module.kernel_size)) + " convolution"
    return {nn.MaxPool2d: "max pooling", nn.AdaptiveAvgPool2d: "mean over positions", nn.Linear: "linear"}.get(
        type(module), type(module).__name__
    )


def network(path: Path, model: ActionNet, size: int, detail: str) -> None:
    """Draws the stages as boxes, as high as their maps and as wide as they have channels (both as logarithms).

    Beside the picture: `stages`, .json.
    """
    rows = stages(model, size)
    boxes = [{"name": "input", "parts": ["picture"], "kind": "", "output": [3, size, size], "parameters": 0}, *rows]
    pitch = 1.5
    sheet = Page(0.5 + pitch * len(boxes), BOTTOM + 2.15)
    total = sum(row["parameters"] for row in rows)
    trained = sum(row["trained"] for row in rows)
    words = f"{total / 1e6:.2f} M parameters: {(total - trained) / 1e6:.2f} M frozen, {trained / 1e6:.2f} M trained"
    sheet.title(f"{type(model).__name__}: {words}", detail)
    for x, colour, meaning in ((0.25, FROZEN, "frozen"), (1.25, TRAINED, "trained"), (2.25, BARE, "no parameters")):
        sheet.box(x, 0.85, 0.16, 0.16, fill=True, facecolor=colour, edgecolor="0.4")
        sheet.text(x + 0.24, 0.86, meaning, 8.5)
    ends = [draw_box(sheet, 0.3 + index * pitch, box) for index, box in enumerate(boxes)]
    arrows = [((left[1], left[2]), (right[0], right[2])) for left, right in pairwise(ends)]
    sheet.lines(arrows, colors="0.4", linewidths=1)
    draw_parts(sheet, rows, pitch, model.backbone_title)
    sheet.save(path)
    write_json(path.with_suffix(".json"), {"image_size": size, "parameters": total, "trained": trained, "stages": rows})


def draw_box(sheet: Page, x: float, box: dict[str, Any]) -> tuple[float, float, float]:
    """Returns where lines start and end: left, right, height."""
    channels, side = box["output"][0], box["output"][-1] if len(box["output"]) == 3 else 1
    high, wide = 0.25 + 0.27 * np.log2(side), 0.08 + 0.065 * np.log2(channels)
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
        sheet.axes.add_patch(Polygon(corners, alpha=shade, **style))
    name = box["name"].removeprefix("base_model.")
    parts = [box["kind"] if part == box["name"] else part.removeprefix("base_model.") for part in box["parts"]]
    count = "" if bare else f"{box['parameters'] / 1e6:.2f} M" if box["parameters"] > 1e5 else f"{box['parameters']:,}"
    sheet.text(x, BOTTOM + 0.1, name, 9.5, weight="bold")
    sheet.text(x, BOTTOM + 0.3, " × ".join(map(str, box["output"])), 8.5, color="0.2")
    details = [*([f"{count} parameters"] if count else []), *parts]
    sheet.text(x, BOTTOM + 0.49, "\n".join(details), 7.5, color="0.4")
    return left, right + shift * 0.5, BOTTOM - min(high, 0.5) / 2


def draw_parts(sheet: Page, rows: Sequence[dict[str, Any]], pitch: float, backbone: str) -> None:
    """Brackets below: which stages are the backbone, which the head."""
    inside = sum(row["name"].startswith("base_model.") for row in rows)
    y = BOTTOM + 1.75
    for first, last, words in (
        (1, inside, f"base_model: {backbone}" if inside > 1 else backbone),
        (inside + 1, len(rows), "head: learns the actions"),
    ):
        part = [row["trained"] > 0 for row in rows[first - 1 : last] if row["parameters"]]
        state = "trained" if all(part) else "frozen, then trained" if any(part) else "frozen"
        words, colour = f"{words}, {state}", TRAINED if all(part) else FROZEN
        left, right = 0.3 + first * pitch, 0.3 + (last + 1) * pitch - 0.25
        sheet.box(left, y, right - left, 0.28, fill=True, facecolor=colour, edgecolor="none", alpha=0.6)
        size = min(9, 110 * (right - left) / len(words))
        sheet.text((left + right) / 2, y + 0.06, words, size, ha="center", weight="bold")
