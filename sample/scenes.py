"""Draws an image of any of the fifteen HAR actions."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from sample.canvas import Canvas, Rng
from sample.motion_scenes import clapping, dancing, fighting, hugging, laughing, running
from sample.object_scenes import (
    calling,
    cycling,
    drinking,
    eating,
    listening_to_music,
    sitting,
    sleeping,
    texting,
    using_laptop,
)

SCENES: dict[str, Callable[[Rng, tuple[int, int]], Canvas]] = {
    scene.__name__: scene
    for scene in (
        calling, clapping, cycling, dancing, drinking, eating, fighting, hugging,
        laughing, listening_to_music, running, sitting, sleeping, texting, using_laptop,
    )
}  # fmt: skip


def draw(action: str, seed: tuple[int, ...]) -> Image.Image:
    """Draws one RGB image of an action, 110 to 250 pixels high; the same seed gives the same image."""
    rng = np.random.default_rng(seed)
    height = int(rng.integers(110, 251))
    return SCENES[action](rng, (round(height * rng.uniform(1.0, 1.6)), height)).finish(rng)
