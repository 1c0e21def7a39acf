"""Metrics against numbers worked out by hand."""

import math

import pytest
import torch

from evaluation.metrics import confusion_matrix, report, summarise

# true: a a a b c; predicted: a a b b a
LOGITS = torch.log(torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4]]))
TARGETS = torch.tensor([0, 0, 0, 1, 2])


def test_summary() -> None:
    values = summarise(LOGITS, TARGETS)
    assert values["loss"] == pytest.approx(-sum(map(math.log, (0.6, 0.5, 0.2, 0.8, 0.4))) / 5, rel=1e-5)
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["precision"] == pytest.approx((3 * 2 / 3 + 1 / 2 + 0) / 5)
    assert values["recall"] == pytest.approx((3 * 2 / 3 + 1 + 0) / 5)
    assert values["f1"] == pytest.approx((3 * 2 / 3 + 2 / 3 + 0) / 5)


def test_report() -> None:
    values = report(LOGITS, TARGETS, ["a", "b", "c"])
    assert values["n"] == 5
    assert values["macro_precision"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert values["macro_recall"] == pytest.approx((2 / 3 + 1) / 3)
    assert values["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 3)
    assert values["top5_accuracy"] == 1.0
    assert values["per_class"]["a"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "n": 3})
    assert values["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 1}


def test_top5_of_many_classes() -> None:
    logits = torch.arange(20.0).repeat(4, 1)  # the best five are 15 … 19
    assert report(logits, torch.tensor([15, 19, 14, 0]), [str(n) for n in range(20)])["top5_accuracy"] == 0.5


def test_confusion_rows_are_true_classes() -> None:
    assert confusion_matrix(LOGITS, TARGETS, 3).tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
