"""Checks that pages of figures share: everything lies on the page, nothing overlaps."""

from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from figures.page import DPI, Page


def check_page(sheet: Page, path: Path) -> None:
    """Everything lies on the page; no words, no pictures and no diagrams with their labels overlap."""
    renderer = sheet.figure.canvas.get_renderer()
    high, wide = sheet.height * DPI, sheet.width * DPI
    things = {}
    for number, (top, left, pixels) in enumerate(sheet.pasted):
        things[f"picture {number}"] = Bbox([[left, high - top - len(pixels)], [left + pixels.shape[1], high - top]])
    for number, text in enumerate(sheet.axes.texts):
        if text.get_text():
            things[f"words {number}: {text.get_text()!r}"] = Text.get_window_extent(text, renderer)
    for number, axes in enumerate(sheet.figure.axes[1:]):
        things[f"diagram {number}"] = axes.get_tightbbox(renderer)
        inside = [Text.get_window_extent(text, renderer) for text in axes.texts]
        assert not any(overlap(one, other) for one, other in combinations(inside, 2)), (path.name, number)
    for name, box in things.items():
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < wide + 1 and box.y1 < high + 1, f"{path.name}: {name} is cut"
    for (one, box), (other, second) in combinations(things.items(), 2):
        assert not overlap(box, second), f"{path.name}: {one} lies over {other}"


def overlap(one: Bbox, other: Bbox, slack: float = 1.5) -> bool:
    """Whether two boxes share more than a seam of `slack` pixels."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    return wide > slack and min(one.y1, other.y1) - max(one.y0, other.y0) > slack


def not_blank(path: Path) -> None:
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5, path
