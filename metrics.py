"""Pure functions from logits and targets to numbers."""

import numpy as np
import torch
from sklearn.metrics import confusion_matrix as count_pairs
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

TOP = 5


def averages(targets: Tensor, predicted: Tensor, how: str) -> dict[str, float]:
    """Precision, recall and F1 over the classes that occur, "weighted" by their pictures or "macro".

    A class that is never predicted has precision 0.
    """
    labels = np.unique(targets.numpy())
    scores = precision_recall_fscore_support(
        targets.numpy(), predicted.numpy(), labels=labels, average=how, zero_division=0
    )
    return dict(zip(("precision", "recall", "f1"), map(float, scores[:3]), strict=True))


def summarise(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean cross-entropy (nats), accuracy and weighted precision, recall, F1 (0..1) of logits (N, K), targets (N,)."""
    predicted = logits.argmax(1)
    return {
        "loss": torch.nn.functional.cross_entropy(logits.float(), targets).item(),
        "accuracy": (predicted == targets).float().mean().item(),
        **averages(targets, predicted, "weighted"),
    }


def report(logits: Tensor, targets: Tensor, classes: list[str]) -> dict:
    """Everything that the test prints: `summarise`, macro averages, top-5 accuracy and a row per class."""
    predicted = logits.argmax(1)
    best = logits.topk(min(TOP, len(classes)), dim=1).indices  # (N, ≤5)
    macro = averages(targets, predicted, "macro")
    columns = precision_recall_fscore_support(
        targets.numpy(), predicted.numpy(), labels=range(len(classes)), zero_division=0
    )
    per_class = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
        for name, p, r, f, n in zip(classes, *columns, strict=True)
    }
    return {
        "n": len(targets),
        **summarise(logits, targets),
        **{f"macro_{key}": value for key, value in macro.items()},
        "top5_accuracy": (best == targets[:, None]).any(1).float().mean().item(),
        "per_class": per_class,
    }


def confusion_matrix(logits: Tensor, targets: Tensor, num_classes: int) -> np.ndarray:
    """Counts (K, K): row = true class, column = predicted class."""
    return count_pairs(targets.numpy(), logits.argmax(1).numpy(), labels=range(num_classes))
