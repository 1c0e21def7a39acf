"""Draws people and things for the built-in sample: a canvas in world coordinates, a jointed person, backgrounds.

World coordinates: y points down, the ground is at y = 0, a grown person is about 1 tall. Everybody faces right (+x)
unless `facing` is -1; pictures are mirrored as a whole afterwards.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 2  # drawn so much larger and then reduced, which smooths edges

Point = tuple[float, float]
Colour = tuple[int, int, int]

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


def colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return tuple(round(255 * channel) for channel in rgb)


def shade(base: Colour, factor: float) -> Colour:
    return tuple(min(255, round(channel * factor)) for channel in base)


def toward(start: Point, angle: float, length: float) -> Point:
    """The point `length` from `start`; angle in degrees, 0 = right, 90 = down."""
    return start[0] + length * math.cos(math.radians(angle)), start[1] + length * math.sin(math.radians(angle))


class Canvas:
    """A picture of `size` (width, height) pixels that shows the world around `centre`, `span` world units high."""

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

    def ring(
        self, centre: Point, radius: float, width: float, fill: Colour, start: float = 0, end: float = 360
    ) -> None:
        (x, y), r = self.pixel(centre), radius * self.scale
        self.pen.arc((x - r, y - r, x + r, y + r), start, end, fill, max(1, round(width * self.scale)))

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.pen.polygon([self.pixel(point) for point in points], fill=fill)

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """A stroke with round joints and ends."""
        w = max(1, round(width * self.scale))
        self.pen.line([self.pixel(point) for point in points], fill=fill, width=w)
        for point in points:
            self.disc(point, width / 2, fill)

    def box(self, centre: Point, width: float, height: float, fill: Colour, angle: float = 0) -> None:
        """A rectangle turned by `angle` degrees."""
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        corners = [(x * width / 2, y * height / 2) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        self.polygon([(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in corners], fill)

    def finish(self, rng: np.random.Generator) -> Image.Image:
        """Reduces the picture to its size, with some sensor noise and a light of its own, mirrored half of the time."""
        small = self.image.resize(self.size, Image.Resampling.LANCZOS)
        values = np.asarray(small, dtype=np.float32)
        values = values * rng.uniform(0.8, 1.1) + rng.normal(0, 10, 3) + rng.normal(0, rng.uniform(2, 9), values.shape)
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


@dataclass
class Look:
    """Body and clothes of one person, drawn at random."""

    rng: np.random.Generator
    skin: Colour = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        self.skin = SKIN[rng.integers(len(SKIN))]
        self.hair = HAIR[rng.integers(len(HAIR))]
        self.hair_style = str(rng.choice(["short", "long", "bun", "cap", "bald"], p=[0.35, 0.3, 0.15, 0.12, 0.08]))
        self.shirt = colour(rng, (0.3, 0.95), (0.45, 0.98))
        self.trousers = colour(rng, (0.1, 0.6), (0.2, 0.65))
        self.shoes = colour(rng, (0.0, 0.6), (0.15, 0.9))
        self.long_sleeves, self.skirt = rng.random() < 0.55, rng.random() < 0.2
        self.height, self.build = rng.uniform(0.9, 1.06), rng.uniform(0.85, 1.2)


@dataclass
class Pose:
    """Where trunk and head are. Angles in degrees; `lean` and `tilt` are forward (towards `facing`)."""

    look: Look
    hip: Point
    lean: float = 0.0
    tilt: float = 0.0
    facing: int = 1

    def along(self, start: Point, angle: float, length: float) -> Point:
        """From `start`, `angle` forward of straight up, `length` in body heights."""
        radians = math.radians(angle)
        step = length * self.look.height
        return start[0] + self.facing * step * math.sin(radians), start[1] - step * math.cos(radians)

    def ahead(self, start: Point, forward: float, down: float = 0.0) -> Point:
        """A point so far forward and down of `start`, in body heights."""
        return start[0] + self.facing * forward * self.look.height, start[1] + down * self.look.height

    @property
    def neck(self) -> Point:
        return self.along(self.hip, self.lean, 0.31)

    @property
    def head(self) -> Point:
        return self.along(self.neck, self.lean + self.tilt, 0.105)

    @property
    def radius(self) -> float:
        return 0.078 * self.look.height

    def on_head(self, forward: float, up: float) -> Point:
        """A point of the head, in head radii."""
        angle = self.lean + self.tilt
        r = self.radius / self.look.height
        return self.along(self.along(self.head, angle, up * r), angle + 90, forward * r)

    @property
    def mouth(self) -> Point:
        return self.on_head(0.5, -0.5)

    @property
    def ear(self) -> Point:
        return self.on_head(-0.25, 0.0)


def joint(start: Point, end: Point, first: float, second: float, bend: int) -> tuple[Point, Point]:
    """Elbow or knee, and where hand or foot really gets, of a limb from `start` towards `end` (law of cosines)."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    wanted = math.hypot(dx, dy)
    reach = min(max(wanted, abs(first - second) + 1e-3), first + second - 1e-3)
    if wanted > 0:
        end = start[0] + dx * reach / wanted, start[1] + dy * reach / wanted
    corner = math.acos((first**2 + reach**2 - second**2) / (2 * first * reach))
    return toward(start, math.degrees(math.atan2(dy, dx) + bend * corner), first), end


