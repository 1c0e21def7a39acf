"""Draws people for the built-in sample: appearance, pose, limbs, faces.

People face right (+x) unless `facing` is -1; the finished image is flipped half of the time.
"""

import math
from dataclasses import dataclass, field

from sample.canvas import DARK, HAIR, SKIN, WHITE, Canvas, Colour, Point, Rng, colour, shade, toward
from sample.objects import chair


@dataclass
class Appearance:
    """Random body and clothes of one person."""

    rng: Rng
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
    """Position of trunk and head. `lean` (trunk) and `tilt` (head) in degrees, positive towards `facing`."""

    appearance: Appearance
    hip: Point
    lean: float = 0.0
    tilt: float = 0.0
    facing: int = 1

    def along(self, start: Point, angle: float, length: float) -> Point:
        """The point at `length` body heights from `start`; angle in degrees, 0 = up, positive towards `facing`."""
        radians = math.radians(angle)
        step = length * self.appearance.height
        return start[0] + self.facing * step * math.sin(radians), start[1] - step * math.cos(radians)

    def ahead(self, start: Point, forward: float, down: float = 0.0) -> Point:
        """The point `forward` and `down` of `start`, in body heights."""
        return start[0] + self.facing * forward * self.appearance.height, start[1] + down * self.appearance.height

    @property
    def neck(self) -> Point:
        return self.along(self.hip, self.lean, 0.31)

    @property
    def head(self) -> Point:
        return self.along(self.neck, self.lean + self.tilt, 0.105)

    @property
    def radius(self) -> float:
        return 0.078 * self.appearance.height

    def on_head(self, forward: float, up: float) -> Point:
        """The point `forward` and `up` of the centre of the head, in head radii."""
        angle = self.lean + self.tilt
        r = self.radius / self.appearance.height
        return self.along(self.along(self.head, angle, up * r), angle + 90, forward * r)

    @property
    def mouth(self) -> Point:
        return self.on_head(0.5, -0.5)


