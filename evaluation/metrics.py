"""Classification metrics of logits (N, K) against targets (N,).

All of them follow from sums over images, so that a bootstrap resamples sums instead of images (`evaluation.bootstrap`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

TOP = 5
UNEVEN = 2  # largest by smallest class, from which macro averages come first


def image_terms(logits: Tensor, targets: Tensor) -> np.ndarray:
    """What each image adds to the sums that `report_of` takes: (N, 3K + 2).

    Returns: K columns each that are 1 for the class where it was rightly predicted, predicted, and true; whether the
        true class is among the five most probable; the cross-entropy (nats).
    """
    classes = logits.shape[1]
    predicted, true = one_hot(logits.argmax(1), classes), one_hot(targets, classes)
    best = logits.topk(min(TOP, classes), dim=1).indices  # (N, ≤5)
    top = (best == targets[:, None]).any(1, keepdim=True)
    losses = cross_entropy(logits.double(), targets, reduction="none")[:, None]
    return np.concatenate([part.double().numpy() for part in (predicted * true, predicted, true, top, losses)], axis=1)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where both are."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def report_of(sums: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """The metrics of `report` from sums of `image_terms` (…, 3K + 2), each of shape (…)."""
    right, predicted, true = np.split(sums[..., :-2], 3, axis=-1)  # (…, K) each
    count = true.sum(-1)
    columns = {
        "precision": ratio(right, predicted),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, predicted + true),
        "n": true,
    }
    averages = list(columns)[:3]
    return {
        "n": count,
        "loss": sums[..., -1] / count,
        "accuracy": right.sum(-1) / count,
        **{name: np.average(columns[name], axis=-1, weights=true) for name in averages},
        **{f"macro_{name}": np.average(columns[name], axis=-1, weights=true > 0) for name in averages},
        "top5_accuracy": sums[..., -2] / count,
        "per_class": {
            name: {key: column[..., index] for key, column in columns.items()} for index, name in enumerate(classes)
        },
    }


def report(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """`summarise`, macro averages over the classes that occur, top-5 accuracy, and a row per class.

    Precision, recall and F1 are 0 where they are undefined.
    """

    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {key: int(value) if key == "n" else float(value) for key, value in values.items()}

    values = report_of(image_terms(logits, targets).sum(0), classes)
    rows = values.pop("per_class")
    return plain(values) | {"per_class": {name: plain(row) for name, row in rows.items()}}


def summarise(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean cross-entropy (nats), accuracy, precision, recall and F1 weighted by class size, and macro F1 (0..1)."""
    values = report(logits, targets, range(logits.shape[1]))
    return {key: values[key] for key in ("loss", "accuracy", "precision", "recall", "f1", "macro_f1")}


def is_uneven(counts: Iterable[int]) -> bool:
    """Whether classes of so many images differ so much that the largest ones decide accuracy and weighted averages."""
    present = [count for count in counts if count]
    return max(present) >= UNEVEN * min(present)


def headline(values: dict[str, Any], uneven: bool) -> str:
    """The metrics that stand for a result: accuracy, and before it macro F1 where classes are uneven."""
    macro = f"macro F1 {values['macro_f1']:.4f}, " if uneven and "macro_f1" in values else ""  # older runs have none
    return f"{macro}accuracy {values['accuracy']:.4f}"


def confusion_matrix(logits: Tensor, targets: Tensor, num_classes: int) -> np.ndarray:
    """Counts (K, K): row = true class, column = predicted class."""
    cells = (targets * num_classes + logits.argmax(1)).numpy()
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
