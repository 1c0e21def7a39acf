"""Checks that tests of figures share: a page is not blank, everything lies on it, nothing overlaps."""

from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from figures.page import Page


def check_page(page: Page, path: Path) -> None:
    """Fails where text, an image or a plot with its labels is cut off by the page, or two of them overlap."""
    renderer = FigureCanvasAgg(page.figure).get_renderer()  # also of a page that was saved in a vector format
    dpi = page.figure.dpi
    height, width = page.height * dpi, page.width * dpi
    boxes = {}
    for number, ((x, y, wide, high), *_) in enumerate(page.pasted):
        boxes[f"image {number}"] = Bbox([[x * dpi, height - (y + high) * dpi], [(x + wide) * dpi, height - y * dpi]])
    for number, text in enumerate(page.axes.texts):
        if text.get_text():
            boxes[f"text {number}: {text.get_text()!r}"] = Text.get_window_extent(text, renderer)
    for number, axes in enumerate(page.figure.axes[1:]):
        boxes[f"plot {number}"] = axes.get_tightbbox(renderer)
        inside = [Text.get_window_extent(text, renderer) for text in axes.texts]
        assert not any(overlap(one, other) for one, other in combinations(inside, 2)), (path.name, number)
    for name, box in boxes.items():
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, f"{path.name}: {name} is cut"
    for (one, box), (other, second) in combinations(boxes.items(), 2):
        assert not overlap(box, second), f"{path.name}: {one} overlaps {other}"


def overlap(one: Bbox, other: Bbox, slack: float = 1.5) -> bool:
    """Whether two boxes overlap by more than `slack` pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    return width > slack and min(one.y1, other.y1) - max(one.y0, other.y0) > slack


def not_blank(path: Path) -> None:
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5, path
