"""Predictions of images as rows of a table."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dataset import Sample
from evaluation.metrics import TOP
from runtime.text import shorten

NAME = 40  # characters of a class in a line of the console


def prediction_rows(
    samples: Sequence[Sample], probabilities: Tensor, classes: Sequence[str], top_k: int = TOP
) -> list[dict[str, Any]]:
    """For each image its name, true and predicted class, probability and the `top_k` most probable classes.

    Args:
        probabilities: (N, K), a row per sample.
    """
    indices = probabilities.argsort(dim=1, descending=True, stable=True)[:, :top_k]  # of equal ones, the first
    values = probabilities.gather(1, indices)
    rows = []
    for sample, shares, order in zip(samples, values.tolist(), indices.tolist(), strict=True):
        top = [(classes[index], round(value, 6)) for index, value in zip(order, shares, strict=True)]
        rows.append({
            "filename": sample.name, "path": sample.path, "true": sample.label,
            "predicted": top[0][0], "probability": top[0][1], "top": top,
        })  # fmt: skip
    return rows


def class_lines(per_class: dict[str, dict[str, float]]) -> list[str]:
    """The metrics of each class that has images as lines of a table, with a header."""
    width = max(5, *(len(short_name(name)) for name in per_class))
    form = "  {:{width}s}  {precision:9.3f}  {recall:6.3f}  {f1:6.3f}  {n:4d}"
    rows = [form.format(short_name(name), width=width, **row) for name, row in per_class.items() if row["n"]]
    return [f"  {'class':{width}s}  precision  recall      F1     n", *rows]


def short_name(name: str) -> str:
    """A class in a line of the console."""
    return shorten(name, NAME)
