"""Canvas in world coordinates, with colours, for the built-in sample.

World coordinates: y points down, the ground is at y = 0, an adult is about 1 tall.
"""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 2  # images are drawn this much larger and then downsampled, which smooths edges

Point = tuple[float, float]
Colour = tuple[int, int, int]
Rng = np.random.Generator

SKIN: tuple[Colour, ...] = (
    (255, 219, 185),
    (240, 194, 154),
    (214, 160, 116),
    (168, 112, 74),
    (120, 76, 48),
    (88, 56, 38),
)
HAIR: tuple[Colour, ...] = ((30, 24, 22), (74, 46, 28), (140, 92, 46), (208, 168, 96), (150, 60, 30), (150, 150, 155))
DARK, WHITE, WOOD, METAL = (38, 38, 44), (248, 248, 246), (146, 100, 62), (150, 156, 166)


def colour(rng: Rng, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """Random hue, with saturation and value (0 to 1) from these ranges."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return tuple(round(255 * channel) for channel in rgb)


def shade(base: Colour, factor: float) -> Colour:
    return tuple(min(255, round(channel * factor)) for channel in base)


def toward(start: Point, angle: float, length: float) -> Point:
    """The point at distance `length` from `start`; angle in degrees, 0 = right, 90 = down."""
    return start[0] + length * math.cos(math.radians(angle)), start[1] + length * math.sin(math.radians(angle))


class Canvas:
    """An image of `size` (width, height) pixels that shows `span` world units of height around `centre`."""

    def __init__(self, size: tuple[int, int], centre: Point, span: float) -> None:
        self.size, self.centre, self.scale = size, centre, SUPERSAMPLING * size[1] / span
        self.image = Image.new("RGB", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
        self.pen = ImageDraw.Draw(self.image)
        self.left, self.right = centre[0] - span * size[0] / size[1] / 2, centre[0] + span * size[0] / size[1] / 2
        self.top, self.bottom = centre[1] - span / 2, centre[1] + span / 2

    def pixel(self, point: Point) -> Point:
        x, y = ((point[axis] - self.centre[axis]) * self.scale + self.image.size[axis] / 2 for axis in (0, 1))
        return x, y

    def disc(self, centre: Point, radius: float, fill: Colour, stretch: float = 1.0) -> None:
        (x, y), r = self.pixel(centre), radius * self.scale
        self.pen.ellipse((x - r, y - r * stretch, x + r, y + r * stretch), fill=fill)

    def ring(self, centre: Point, radius: float, width: float, fill: Colour) -> None:
        (x, y), r = self.pixel(centre), radius * self.scale
        self.pen.arc((x - r, y - r, x + r, y + r), 0, 360, fill, max(1, round(width * self.scale)))

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.pen.polygon([self.pixel(point) for point in points], fill=fill)

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draws a line with round joints and ends."""
        w = max(1, round(width * self.scale))
        self.pen.line([self.pixel(point) for point in points], fill=fill, width=w)
        for point in points:
            self.disc(point, width / 2, fill)

    def box(self, centre: Point, width: float, height: float, fill: Colour, angle: float = 0) -> None:
        """Draws a rectangle rotated by `angle` degrees."""
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        corners = [(x * width / 2, y * height / 2) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        self.polygon([(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in corners], fill)

    def finish(self, rng: Rng) -> Image.Image:
        """Downsamples the image; adds random brightness, colour cast and noise; flips it half of the time."""
        small = self.image.resize(self.size, Image.Resampling.LANCZOS)
        values = np.asarray(small, dtype=np.float32)
        values = values * rng.uniform(0.8, 1.1) + rng.normal(0, 10, 3) + rng.normal(0, rng.uniform(2, 9), values.shape)
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image
