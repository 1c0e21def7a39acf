"""The fifteen actions of the built-in sample as scenes: who stands where, in which pose, with what in their hands."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from sample.people import (
    DARK,
    METAL,
    WHITE,
    WOOD,
    Canvas,
    Look,
    Person,
    Point,
    Pose,
    colour,
    indoors,
    outdoors,
    shade,
)

Rng = np.random.Generator


def view(rng: Rng, size: tuple[int, int], centre: Point, spans: tuple[float, float], outside: float = 0.3) -> Canvas:
    """A canvas near `centre`, `spans` high, with a background; `outside`: how often that is out of doors."""
    span = rng.uniform(*spans)
    shift = rng.normal(0, 0.045 * span, 2)
    canvas = Canvas(size, (centre[0] + shift[0], centre[1] + shift[1]), span)
    (outdoors if rng.random() < outside else indoors)(canvas, rng)
    return canvas


def standing(canvas: Canvas, rng: Rng, x: float = 0.0, facing: int = 1, lean: float = 0.0, tilt: float = 0.0) -> Person:
    look = Look(rng)
    return Person(
        canvas, Pose(look, (x, -0.485 * look.height), lean + rng.normal(0, 3), tilt + rng.normal(0, 4), facing)
    )


def seated(canvas: Canvas, rng: Rng, lean: float = -4.0, tilt: float = 0.0) -> Person:
    """A person on a chair, legs and trunk drawn."""
    look = Look(rng)
    person = Person(canvas, Pose(look, (0.0, -0.31), lean + rng.normal(0, 4), tilt + rng.normal(0, 4)))
    chair(canvas, rng)
    stretch = rng.uniform(0.2, 0.32)
    person.leg((stretch + 0.06, -0.02), near=False)
    person.trunk()
    person.leg((stretch, -0.02))
    return person


def chair(canvas: Canvas, rng: Rng) -> None:
    tone = colour(rng, (0.2, 0.8), (0.3, 0.8)) if rng.random() < 0.5 else WOOD
    for x in (-0.13, 0.15):
        canvas.line([(x, -0.24), (x + rng.uniform(-0.03, 0.03), 0.0)], 0.03, shade(tone, 0.7))
    canvas.line([(-0.15, -0.24), (-0.19, -0.24 - rng.uniform(0.28, 0.42))], 0.045, shade(tone, 0.85))
    canvas.line([(-0.15, -0.235), (0.17, -0.235)], 0.05, tone)


def table(canvas: Canvas, rng: Rng, left: float, right: float) -> float:
    """A table from x = left to right; returns the height of its top."""
    tone, top = shade(WOOD, rng.uniform(0.7, 1.5)), -0.46
    for x in (left + 0.06, right - 0.06):
        canvas.line([(x, top), (x, 0.0)], 0.04, shade(tone, 0.7))
    canvas.box(((left + right) / 2, top + 0.02), right - left, 0.04, tone)
    return top


def phone(canvas: Canvas, at: Point, angle: float) -> None:
    canvas.box(at, 0.05, 0.105, DARK, angle)
    canvas.box(at, 0.036, 0.082, (120, 190, 235), angle)


def cup(canvas: Canvas, at: Point, angle: float, tone: tuple[int, int, int]) -> None:
    canvas.ring((at[0] + 0.035, at[1]), 0.028, 0.014, shade(tone, 0.8))
    canvas.box(at, 0.065, 0.085, tone, angle)


def calling(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.05, -0.72), (0.65, 1.2), outside=0.45)
    person = standing(canvas, rng, tilt=6)
    person.stand()
    far = person.pose.ahead(person.pose.hip, rng.uniform(0.05, 0.2), rng.uniform(-0.15, 0.05))
    person.arm(far, near=False)
    person.trunk()
    person.face(str(rng.choice(["open", "smile", "plain"])))
    hand = person.arm(person.pose.on_head(-0.15, -0.3), bone=0.1)
    phone(canvas, (hand[0] - 0.005, hand[1] - 0.03), -12 + rng.normal(0, 8))
    canvas.line([hand, (hand[0] + 0.02, hand[1] - 0.02)], 0.03, person.look.skin)
    return canvas


def clapping(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.1, -0.66), (0.75, 1.25), outside=0.3)
    person = standing(canvas, rng)
    person.stand()
    meet = person.pose.ahead(person.pose.neck, rng.uniform(0.19, 0.26), rng.uniform(-0.02, 0.12))
    person.arm((meet[0] + 0.012, meet[1]), near=False)
    person.trunk()
    person.face(str(rng.choice(["smile", "laugh", "open"])))
    gap = rng.uniform(0.01, 0.05)
    hand = person.arm((meet[0] - gap, meet[1] + 0.01))
    for x, tone in ((hand[0], 1.0), (hand[0] + gap + 0.02, 0.86)):  # two upright palms
        canvas.line([(x, hand[1] + 0.01), (x + 0.015, hand[1] - 0.06)], 0.032, shade(person.look.skin, tone))
    for angle in (-70, -20, 25):  # the clap
        start = (hand[0] + 0.07 * np.cos(np.radians(angle)), hand[1] - 0.03 + 0.07 * np.sin(np.radians(angle)))
        end = (hand[0] + 0.12 * np.cos(np.radians(angle)), hand[1] - 0.03 + 0.12 * np.sin(np.radians(angle)))
        canvas.line([start, end], 0.009, WHITE)
    return canvas


def cycling(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.02, -0.5), (1.2, 1.7), outside=0.95)
    look, frame = Look(rng), colour(rng, (0.6, 1.0), (0.5, 0.95))
    pose = Pose(look, (-0.13, -0.56), rng.uniform(22, 48), -rng.uniform(5, 25))
    person, crank, turn = Person(canvas, pose), (0.0, -0.19), rng.uniform(0, 2 * np.pi)
    bar = (0.22, -0.58)
    pedals = [(crank[0] + side * 0.075 * np.cos(turn), crank[1] + side * 0.075 * np.sin(turn)) for side in (1, -1)]
    person.leg(pedals[1], near=False)
    person.arm(bar, near=False)
    for x in (-0.3, 0.32):
        canvas.ring((x, -0.19), 0.2, 0.022, DARK)
        canvas.ring((x, -0.19), 0.178, 0.008, METAL)
        for angle in range(0, 180, 30):
            dx, dy = 0.175 * np.cos(np.radians(angle)), 0.175 * np.sin(np.radians(angle))
            canvas.line([(x - dx, -0.19 - dy), (x + dx, -0.19 + dy)], 0.004, METAL)
    for points in ([(-0.3, -0.19), crank, (0.2, -0.47), (-0.12, -0.45), (-0.3, -0.19)], [crank, (-0.14, -0.53)]):
        canvas.line(points, 0.024, frame)
    canvas.line([(0.32, -0.19), (0.2, -0.47), (0.18, -0.57), bar], 0.02, shade(frame, 0.7))
    canvas.line([(-0.2, -0.535), (-0.08, -0.535)], 0.03, DARK)
    canvas.line([pedals[0], pedals[1]], 0.015, METAL)
    person.trunk()
    person.leg(pedals[0])
    person.face(str(rng.choice(["plain", "smile", "open"])))
    person.arm(bar)
    return canvas


def dancing(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0, -0.58), (1.3, 1.7), outside=0.25)
    if rng.random() < 0.5:  # coloured lights
        for _ in range(6):
            canvas.disc(
                (rng.uniform(canvas.left, canvas.right), rng.uniform(-1.4, -0.9)), 0.03, colour(rng, (0.5, 1), (0.9, 1))
            )
    person = standing(canvas, rng, lean=rng.normal(0, 9))
    pose = person.pose
    person.leg(pose.ahead(pose.hip, rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.42)), near=False, toes=-25)
    person.arm(
        pose.ahead(pose.neck, rng.uniform(0.15, 0.3), -rng.uniform(0.12, 0.35)),
        near=False,
        bend=int(rng.choice([-1, 1])),
    )
    person.leg((pose.hip[0] - rng.uniform(-0.05, 0.18), -0.02), near=True)
    person.trunk()
    person.face(str(rng.choice(["smile", "laugh", "open"])))
    person.arm(pose.ahead(pose.neck, -rng.uniform(0.1, 0.3), -rng.uniform(0.1, 0.35)), bend=int(rng.choice([-1, 1])))
    return canvas


def drinking(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.06, -0.74), (0.6, 1.1), outside=0.35)
    person = standing(canvas, rng, tilt=-14)
    person.stand()
    person.arm(person.pose.ahead(person.pose.hip, rng.uniform(0.0, 0.2), rng.uniform(-0.15, 0.08)), near=False)
    person.trunk()
    person.face("plain", str(rng.choice(["open", "down"])))
    mouth, tone = person.pose.mouth, colour(rng, (0.1, 0.9), (0.6, 1.0))
    at = (mouth[0] + 0.065, mouth[1] - 0.005)
    if rng.random() < 0.4:  # a bottle or a glass instead of a cup
        canvas.box((at[0] + 0.035, at[1] - 0.03), 0.15, 0.055, (150, 205, 225), -38)
        canvas.box((at[0] - 0.035, at[1] + 0.02), 0.05, 0.026, tone, -38)
    else:
        cup(canvas, at, -40 + rng.normal(0, 8), tone)
    person.arm((at[0] + 0.025, at[1] + 0.02))
    return canvas


def eating(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.2, -0.6), (0.7, 1.15), outside=0.15)
    person = seated(canvas, rng, lean=8, tilt=8)
    person.face("open", str(rng.choice(["open", "down"])))
    top = table(canvas, rng, 0.14, 0.95)
    canvas.disc((0.42, top - 0.012), 0.16, WHITE, 0.2)
    for _ in range(7):
        canvas.disc(
            (0.42 + rng.uniform(-0.09, 0.09), top - 0.035), rng.uniform(0.02, 0.035), colour(rng, (0.6, 1), (0.5, 0.95))
        )
    if rng.random() < 0.5:
        cup(canvas, (0.7, top - 0.045), 0, colour(rng, (0.1, 0.9), (0.6, 1)))
    person.arm((0.3, top - 0.03), near=False)
    mouth = person.pose.mouth
    hand = person.arm((mouth[0] + 0.09, mouth[1] + 0.05))
    canvas.line([hand, (mouth[0] + 0.015, mouth[1])], 0.013, METAL)
    canvas.disc((mouth[0] + 0.02, mouth[1]), 0.022, colour(rng, (0.6, 1.0), (0.5, 0.95)))
    return canvas


def fighting(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0, -0.55), (1.15, 1.5), outside=0.4)
    gap = rng.uniform(0.19, 0.27)
    people = [standing(canvas, rng, -gap, 1, lean=14), standing(canvas, rng, gap, -1, lean=rng.uniform(-12, 12))]
    for index, person in enumerate(people):
        pose = person.pose
        person.leg((pose.hip[0] + pose.facing * 0.2, -0.02), near=False)
        person.leg((pose.hip[0] - pose.facing * 0.18, -0.02))
        person.arm(pose.ahead(pose.neck, 0.16, -0.04), near=False)
        person.trunk()
        person.face("open" if index else "plain")
    kick = rng.random() < 0.3
    target = people[1].pose
    if kick:
        people[0].leg(target.ahead(target.hip, 0.08, -0.12), toes=80)
    people[0].arm(target.on_head(0.9, -0.2) if not kick else people[0].pose.ahead(people[0].pose.neck, 0.17, 0.02))
    people[1].arm(target.ahead(target.neck, rng.uniform(0.14, 0.3), rng.uniform(-0.1, 0.08)))
    return canvas


def hugging(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0, -0.66), (0.8, 1.35), outside=0.4)
    left, right = standing(canvas, rng, -0.085, 1, 5, 8), standing(canvas, rng, 0.085, -1, 5, 8)
    right.stand()
    left.stand()
    right.trunk()
    right.face(str(rng.choice(["smile", "plain"])), "down")
    left.arm(right.pose.ahead(right.pose.neck, -0.06, rng.uniform(0.06, 0.16)), near=False)
    left.trunk()
    left.face(str(rng.choice(["smile", "plain"])), "down")
    right.arm(left.pose.ahead(left.pose.neck, -0.07, rng.uniform(0.05, 0.12)))
    if rng.random() < 0.7:
        left.arm(right.pose.ahead(right.pose.neck, -0.04, rng.uniform(0.15, 0.22)))
    return canvas


def laughing(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.02, -0.84), (0.36, 0.8), outside=0.4)
    person = standing(canvas, rng, lean=-4, tilt=-12)
    person.stand()
    person.arm(person.pose.ahead(person.pose.hip, 0.1, 0.05), near=False)
    person.trunk()
    person.face("laugh", "laugh")
    if rng.random() < 0.4:
        person.arm(person.pose.ahead(person.pose.hip, 0.08, -0.1))
    return canvas


def listening_to_music(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.04, -0.78), (0.5, 1.05), outside=0.4)
    person = standing(canvas, rng, tilt=rng.uniform(-10, 14))
    person.stand()
    person.arm(person.pose.ahead(person.pose.hip, 0.1, 0.0), near=False)
    person.trunk()
    person.face(str(rng.choice(["smile", "plain"])), str(rng.choice(["down", "open"])))
    pose, r, tone = person.pose, person.pose.radius, colour(rng, (0.3, 1.0), (0.25, 0.95))
    band = [pose.on_head(-0.25 + np.sin(a) * 0.25, 0.05 + np.cos(a) * 1.1) for a in np.linspace(-1.5, 1.5, 9)]
    canvas.line([*band[:5], pose.on_head(-0.25, 0.3)], 0.22 * r, shade(tone, 0.7))
    canvas.disc(pose.on_head(-0.27, -0.05), 0.48 * r, shade(tone, 0.7), 1.2)
    canvas.disc(pose.on_head(-0.27, -0.05), 0.34 * r, tone, 1.2)
    if rng.random() < 0.6:
        person.arm(pose.on_head(-0.3, -0.4), bone=0.1)
    else:
        person.arm(pose.ahead(pose.hip, 0.08, -0.05))
    for _ in range(rng.integers(0, 3)):  # notes in the air
        x, y = pose.head[0] + rng.uniform(0.16, 0.34), pose.head[1] - rng.uniform(-0.1, 0.2)
        canvas.disc((x, y), 0.018, DARK, 0.8)
        canvas.line([(x + 0.016, y), (x + 0.016, y - 0.07), (x + 0.04, y - 0.055)], 0.008, DARK)
    return canvas


def running(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0, -0.52), (1.15, 1.7), outside=0.92)
    person = standing(canvas, rng, lean=rng.uniform(8, 20))
    pose, stride = person.pose, rng.uniform(0.24, 0.36)
    person.arm(pose.ahead(pose.neck, rng.uniform(0.14, 0.22), rng.uniform(0.0, 0.14)), near=False)
    person.leg(pose.ahead(pose.hip, -stride, rng.uniform(0.2, 0.36)), near=False, toes=-60)
    person.trunk()
    person.leg(pose.ahead(pose.hip, stride * 0.8, rng.uniform(0.33, 0.42)), toes=15)
    person.face(str(rng.choice(["open", "plain"])))
    person.arm(pose.ahead(pose.neck, -rng.uniform(0.08, 0.16), rng.uniform(0.18, 0.26)))
    return canvas


def sitting(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.08, -0.42), (0.95, 1.35), outside=0.25)
    person = seated(canvas, rng)
    knee = (rng.uniform(0.12, 0.22), -0.34)
    person.arm(knee, near=False)
    person.face(str(rng.choice(["plain", "smile"])))
    person.arm((knee[0] - rng.uniform(0.0, 0.1), knee[1]))
    return canvas


def sleeping(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.0, -0.36), (0.85, 1.25), outside=0.0)
    look, frame, cover = Look(rng), shade(WOOD, rng.uniform(0.6, 1.3)), colour(rng, (0.2, 0.8), (0.5, 0.95))
    canvas.box((-0.62, -0.3), 0.06, 0.6, frame)
    canvas.box((0.0, -0.1), 1.26, 0.1, frame)
    canvas.box((0.62, -0.2), 0.06, 0.34, frame)
    canvas.line([(-0.54, -0.2), (0.56, -0.2)], 0.14, WHITE)
    canvas.line([(-0.5, -0.29), (-0.34, -0.3)], 0.13, shade(WHITE, 0.9))
    pose = Pose(look, (-0.02, -0.31), lean=-92, tilt=rng.uniform(0, 12))
    person = Person(canvas, pose)
    person.trunk()
    person.face(str(rng.choice(["plain", "open"])), "down")
    lump = rng.uniform(0.02, 0.1)
    blanket = [(-0.22, -0.2), (-0.2, -0.38), (0.05, -0.37), (0.25, -0.33 - lump), (0.45, -0.29), (0.54, -0.2)]
    canvas.line(blanket, 0.05, cover)
    canvas.polygon(blanket, cover)
    canvas.polygon([(-0.22, -0.21), (0.55, -0.21), (0.53, -0.08), (-0.2, -0.1)], shade(cover, 0.85))
    if rng.random() < 0.5:
        person.arm((-0.12, -0.4), bend=-1)
    return canvas


def texting(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.08, -0.7), (0.65, 1.2), outside=0.4)
    person = standing(canvas, rng, lean=4, tilt=20)
    person.stand()
    at = person.pose.ahead(person.pose.neck, rng.uniform(0.16, 0.24), rng.uniform(0.04, 0.15))
    person.arm((at[0] + 0.01, at[1] + 0.04), near=False)
    person.trunk()
    person.face(str(rng.choice(["plain", "smile"])), "down")
    phone(canvas, at, 20 + rng.normal(0, 8))
    person.arm((at[0] - 0.02, at[1] + 0.05))
    return canvas


def using_laptop(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.2, -0.52), (0.8, 1.25), outside=0.1)
    person = seated(canvas, rng, lean=6, tilt=8)
    person.face(str(rng.choice(["plain", "smile"])))
    top = table(canvas, rng, 0.13, 0.9)
    tone = METAL if rng.random() < 0.6 else DARK
    slant = rng.uniform(0.06, 0.12)
    person.arm((0.36, top - 0.03), near=False)
    canvas.line([(0.3, top - 0.012), (0.54, top - 0.012)], 0.022, tone)
    canvas.line([(0.54, top - 0.012), (0.54 + slant, top - 0.23)], 0.024, tone)
    canvas.line([(0.532, top - 0.035), (0.522 + slant, top - 0.215)], 0.014, (150, 205, 245))
    if rng.random() < 0.4:
        cup(canvas, (0.76, top - 0.045), 0, colour(rng, (0.1, 0.9), (0.6, 1.0)))
    person.arm((0.33, top - 0.04))
    return canvas


SCENES: dict[str, Callable[[Rng, tuple[int, int]], Canvas]] = {
    scene.__name__: scene
    for scene in (
        calling, clapping, cycling, dancing, drinking, eating, fighting, hugging,
        laughing, listening_to_music, running, sitting, sleeping, texting, using_laptop,
    )
}  # fmt: skip


def draw(action: str, seed: tuple[int, ...]) -> Image.Image:
    """One RGB picture of an action, 110 to 250 pixels high; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    height = int(rng.integers(110, 251))
    return SCENES[action](rng, (round(height * rng.uniform(1.0, 1.6)), height)).finish(rng)
