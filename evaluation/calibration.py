"""How far a network's answers can be trusted: pure functions on logits, probabilities and labels."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn import config_context
from torch import Tensor
from torch.nn.functional import cross_entropy

from evaluation.metrics import report

BINS = 15  # of confidence, as in Guo et al.
RESAMPLES = 1000
LEVEL = 0.95


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The T for which softmax(logits / T) has the smallest cross-entropy on held-out pictures.

    Guo et al. 2017 (https://arxiv.org/abs/1706.04599), section 4.2. Above 1 where the network is too sure of itself.
    Labels are smoothed as in Platt 1999: else, where every picture is right, T would go to 0.

    Args:
        logits: (N, K); targets: (N,).
    """
    logits = logits.double()
    found = minimize_scalar(
        lambda power: cross_entropy(logits / np.exp(power), targets, label_smoothing=1 / (len(targets) + 2)).item(),
        bounds=(-4, 4),
        method="bounded",
    )
    return float(np.exp(found.x))


def calibration(probabilities: Tensor, targets: Tensor) -> tuple[float, list[dict[str, float]]]:
    """The expected calibration error (0..1), and the bins of confidence that it is the mean over.

    Guo et al. 2017, section 2: by how much a bin's accuracy differs from its mean confidence, weighted by its pictures.

    Args:
        probabilities: (N, K); targets: (N,).
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == targets).double()
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    rows = []
    for number in place.unique().tolist():
        inside = place == number
        rows.append({
            "from": number / BINS, "to": (number + 1) / BINS, "n": int(inside.sum()),
            "confidence": confidence[inside].mean().item(), "accuracy": right[inside].mean().item(),
        })  # fmt: skip
    error = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(targets)
    return error, rows


def coverage(probabilities: Tensor, targets: Tensor) -> np.ndarray:
    """What is gained by answering only above a threshold of confidence.

    Returns: (M, 3), a row for each threshold that makes a difference, highest first: the threshold, the share of the
    pictures that get an answer (El-Yaniv & Wiener 2010: coverage), and the accuracy of these answers.
    """
    confidence, predicted = probabilities.double().max(1)
    order = confidence.argsort(descending=True, stable=True)
    confidence, right = confidence[order].numpy(), (predicted == targets)[order].double().numpy()
    count = np.arange(1, len(right) + 1)
    last = np.append(confidence[1:] != confidence[:-1], True)  # of equal ones, none gets an answer without the others
    return np.stack([confidence, count / len(right), right.cumsum() / count], axis=1)[last]


def confused_pairs(counts: np.ndarray, classes: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The pairs of classes that are taken for each other most often.

    Args:
        counts: (K, K), row = true class, column = predicted class.

    Returns: for each pair both `classes`, how many pictures of the first were taken for the second and the other way
    (`n`), and how many pictures both have (`of`); without the pairs that were never confused.
    """
    both = np.triu(counts + counts.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(classes)) for place in order if both.flat[place]]
    totals = counts.sum(1)
    return [
        {
            "classes": [classes[a], classes[b]],
            "n": [int(counts[a, b]), int(counts[b, a])],
            "of": int(totals[a] + totals[b]),
        }
        for a, b in pairs
    ]


def suspected_label_errors(probabilities: Tensor, targets: Tensor) -> list[int]:
    """Positions of pictures that are likely labelled wrongly, the worst first, by confident learning.

    Northcutt et al. 2021 (https://arxiv.org/abs/1911.00068), as the library cleanlab has it.

    Args:
        probabilities: (N, K), of pictures that the network was not trained on; targets: (N,).
    """
    from cleanlab.filter import find_label_issues

    present = targets.unique()  # cleanlab wants each class to occur
    if len(present) < 2:
        return []
    values = probabilities.double()[:, present]
    values = (values / values.sum(1, keepdim=True)).numpy()
    labels = torch.searchsorted(present, targets).numpy()
    with warnings.catch_warnings(action="ignore"):
        return find_label_issues(labels, values, return_indices_ranked_by="self_confidence", n_jobs=1).tolist()


def intervals(logits: Tensor, targets: Tensor, classes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Bootstrap intervals of `metrics.report`: its keys, each with the low and the high end of a 95 % interval.

    Pictures are drawn with replacement; percentiles of 1,000 such sets (Efron & Tibshirani 1993, chapter 13). They say
    what other test pictures would change, not what another training would. A class counts where it was drawn; None
    for one that the test set does not have.
    """
    drawn = np.random.default_rng(seed).integers(len(targets), size=(RESAMPLES, len(targets)))
    with config_context(skip_parameter_validation=True, assume_finite=True):  # else most of the time goes there
        values = [numbers(report(logits[rows], targets[rows], classes)) for rows in drawn]
    with warnings.catch_warnings(action="ignore"):  # of a column without a number
        ends = np.nanpercentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)), axis=0).T
    leaves = ([None, None] if np.isnan(pair).any() else pair.tolist() for pair in ends)
    return shaped(report(logits, targets, classes), leaves)


def numbers(tree: dict[str, Any]) -> list[float]:
    """The leaves of a report, in order; for a class without pictures, no numbers."""
    return [
        leaf
        for value in tree.values()
        for leaf in (numbers(value) if isinstance(value, dict) else [value if tree["n"] else np.nan])
    ]


def shaped(tree: dict[str, Any], leaves: Any) -> dict[str, Any]:
    """A dictionary of the same keys with other leaves."""
    return {key: shaped(value, leaves) if isinstance(value, dict) else next(leaves) for key, value in tree.items()}
