"""Bootstrap confidence intervals of the metrics of a test."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from evaluation.metrics import report

RESAMPLES = 1000
LEVEL = 0.95


def bootstrap_intervals(logits: Tensor, targets: Tensor, classes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """95 % intervals of `metrics.report`: its keys, each with the low and the high end.

    Percentiles over 1,000 resamples of the test images (Efron & Tibshirani 1993, chapter 13). They cover the choice of
    test images, not that of the training. A class counts in the resamples that contain it; its ends are None where the
    test set does not.
    """
    from sklearn import config_context

    drawn = np.random.default_rng(seed).integers(len(targets), size=(RESAMPLES, len(targets)))
    with config_context(skip_parameter_validation=True, assume_finite=True):  # these would take most of the time
        values = [leaves_of(report(logits[rows], targets[rows], classes)) for rows in drawn]
    with warnings.catch_warnings(action="ignore"):  # about columns without a number
        ends = np.nanpercentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)), axis=0).T
    pairs = ([None, None] if np.isnan(pair).any() else pair.tolist() for pair in ends)
    return with_leaves(report(logits, targets, classes), pairs)


def leaves_of(report: dict[str, Any]) -> list[float]:
    """The numbers of a report in order; NaN for those of a class without images."""
    return [
        leaf
        for value in report.values()
        for leaf in (leaves_of(value) if isinstance(value, dict) else [value if report["n"] else np.nan])
    ]


def with_leaves(report: dict[str, Any], leaves: Iterator[Any]) -> dict[str, Any]:
    """A dictionary with the report's keys and other leaves."""
    return {
        key: with_leaves(value, leaves) if isinstance(value, dict) else next(leaves) for key, value in report.items()
    }