def joint(start: Point, end: Point, first: float, second: float, bend: int) -> tuple[Point, Point]:
    """Elbow or knee, and the reachable hand or foot, of a limb from `start` towards `end` (law of cosines)."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    wanted = math.hypot(dx, dy)
    reach = min(max(wanted, abs(first - second) + 1e-3), first + second - 1e-3)
    if wanted > 0:
        end = start[0] + dx * reach / wanted, start[1] + dy * reach / wanted
    corner = math.acos((first**2 + reach**2 - second**2) / (2 * first * reach))
    return toward(start, math.degrees(math.atan2(dy, dx) + bend * corner), first), end


class Person:
    """Draws a posed person part by part, so that a scene can draw objects between the parts."""

    def __init__(self, canvas: Canvas, pose: Pose) -> None:
        self.canvas, self.pose, self.appearance = canvas, pose, pose.appearance
        self.h = pose.appearance.height

    def arm(self, hand: Point, near: bool = True, bend: int = 1, bone: float = 0.165) -> Point:
        """Draws an arm towards `hand` and returns the hand's position; `bone`: length of upper and lower arm."""
        appearance, width = self.appearance, 0.062 * self.h * self.appearance.build
        shoulder = self.pose.ahead(self.pose.along(self.pose.neck, self.pose.lean, -0.045), 0.0 if near else 0.045)
        elbow, end = joint(shoulder, hand, bone * self.h, bone * self.h, bend * self.pose.facing)
        tone = 0.92 if near else 0.72
        sleeve, skin = shade(appearance.shirt, tone), shade(appearance.skin, 1.0 if near else 0.88)
        self.canvas.line([elbow, end], width * 0.78, sleeve if appearance.long_sleeves else skin)
        self.canvas.line([shoulder, elbow], width, sleeve)
        self.canvas.disc(end, width * 0.56, skin)
        return end

    def leg(self, foot: Point, near: bool = True, bend: int = -1, toes: float = 0.0) -> Point:
        """Draws a leg towards `foot` and returns the foot's position; `toes`: degrees upwards."""
        appearance, width = self.appearance, 0.09 * self.h * self.appearance.build
        knee, end = joint(self.pose.hip, foot, 0.255 * self.h, 0.25 * self.h, bend * self.pose.facing)
        cloth = shade(appearance.trousers, 1.0 if near else 0.75)
        lower = shade(appearance.skin, 1.0 if near else 0.85) if appearance.skirt else cloth
        self.canvas.line([knee, end], width * 0.75, lower)
        self.canvas.line([self.pose.hip, knee], width, cloth)
        toe = self.pose.ahead(end, 0.085 * math.cos(math.radians(toes)), -0.085 * math.sin(math.radians(toes)))
        self.canvas.line([end, toe], width * 0.62, shade(appearance.shoes, 1.0 if near else 0.8))
        return end

    def trunk(self) -> None:
        pose, width = self.pose, 0.15 * self.h * self.appearance.build
        self.canvas.line([pose.along(pose.neck, pose.lean, -0.075), pose.hip], width, self.appearance.shirt)
        self.canvas.line([pose.neck, pose.head], 0.055 * self.h, shade(self.appearance.skin, 0.85))
        if self.appearance.skirt:
            self.canvas.line([pose.hip, pose.ahead(pose.hip, 0.0, 0.06)], width * 1.15, self.appearance.trousers)

    def face(self, mouth: str = "plain", eyes: str = "open") -> None:
        """Draws the head; mouth: plain, smile, open or laugh; eyes: open, down or laugh."""
        canvas, pose, appearance, r = self.canvas, self.pose, self.appearance, self.pose.radius
        if appearance.hair_style == "long":
            canvas.line([pose.on_head(-0.45, 0.2), pose.on_head(-0.55, -1.5)], 1.25 * r, appearance.hair)
        if appearance.hair_style == "bun":
            canvas.disc(pose.on_head(-0.75, 0.95), 0.5 * r, appearance.hair)
        if appearance.hair_style != "bald":
            canvas.disc(pose.on_head(-0.16, 0.14), 1.08 * r, appearance.hair)
        canvas.disc(pose.on_head(0.12, -0.08), 0.92 * r, appearance.skin, 1.06)
        if appearance.hair_style == "cap":
            canvas.line([pose.on_head(-0.7, 0.62), pose.on_head(0.6, 0.62)], 0.55 * r, appearance.shirt)
            canvas.line([pose.on_head(0.6, 0.5), pose.on_head(1.45, 0.42)], 0.2 * r, shade(appearance.shirt, 0.8))
        elif appearance.hair_style != "bald":
            canvas.line([pose.on_head(-0.75, 0.62), pose.on_head(0.5, 0.84)], 0.42 * r, appearance.hair)
        canvas.disc(pose.on_head(-0.3, -0.05), 0.2 * r, shade(appearance.skin, 0.88))
        canvas.line([pose.on_head(0.72, 0.0), pose.on_head(0.82, -0.18)], 0.12 * r, shade(appearance.skin, 0.8))
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
            shade(self.appearance.hair, 0.7),
        )

    def lips(self, mouth: str, r: float) -> None:
        canvas, pose = self.canvas, self.pose
        red, at = shade(self.appearance.skin, 0.55), pose.mouth
        if mouth == "laugh":
            canvas.disc(at, 0.36 * r, (120, 30, 34), 0.9)
            canvas.line([pose.on_head(0.28, -0.36), pose.on_head(0.72, -0.36)], 0.16 * r, WHITE)
        elif mouth == "open":
            canvas.disc(at, 0.17 * r, (120, 30, 34))
        else:
            dip = -0.66 if mouth == "smile" else -0.54
            canvas.line([pose.on_head(0.22, -0.48), pose.on_head(0.48, dip), pose.on_head(0.74, -0.48)], 0.09 * r, red)

    def stand(self, spread: float = 0.07) -> None:
        """Draws both legs, feet on the ground, `spread` in front of and behind the hip."""
        self.leg((self.pose.hip[0] + spread * self.pose.facing, -0.02), near=False, bend=-1)
        self.leg((self.pose.hip[0] - spread * self.pose.facing, -0.02), near=True, bend=-1)


def standing(canvas: Canvas, rng: Rng, x: float = 0.0, facing: int = 1, lean: float = 0.0, tilt: float = 0.0) -> Person:
    appearance = Appearance(rng)
    return Person(
        canvas,
        Pose(appearance, (x, -0.485 * appearance.height), lean + rng.normal(0, 3), tilt + rng.normal(0, 4), facing),
    )


def seated(canvas: Canvas, rng: Rng, lean: float = -4.0, tilt: float = 0.0) -> Person:
    """A person on a chair; draws chair, legs and trunk."""
    appearance = Appearance(rng)
    person = Person(canvas, Pose(appearance, (0.0, -0.31), lean + rng.normal(0, 4), tilt + rng.normal(0, 4)))
    chair(canvas, rng)
    stretch = rng.uniform(0.2, 0.32)
    person.leg((stretch + 0.06, -0.02), near=False)
    person.trunk()
    person.leg((stretch, -0.02))
    return person
