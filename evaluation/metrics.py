"""Classification metrics of logits (N, K) against targets (N,)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

TOP = 5


def per_class_columns(logits: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
    """Precision, recall, F1 and number of images of each class, (K,) each (0 where undefined)."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted, labels = logits.argmax(1).numpy(), range(logits.shape[1])
    return precision_recall_fscore_support(targets.numpy(), predicted, labels=labels, zero_division=0)


def averages(columns: tuple[np.ndarray, ...], weights: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 averaged over classes with `weights` (K,)."""
    return {
        name: float(np.average(column, weights=weights))
        for name, column in zip(("precision", "recall", "f1"), columns[:3], strict=True)
    }


def summarise(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean cross-entropy (nats), accuracy, and precision, recall and F1 weighted by class size (0..1)."""
    return summary(logits, targets, per_class_columns(logits, targets))


def summary(logits: Tensor, targets: Tensor, columns: tuple[np.ndarray, ...]) -> dict[str, float]:
    return {
        "loss": torch.nn.functional.cross_entropy(logits.float(), targets).item(),
        "accuracy": (logits.argmax(1) == targets).float().mean().item(),
        **averages(columns, columns[3]),
    }


def report(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """`summarise`, macro averages over the classes that occur, top-5 accuracy, and a row per class."""
    best = logits.topk(min(TOP, len(classes)), dim=1).indices  # (N, ≤5)
    columns = per_class_columns(logits, targets)
    return {
        "n": len(targets),
        **summary(logits, targets, columns),
        **{f"macro_{key}": value for key, value in averages(columns, columns[3] > 0).items()},
        "top5_accuracy": (best == targets[:, None]).any(1).float().mean().item(),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for name, p, r, f, n in zip(classes, *columns, strict=True)
        },
    }


def confusion_matrix(logits: Tensor, targets: Tensor, num_classes: int) -> np.ndarray:
    """Counts (K, K): row = true class, column = predicted class."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(targets.numpy(), logits.argmax(1).numpy(), labels=range(num_classes))
