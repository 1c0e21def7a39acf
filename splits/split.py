"""Splits samples into training, validation and test: stratified, seeded, duplicates never in two parts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset import ActionData, Sample, class_counts
from runtime.errors import InputError
from runtime.text import shorten

NAMED = 20  # classes in a message
TEST_SHARE = 0.15  # of the labelled images, where the dataset has no labelled test set


@dataclass
class Split:
    """Samples of each part; `left_out`: those in a group with images of a given validation or test set."""

    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    left_out: list[Sample]

    def names(self) -> dict[str, list[str]]:
        """Sample names by part, as in `split.json`."""
        return {part: [sample.name for sample in samples] for part, samples in vars(self).items()}


def split_data(
    data: ActionData, groups: Sequence[int], seed: int, val_share: float = 0.2, is_grouped: bool = False
) -> Split:
    """Keeps a dataset's own validation set and labelled test set; holds out those that it lacks.

    What is in a group with test images is left out of validation and training, with validation images out of training.

    Args:
        groups: group number of each image in `data.labelled`; duplicates share one (see `scan.group_duplicates`), and
            images of one of `--group`'s groups (see `groups.join_groups`).
        is_grouped: whether groups are those of --group, which may be large or hold several classes.
        val_share: validation's share of the images outside the test part, which does not depend on it.

    Raises: InputError naming the class that is too small.
    """
    rng = np.random.default_rng(seed)
    group_of = dict(zip((sample.name for sample in data.labelled), groups, strict=True))
    test = data.test if data.test_is_labelled else []
    val, val_left_out = without_duplicates(data, data.val, test, group_of)
    pool, left_out = without_duplicates(data, data.train, val + test, group_of)
    if not test and is_grouped:
        pool, test = hold_out_groups(pool, group_of, TEST_SHARE, rng, leave=1 if val else 2)
    elif not test:
        pool, test = hold_out(pool, group_of, TEST_SHARE, rng)
    train = pool
    if not val and is_grouped:
        train, val = hold_out_groups(pool, group_of, val_share, rng, leave=1)
    elif not val:
        train, val = hold_out(pool, group_of, val_share, rng)
    drawn = [train, *([] if data.val else [val]), *([] if data.test_is_labelled else [test])]
    too_small = sorted({name for part in drawn for name in set(data.classes) - {sample.label for sample in part}})
    if too_small:
        raise InputError(f"{data.root}: {explain_too_small(data, too_small, group_of, is_grouped)}")
    return Split(train, val, test, left_out + val_left_out)


def explain_too_small(data: ActionData, classes: Sequence[str], group_of: dict[str, int], is_grouped: bool) -> str:
    """Names all classes that have no image in some part, with how many they have, and the way out."""
    texts, duplicates = [], False
    for name in classes:
        images = [sample.name for sample in data.train if sample.label == name]
        different = len({group_of[image] for image in images})
        duplicates = duplicates or different < len(images)
        together = f" in {different} group{'s' * (different > 1)}" if different < len(images) else ""
        texts.append(f"{name!r} ({len(images)}{together})")
    apart = ", or split duplicates and similar images apart with --ignore-duplicates" if duplicates else ""
    apart = "; with --group, each needs three groups that share no duplicates" if is_grouped else apart
    return (
        f"{len(classes)} of {len(data.classes)} classes are too small to split, with so many training images: "
        f"{listed(texts)}; add images or remove these classes{apart}"
    )


def listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def without_duplicates(
    data: ActionData, samples: list[Sample], given: Sequence[Sample], group_of: dict[str, int]
) -> tuple[list[Sample], list[Sample]]:
    """Divides samples into those that share no group with a given part, and the others.

    Raises: InputError where a class of the dataset would have none of its images left.
    """
    taken = {group_of[sample.name] for sample in given}
    kept = [sample for sample in samples if group_of[sample.name] not in taken]
    left_out = [sample for sample in samples if group_of[sample.name] in taken]
    if gone := {sample.label for sample in left_out} - {sample.label for sample in kept}:
        first = next(sample for sample in left_out if sample.label == min(gone))
        places = " or ".join(sorted({f"{sample.name.split('/')[0]}/" for sample in given}))
        counts = Counter(sample.label for sample in left_out)
        texts = [f"{name!r} ({counts[name]})" for name in sorted(gone)]
        raise InputError(
            f"{data.root}: all images of {listed(texts)} in {first.name.split('/')[0]}/ have duplicates in "
            f"{places}, or are in a group with images there; remove them from one of the two (prepare_data.py --check "
            "names duplicates)"
        )
    return kept, left_out


def hold_out(
    samples: Sequence[Sample], group_of: dict[str, int], share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[Sample]]:
    """Holds out `share` of each class, whole groups only. Returns (kept, held out), both in the given order.

    A group counts for the class of its first member. A class of few groups may be all kept or all held out.
    """
    members = defaultdict(list)
    for sample in samples:
        members[group_of[sample.name]].append(sample)
    groups_of_class = defaultdict(list)
    for group, group_samples in members.items():
        groups_of_class[group_samples[0].label].append(group)
    held_out = set()
    for _, groups in sorted(groups_of_class.items()):
        total = sum(len(members[group]) for group in groups)
        quota = max(1, round(share * total))
        count = 0
        for group in rng.permutation(groups).tolist():
            if count + len(members[group]) <= quota:
                held_out.add(group)
                count += len(members[group])
    kept = [sample for sample in samples if group_of[sample.name] not in held_out]
    return kept, [sample for sample in samples if group_of[sample.name] in held_out]


def hold_out_groups(
    samples: Sequence[Sample], group_of: dict[str, int], share: float, rng: np.random.Generator, leave: int
) -> tuple[list[Sample], list[Sample]]:
    """As `hold_out`, for groups that may be large or hold images of several classes, as of one person.

    Takes groups in random order, each that brings the numbers of held-out images nearer to `share` of each class; then,
    for a class that has none, any group of it.

    Args:
        leave: groups that each class keeps at least.
    """
    members = defaultdict(list)
    for sample in samples:
        members[group_of[sample.name]].append(sample)
    counts = {group: class_counts(own) for group, own in members.items()}
    missing = Counter({name: share * count for name, count in class_counts(samples).items()})  # images, may be negative
    kept = Counter(name for names in counts.values() for name in names)  # groups
    held_out: set[int] = set()

    def take(group: int) -> None:
        held_out.add(group)
        missing.subtract(counts[group])
        kept.subtract(dict.fromkeys(counts[group], 1))

    def spare(group: int) -> bool:
        return group not in held_out and all(kept[name] > leave for name in counts[group])

    order = rng.permutation(list(members)).tolist()
    for group in order:
        gain = sum(abs(missing[name]) - abs(missing[name] - count) for name, count in counts[group].items())
        if spare(group) and gain > 0:
            take(group)
    for name in sorted(kept):
        if not any(name in counts[group] for group in held_out):
            found = next((group for group in order if name in counts[group] and spare(group)), None)
            if found is not None:
                take(found)
    kept_samples = [sample for sample in samples if group_of[sample.name] not in held_out]
    return kept_samples, [sample for sample in samples if group_of[sample.name] in held_out]


def describe(split: Split, data: ActionData, is_grouped: bool = False) -> str:
    """One line for the console: the number of images in each part, and where they come from."""
    given = {"train", *(["val"] if data.val else []), *(["test"] if data.test_is_labelled else [])}
    counts = [
        f"{len(samples)} {part} ({data.sources[part] if part in given else 'held out of training images'})"
        for part, samples in list(vars(split).items())[:3]
    ]
    if split.left_out:
        parts = [name for part, name in (("val", "validation"), ("test", "test")) if part in given]
        mates = " or group mates" if is_grouped else ""
        counts.append(f"{len(split.left_out)} left out as duplicates{mates} of {' or '.join(parts)} images")
    smallest, count = min(class_counts(split.train).items(), key=lambda item: item[1])
    text = f"{', '.join(counts)}; smallest class in training: {shorten(smallest, 60)}, {count}"
    for part, samples in (("val", split.val), ("test", split.test)):
        absent = sorted(set(data.classes) - {sample.label for sample in samples})
        if absent:
            names = listed([shorten(name, 60) for name in absent])
            text += f"; no {part} images of {len(absent)} of {len(data.classes)} classes, of which its figures say "
            text += f"nothing: {names}"
    return text
