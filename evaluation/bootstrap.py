"""Bootstrap confidence intervals of the metrics of a test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from evaluation.metrics import image_terms, report_of

RESAMPLES = 1000
LEVEL = 0.95


def bootstrap_intervals(
    logits: Tensor, targets: Tensor, classes: Sequence[str], groups: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """95 % intervals of `metrics.report`: its keys, each with the low and the high end.

    Percentiles over 1,000 resamples of the test images (Efron & Tibshirani 1993, chapter 13). They cover the choice of
    test images, not that of the training. A class counts in the resamples that contain it; its ends are None where the
    test set does not.

    Args:
        groups: (N,) number of each image's group. Images of a group resemble each other, so that whole groups are drawn
            (the cluster bootstrap; Field & Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x).
    """
    numbers = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(numbers.max()) + 1
    drawn = np.random.default_rng(seed).integers(units, size=(RESAMPLES, units))
    times = np.stack([np.bincount(rows, minlength=units)[numbers] for rows in drawn])  # how often each image was drawn
    values = report_of(times.astype(float) @ image_terms(logits, targets), classes)
    rows = values.pop("per_class")
    return ends(values) | {"per_class": {name: ends(row) for name, row in rows.items()}}


def ends(values: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Low and high end of each metric over those of the resamples that have images of its class, `n`."""
    counted = values["n"] > 0
    if not counted.any():
        return {key: [None, None] for key in values}
    levels = 50 * (1 - LEVEL), 50 * (1 + LEVEL)
    return {key: np.percentile(value[counted], levels).tolist() for key, value in values.items()}