class Person:
    """Draws a posed person part by part, so that a scene can put things between the parts."""

    def __init__(self, canvas: Canvas, pose: Pose) -> None:
        self.canvas, self.pose, self.look = canvas, pose, pose.look
        self.h = pose.look.height

    def arm(self, hand: Point, near: bool = True, bend: int = 1, bone: float = 0.165) -> Point:
        """Draws an arm towards `hand` and returns where the hand is; a shorter `bone` is one seen at an angle."""
        look, width = self.look, 0.062 * self.h * self.look.build
        shoulder = self.pose.ahead(self.pose.along(self.pose.neck, self.pose.lean, -0.045), 0.0 if near else 0.045)
        elbow, end = joint(shoulder, hand, bone * self.h, bone * self.h, bend * self.pose.facing)
        tone = 0.92 if near else 0.72
        sleeve, skin = shade(look.shirt, tone), shade(look.skin, 1.0 if near else 0.88)
        self.canvas.line([elbow, end], width * 0.78, sleeve if look.long_sleeves else skin)
        self.canvas.line([shoulder, elbow], width, sleeve)
        self.canvas.disc(end, width * 0.56, skin)
        return end

    def leg(self, foot: Point, near: bool = True, bend: int = -1, toes: float = 0.0) -> Point:
        look, width = self.look, 0.09 * self.h * self.look.build
        knee, end = joint(self.pose.hip, foot, 0.255 * self.h, 0.25 * self.h, bend * self.pose.facing)
        cloth = shade(look.trousers, 1.0 if near else 0.75)
        lower = shade(look.skin, 1.0 if near else 0.85) if look.skirt else cloth
        self.canvas.line([knee, end], width * 0.75, lower)
        self.canvas.line([self.pose.hip, knee], width, cloth)
        toe = self.pose.ahead(end, 0.085 * math.cos(math.radians(toes)), -0.085 * math.sin(math.radians(toes)))
        self.canvas.line([end, toe], width * 0.62, shade(look.shoes, 1.0 if near else 0.8))
        return end

    def trunk(self) -> None:
        pose, width = self.pose, 0.15 * self.h * self.look.build
        self.canvas.line([pose.along(pose.neck, pose.lean, -0.075), pose.hip], width, self.look.shirt)
        self.canvas.line([pose.neck, pose.head], 0.055 * self.h, shade(self.look.skin, 0.85))
        if self.look.skirt:
            self.canvas.line([pose.hip, pose.ahead(pose.hip, 0.0, 0.06)], width * 1.15, self.look.trousers)

    def face(self, mouth: str = "plain", eyes: str = "open") -> None:
        """The head; mouth: plain, smile, open, laugh; eyes: open, closed, down."""
        canvas, pose, look, r = self.canvas, self.pose, self.look, self.pose.radius
        if look.hair_style == "long":
            canvas.line([pose.on_head(-0.45, 0.2), pose.on_head(-0.55, -1.5)], 1.25 * r, look.hair)
        if look.hair_style == "bun":
            canvas.disc(pose.on_head(-0.75, 0.95), 0.5 * r, look.hair)
        if look.hair_style != "bald":
            canvas.disc(pose.on_head(-0.16, 0.14), 1.08 * r, look.hair)
        canvas.disc(pose.on_head(0.12, -0.08), 0.92 * r, look.skin, 1.06)
        if look.hair_style == "cap":
            canvas.line([pose.on_head(-0.7, 0.62), pose.on_head(0.6, 0.62)], 0.55 * r, look.shirt)
            canvas.line([pose.on_head(0.6, 0.5), pose.on_head(1.45, 0.42)], 0.2 * r, shade(look.shirt, 0.8))
        elif look.hair_style != "bald":
            canvas.line([pose.on_head(-0.75, 0.62), pose.on_head(0.5, 0.84)], 0.42 * r, look.hair)
        canvas.disc(pose.on_head(-0.3, -0.05), 0.2 * r, shade(look.skin, 0.88))
        canvas.line([pose.on_head(0.72, 0.0), pose.on_head(0.82, -0.18)], 0.12 * r, shade(look.skin, 0.8))
        for forward in (0.25, 0.72):
            self.eye(pose.on_head(forward, 0.16), forward, eyes, r)
        self.lips(mouth, r)

    def eye(self, at: Point, forward: float, eyes: str, r: float) -> None:
        canvas, pose = self.canvas, self.pose
        if eyes == "open":
            canvas.disc(at, 0.15 * r, WHITE)
            canvas.disc(pose.on_head(forward + 0.04, 0.14), 0.085 * r, DARK)
        else:
            dip = 0.1 if eyes == "laugh" else -0.08
            ends = (
                pose.on_head(forward - 0.15, 0.14),
                pose.on_head(forward, 0.14 + dip),
                pose.on_head(forward + 0.15, 0.14),
            )
            canvas.line(ends, 0.07 * r, DARK)
        canvas.line(
            [pose.on_head(forward - 0.14, 0.4), pose.on_head(forward + 0.14, 0.42)],
            0.07 * r,
            shade(self.look.hair, 0.7),
        )

    def lips(self, mouth: str, r: float) -> None:
        canvas, pose = self.canvas, self.pose
        red, at = shade(self.look.skin, 0.55), pose.mouth
        if mouth == "laugh":
            canvas.disc(at, 0.36 * r, (120, 30, 34), 0.9)
            canvas.line([pose.on_head(0.28, -0.36), pose.on_head(0.72, -0.36)], 0.16 * r, WHITE)
        elif mouth == "open":
            canvas.disc(at, 0.17 * r, (120, 30, 34))
        else:
            dip = -0.66 if mouth == "smile" else -0.54
            canvas.line([pose.on_head(0.22, -0.48), pose.on_head(0.48, dip), pose.on_head(0.74, -0.48)], 0.09 * r, red)

    def stand(self, spread: float = 0.07) -> None:
        """Both legs on the ground, near and far of the hip."""
        self.leg((self.pose.hip[0] + spread * self.pose.facing, -0.02), near=False, bend=-1)
        self.leg((self.pose.hip[0] - spread * self.pose.facing, -0.02), near=True, bend=-1)


def indoors(canvas: Canvas, rng: np.random.Generator) -> None:
    """Wall and floor, with a window, pictures, a lamp, a plant or shelves at random."""
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
        elif kind == 1:  # picture
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


def outdoors(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sky and ground, with hills, trees or houses."""
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
