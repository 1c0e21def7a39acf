"""Scenes of the built-in sample without objects: one person, or two who fight or hug."""

import numpy as np

from sample.backgrounds import view
from sample.canvas import WHITE, Canvas, Rng, colour, shade
from sample.people import standing


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
    for x, tone in ((hand[0], 1.0), (hand[0] + gap + 0.02, 0.86)):  # palms
        canvas.line([(x, hand[1] + 0.01), (x + 0.015, hand[1] - 0.06)], 0.032, shade(person.appearance.skin, tone))
    for angle in (-70, -20, 25):  # lines of motion
        start = (hand[0] + 0.07 * np.cos(np.radians(angle)), hand[1] - 0.03 + 0.07 * np.sin(np.radians(angle)))
        end = (hand[0] + 0.12 * np.cos(np.radians(angle)), hand[1] - 0.03 + 0.12 * np.sin(np.radians(angle)))
        canvas.line([start, end], 0.009, WHITE)
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
