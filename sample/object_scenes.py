"""Scenes of the built-in sample with objects: phones, food, headphones, furniture, a bicycle, a laptop."""

import numpy as np

from sample.backgrounds import view
from sample.canvas import DARK, METAL, WHITE, WOOD, Canvas, Rng, colour, shade
from sample.objects import cup, phone, table
from sample.people import Appearance, Person, Pose, seated, standing


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
    canvas.line([hand, (hand[0] + 0.02, hand[1] - 0.02)], 0.03, person.appearance.skin)
    return canvas


def cycling(rng: Rng, size: tuple[int, int]) -> Canvas:
    canvas = view(rng, size, (0.02, -0.5), (1.2, 1.7), outside=0.95)
    appearance, frame = Appearance(rng), colour(rng, (0.6, 1.0), (0.5, 0.95))
    pose = Pose(appearance, (-0.13, -0.56), rng.uniform(22, 48), -rng.uniform(5, 25))
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
    for _ in range(rng.integers(0, 3)):  # musical notes
        x, y = pose.head[0] + rng.uniform(0.16, 0.34), pose.head[1] - rng.uniform(-0.1, 0.2)
        canvas.disc((x, y), 0.018, DARK, 0.8)
        canvas.line([(x + 0.016, y), (x + 0.016, y - 0.07), (x + 0.04, y - 0.055)], 0.008, DARK)
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
    appearance, frame, cover = Appearance(rng), shade(WOOD, rng.uniform(0.6, 1.3)), colour(rng, (0.2, 0.8), (0.5, 0.95))
    canvas.box((-0.62, -0.3), 0.06, 0.6, frame)
    canvas.box((0.0, -0.1), 1.26, 0.1, frame)
    canvas.box((0.62, -0.2), 0.06, 0.34, frame)
    canvas.line([(-0.54, -0.2), (0.56, -0.2)], 0.14, WHITE)
    canvas.line([(-0.5, -0.29), (-0.34, -0.3)], 0.13, shade(WHITE, 0.9))
    pose = Pose(appearance, (-0.02, -0.31), lean=-92, tilt=rng.uniform(0, 12))
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
