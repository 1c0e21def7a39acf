"""Splits samples into training, validation and test: stratified, seeded, duplicates never in two parts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset import ActionData, Sample, class_counts
from runtime.errors import InputError

TEST_SHARE = 0.15  # of the labelled images, where the dataset has no labelled test set


@dataclass
class Split:
    """Samples of each part; `left_out`: training images that are duplicates of images in the given test set."""

    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    left_out: list[Sample]

    def names(self) -> dict[str, list[str]]:
        """Sample names by part, as in `split.json`."""
        return {part: [sample.name for sample in samples] for part, samples in vars(self).items()}


def split_data(data: ActionData, groups: Sequence[int], seed: int, val_share: float = 0.2) -> Split:
    """Splits a dataset. The test part is its labelled test set, or a held-out share where it has none.

    Args:
        groups: group number of each image in `data.labelled`; duplicates share one (see `scan.group_duplicates`).
        val_share: validation's share of the images outside the test part, which does not depend on it.

    Raises: InputError naming the class that is too small.
    """
    rng = np.random.default_rng(seed)
    group_of = dict(zip((sample.name for sample in data.labelled), groups, strict=True))
    pool, test, left_out = data.train, data.test, []
    if data.test_is_labelled:
        test_groups = {group_of[sample.name] for sample in test}
        left_out = [sample for sample in pool if group_of[sample.name] in test_groups]
        pool = [sample for sample in pool if group_of[sample.name] not in test_groups]
    else:
        pool, test = hold_out(pool, group_of, TEST_SHARE, rng)
    train, val = hold_out(pool, group_of, val_share, rng)
    too_small = [name for name in data.classes if any(name not in {s.label for s in part} for part in (train, val))]
    if too_small:
        raise InputError(f"{data.root}: class {too_small[0]!r} is too small to split; add images or remove the class")
    return Split(train, val, test, left_out)


def hold_out(
    samples: Sequence[Sample], group_of: dict[str, int], share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[Sample]]:
    """Holds out `share` of each class, whole groups only. Returns (kept, held out), both in the given order.

    A group counts for the class of its first member. Raises: InputError for a class of which no image would be held out
    or none kept.
    """
    members = defaultdict(list)
    for sample in samples:
        members[group_of[sample.name]].append(sample)
    groups_of_class = defaultdict(list)
    for group, group_samples in members.items():
        groups_of_class[group_samples[0].label].append(group)
    held_out = set()
    for label, groups in sorted(groups_of_class.items()):
        total = sum(len(members[group]) for group in groups)
        quota = max(1, round(share * total))
        count = 0
        for group in rng.permutation(groups).tolist():
            if count + len(members[group]) <= quota:
                held_out.add(group)
                count += len(members[group])
        if not count or count == total:
            raise InputError(
                f"class {label!r} is too small to split: {total} images in {len(groups)} group(s) of duplicates; "
                "add images or remove the class"
            )
    kept = [sample for sample in samples if group_of[sample.name] not in held_out]
    return kept, [sample for sample in samples if group_of[sample.name] in held_out]


def describe(split: Split) -> str:
    """One line for the console: the number of images in each part."""
    counts = ", ".join(f"{len(samples)} {part}" for part, samples in vars(split).items() if samples)
    counts = counts.replace("left_out", "left out as duplicates of test images")
    smallest, count = min(class_counts(split.train).items(), key=lambda item: item[1])
    return f"{counts} (smallest class in training: {smallest}, {count})"
