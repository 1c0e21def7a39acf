"""Draws furniture and small objects for the built-in sample."""

from sample.canvas import DARK, WOOD, Canvas, Colour, Point, Rng, colour, shade


def chair(canvas: Canvas, rng: Rng) -> None:
    tone = colour(rng, (0.2, 0.8), (0.3, 0.8)) if rng.random() < 0.5 else WOOD
    for x in (-0.13, 0.15):
        canvas.line([(x, -0.24), (x + rng.uniform(-0.03, 0.03), 0.0)], 0.03, shade(tone, 0.7))
    canvas.line([(-0.15, -0.24), (-0.19, -0.24 - rng.uniform(0.28, 0.42))], 0.045, shade(tone, 0.85))
    canvas.line([(-0.15, -0.235), (0.17, -0.235)], 0.05, tone)


def table(canvas: Canvas, rng: Rng, left: float, right: float) -> float:
    """Draws a table from x = left to right; returns the y of its top."""
    tone, top = shade(WOOD, rng.uniform(0.7, 1.5)), -0.46
    for x in (left + 0.06, right - 0.06):
        canvas.line([(x, top), (x, 0.0)], 0.04, shade(tone, 0.7))
    canvas.box(((left + right) / 2, top + 0.02), right - left, 0.04, tone)
    return top


def phone(canvas: Canvas, at: Point, angle: float) -> None:
    canvas.box(at, 0.05, 0.105, DARK, angle)
    canvas.box(at, 0.036, 0.082, (120, 190, 235), angle)


def cup(canvas: Canvas, at: Point, angle: float, tone: Colour) -> None:
    canvas.ring((at[0] + 0.035, at[1]), 0.028, 0.014, shade(tone, 0.8))
    canvas.box(at, 0.065, 0.085, tone, angle)
