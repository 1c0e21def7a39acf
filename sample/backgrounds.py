"""Draws backgrounds for the built-in sample: rooms and landscapes."""

import numpy as np

from sample.canvas import WHITE, WOOD, Canvas, Point, Rng, colour, shade, toward


def view(rng: Rng, size: tuple[int, int], centre: Point, spans: tuple[float, float], outside: float = 0.3) -> Canvas:
    """A canvas around `centre` with a background; `spans`: range of its height, `outside`: share outdoors."""
    span = rng.uniform(*spans)
    shift = rng.normal(0, 0.045 * span, 2)
    canvas = Canvas(size, (centre[0] + shift[0], centre[1] + shift[1]), span)
    (outdoors if rng.random() < outside else indoors)(canvas, rng)
    return canvas


def indoors(canvas: Canvas, rng: Rng) -> None:
    """Draws wall and floor, with random windows, paintings, plants and shelves."""
    wall, floor = colour(rng, (0.05, 0.45), (0.55, 0.97)), shade(WOOD, rng.uniform(0.7, 1.5))
    canvas.polygon(
        [(canvas.left, canvas.top), (canvas.right, canvas.top), (canvas.right, 0.1), (canvas.left, 0.1)], wall
    )
    edge = rng.uniform(-0.16, -0.04)
    canvas.polygon([(canvas.left, edge), (canvas.right, edge), (canvas.right, 2), (canvas.left, 2)], floor)
    canvas.line([(canvas.left, edge), (canvas.right, edge)], 0.02, shade(wall, 0.75))
    for _ in range(rng.integers(1, 4)):
        x, kind = rng.uniform(canvas.left, canvas.right), rng.integers(4)
        if kind == 0:  # window
            canvas.box((x, -0.85), 0.46, 0.52, WHITE)
            for dx in (-0.105, 0.105):
                canvas.box((x + dx, -0.85), 0.18, 0.45, colour(rng, (0.2, 0.4), (0.8, 1.0)))
        elif kind == 1:  # painting
            y = rng.uniform(-1.1, -0.7)
            canvas.box((x, y), 0.3, 0.24, shade(WOOD, 0.7))
            canvas.box((x, y), 0.25, 0.19, colour(rng, (0.3, 0.9), (0.5, 1.0)))
        elif kind == 2:  # plant
            canvas.box((x, edge - 0.03), 0.13, 0.16, (176, 92, 60))
            for angle in range(200, 345, 24):
                canvas.line(
                    [(x, edge - 0.1), toward((x, edge - 0.1), angle, rng.uniform(0.18, 0.34))], 0.035, (60, 130, 66)
                )
        else:  # shelves
            for level in (-0.55, -0.8, -1.05):
                canvas.box((x, level), 0.5, 0.025, shade(WOOD, 0.6))
                for book in np.arange(-0.22, 0.22, 0.05):
                    size = rng.uniform(0.1, 0.17)
                    canvas.box((x + book, level - size / 2), 0.04, size, colour(rng, (0.3, 0.9), (0.4, 0.9)))


def outdoors(canvas: Canvas, rng: Rng) -> None:
    """Draws sky and ground, with hills, trees or houses."""
    sky, ground = (
        colour(rng, (0.1, 0.45), (0.75, 1.0)),
        ((96, 148, 76), (150, 150, 154), (206, 182, 134))[rng.integers(3)],
    )
    for step in np.linspace(canvas.top, 0, 12):
        canvas.polygon([(canvas.left, step), (canvas.right, step), (canvas.right, 0.1), (canvas.left, 0.1)], sky)
        sky = tuple(round(channel + (255 - channel) * 0.07) for channel in sky)
    edge = rng.uniform(-0.3, -0.08)
    kind = rng.integers(3)
    for x in np.arange(canvas.left - 0.2, canvas.right + 0.4, rng.uniform(0.25, 0.6)):
        if kind == 0:
            canvas.disc((x, edge + 0.12), rng.uniform(0.25, 0.5), shade((90, 130, 96), rng.uniform(0.7, 1.2)))
        elif kind == 1:
            canvas.line([(x, edge), (x, edge - 0.35)], 0.04, (96, 70, 48))
            canvas.disc((x, edge - 0.45), rng.uniform(0.14, 0.24), shade((70, 132, 62), rng.uniform(0.7, 1.3)))
        else:
            size = rng.uniform(0.5, 1.0)
            canvas.box((x, edge - size / 2), 0.34, size, colour(rng, (0.05, 0.35), (0.5, 0.9)))
            for dx in (-0.08, 0.08):
                for y in np.arange(edge - size + 0.1, edge - 0.1, 0.16):
                    canvas.box((x + dx, y), 0.06, 0.08, (225, 228, 190))
    canvas.polygon([(canvas.left, edge), (canvas.right, edge), (canvas.right, 2), (canvas.left, 2)], ground)
    canvas.line([(canvas.left, edge + 0.03), (canvas.right, edge + 0.03)], 0.015, shade(ground, 0.85))
