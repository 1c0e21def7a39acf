"""Pure functions from logits and targets to numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix as count_pairs
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

TOP = 5


def by_class(logits: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
    """Precision, recall, F1 and pictures of each class, (K,) each; a class that is never predicted has precision 0."""
    predicted, labels = logits.argmax(1).numpy(), range(logits.shape[1])
    return precision_recall_fscore_support(targets.numpy(), predicted, labels=labels, zero_division=0)


def means(columns: tuple[np.ndarray, ...], weights: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 over the classes."""
    return {
        name: float(np.average(column, weights=weights))
        for name, column in zip(("precision", "recall", "f1"), columns[:3], strict=True)
    }


def summarise(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean cross-entropy (nats), accuracy and weighted precision, recall, F1 (0..1) of logits (N, K), targets (N,)."""
    return summary(logits, targets, by_class(logits, targets))


def summary(logits: Tensor, targets: Tensor, columns: tuple[np.ndarray, ...]) -> dict[str, float]:
    return {
        "loss": torch.nn.functional.cross_entropy(logits.float(), targets).item(),
        "accuracy": (logits.argmax(1) == targets).float().mean().item(),
        **means(columns, columns[3]),
    }


def report(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """What a test says: `summarise`, plain means over the classes that occur, top-5 accuracy, a row per class."""
    best = logits.topk(min(TOP, len(classes)), dim=1).indices  # (N, ≤5)
    columns = by_class(logits, targets)
    return {
        "n": len(targets),
        **summary(logits, targets, columns),
        **{f"macro_{key}": value for key, value in means(columns, columns[3] > 0).items()},
        "top5_accuracy": (best == targets[:, None]).any(1).float().mean().item(),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for name, p, r, f, n in zip(classes, *columns, strict=True)
        },
    }


def confusion_matrix(logits: Tensor, targets: Tensor, num_classes: int) -> np.ndarray:
    """Counts (K, K): row = true class, column = predicted class."""
    return count_pairs(targets.numpy(), logits.argmax(1).numpy(), labels=range(num_classes))
