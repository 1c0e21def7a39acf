"""Calibration (temperature scaling, ECE), selective accuracy, confused class pairs, suspected label errors."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

BINS = 15  # of confidence, as in Guo et al. 2017
PRIOR = 0.25  # standard deviation of log T; wider: some networks lose by few images (benchmarks/calibration.py)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Fits T so that softmax(logits / T) has a small cross-entropy on held-out images, never above that of T = 1.

    Guo et al. 2017 (https://arxiv.org/abs/1706.04599), section 4.2; above 1 for an overconfident network. A normal
    prior on log T (maximum a posteriori) keeps T near 1 where few images speak for another value, and above 0 where
    every prediction is right.

    Args:
        logits: (N, K); targets: (N,).

    Returns: T, 0.05 to 20, rounded to 4 digits.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()

    def loss(temperature: float) -> float:
        return cross_entropy(logits / temperature, targets, reduction="sum").item()

    found = minimize_scalar(
        lambda power: loss(np.exp(power)) + (power / PRIOR) ** 2 / 2, bounds=(-3, 3), method="bounded"
    )
    return min(1.0, round(float(np.exp(found.x)), 4), key=loss)


def calibration_error(probabilities: Tensor, targets: Tensor) -> tuple[float, list[dict[str, float]]]:
    """Returns the expected calibration error (ECE, 0..1) and its bins of confidence.

    Guo et al. 2017, section 2: the mean over bins, weighted by their images, of |accuracy - mean confidence|.

    Args:
        probabilities: (N, K); targets: (N,).
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == targets).double()
    bin_of = (confidence * BINS).long().clamp(max=BINS - 1)
    rows = []
    for number in bin_of.unique().tolist():
        inside = bin_of == number
        rows.append({
            "from": number / BINS, "to": (number + 1) / BINS, "n": int(inside.sum()),
            "confidence": confidence[inside].mean().item(), "accuracy": right[inside].mean().item(),
        })  # fmt: skip
    error = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(targets)
    return error, rows


def accuracy_by_coverage(probabilities: Tensor, targets: Tensor) -> np.ndarray:
    """Accuracy and coverage when only predictions above a confidence threshold count.

    Returns: (M, 3), a row per threshold that changes something, highest first: the threshold, the share of images above
        it (El-Yaniv & Wiener 2010: coverage), and the accuracy on them.
    """
    confidence, predicted = probabilities.double().max(1)
    order = confidence.argsort(descending=True, stable=True)
    confidence, right = confidence[order].numpy(), (predicted == targets)[order].double().numpy()
    count = np.arange(1, len(right) + 1)
    last = np.append(confidence[1:] != confidence[:-1], True)  # equal confidences pass a threshold together
    return np.stack([confidence, count / len(right), right.cumsum() / count], axis=1)[last]


def confused_pairs(counts: np.ndarray, classes: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The pairs of classes that are confused most often, in either direction.

    Args:
        counts: (K, K), row = true class, column = predicted class.

    Returns: for each pair both `classes`, how many images of the first were predicted as the second and vice versa
        (`n`), and how many images both have (`of`); without pairs that were never confused.
    """
    both = np.triu(counts + counts.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")[:most]
    pairs = [divmod(int(index), len(classes)) for index in order if both.flat[index]]
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
    """Positions of images that are probably mislabelled, the most suspicious first, by confident learning.

    Northcutt et al. 2021 (https://arxiv.org/abs/1911.00068), by the library cleanlab.

    Args:
        probabilities: (N, K), of images that the network was not trained on; targets: (N,).
    """
    from cleanlab.filter import find_label_issues

    present = targets.unique()  # cleanlab requires every class to occur
    if len(present) < 2:
        return []
    values = probabilities.double()[:, present]
    values = (values / values.sum(1, keepdim=True)).numpy()
    labels = torch.searchsorted(present, targets).numpy()
    with warnings.catch_warnings(action="ignore"):
        return find_label_issues(labels, values, return_indices_ranked_by="self_confidence", n_jobs=1).tolist()
