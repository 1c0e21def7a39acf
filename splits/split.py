"""Divides samples into training, validation and test, by class and by seed, never with two copies on two sides."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset import ActionData, Sample, class_counts
from runtime.errors import InputError

TEST_SHARE = 0.15  # of the labelled pictures, where no labelled test set comes with them
VAL_SHARE = 0.20  # of what remains, by default


@dataclass
class Split:
    """Three lists of samples; `left_out`: training pictures that are copies of pictures of a test set that is given."""

    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    left_out: list[Sample]

    def names(self) -> dict[str, list[str]]:
        """File names by part, as `split.json` lists them."""
        return {part: [sample.name for sample in samples] for part, samples in vars(self).items()}


def split_data(data: ActionData, groups: Sequence[int], seed: int, val_share: float = VAL_SHARE) -> Split:
    """Splits a dataset. The test part is the labelled test set, else a held-out share; then training and validation.

    Args:
        groups: a number for each picture of `data.labelled`; copies share one (see `scan.group_duplicates`).
        val_share: of what is not tested, validation's. The test part does not depend on it.

    Raises: InputError naming the class that is too small.
    """
    rng = np.random.default_rng(seed)
    numbers = dict(zip((sample.name for sample in data.labelled), groups, strict=True))
    pool, test, left_out = data.train, data.test, []
    if data.test_is_labelled:
        taken = {numbers[sample.name] for sample in test}
        left_out = [sample for sample in pool if numbers[sample.name] in taken]
        pool = [sample for sample in pool if numbers[sample.name] not in taken]
    else:
        pool, test = hold_out(pool, numbers, TEST_SHARE, rng)
    train, val = hold_out(pool, numbers, val_share, rng)
    short = [name for name in data.classes if any(name not in {s.label for s in part} for part in (train, val))]
    if short:
        raise InputError(f"{data.root}: class {short[0]!r} is too small to split; give it more pictures or remove it")
    return Split(train, val, test, left_out)


def hold_out(
    samples: Sequence[Sample], numbers: dict[str, int], share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[Sample]]:
    """Takes `share` of each class out of `samples`, whole groups only. Returns (kept, held out), in the given order.

    A group counts for the class of its first member. Raises: InputError for a class of which nothing would be held out
    or nothing kept.
    """
    members = defaultdict(list)
    for sample in samples:
        members[numbers[sample.name]].append(sample)
    groups_of = defaultdict(list)
    for number, group in members.items():
        groups_of[group[0].label].append(number)
    held = set()
    for label, groups in sorted(groups_of.items()):
        total = sum(len(members[number]) for number in groups)
        quota = max(1, round(share * total))
        taken = 0
        for number in rng.permutation(groups).tolist():
            if taken + len(members[number]) <= quota:
                held.add(number)
                taken += len(members[number])
        if not taken or taken == total:
            raise InputError(
                f"class {label!r} is too small to split: {total} pictures in {len(groups)} groups of copies; "
                "give it more pictures or remove it"
            )
    kept = [sample for sample in samples if numbers[sample.name] not in held]
    return kept, [sample for sample in samples if numbers[sample.name] in held]


def describe(split: Split) -> str:
    """One line for the console: how many pictures each part has."""
    counts = ", ".join(f"{len(samples)} {part}" for part, samples in vars(split).items() if samples)
    smallest = min(class_counts(split.train).items(), key=lambda item: item[1])
    return f"{counts} (smallest class in training: {smallest[0]}, {smallest[1]})".replace("left_out", "left out")
