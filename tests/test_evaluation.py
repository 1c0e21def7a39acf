"""Metrics, calibration and bootstrap intervals against values by hand; figures of long class names."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs
from pages import check_page, not_blank
from sklearn import metrics as sklearn_metrics
from torch.nn.functional import cross_entropy

from evaluation import bootstrap
from evaluation.bootstrap import bootstrap_intervals
from evaluation.calibration import (
    accuracy_by_coverage,
    calibration_error,
    confused_pairs,
    fit_temperature,
    suspected_label_errors,
)
from evaluation.metrics import confusion_matrix, report, summarise
from evaluation.report import without_duplicates
from figures import calibration as calibration_figures
from figures import curves
from figures.page import Page

# true: a a a b c; predicted: a a b b a
LOGITS = torch.log(torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4]]))
TARGETS = torch.tensor([0, 0, 0, 1, 2])


def test_summary_equals_the_values_by_hand() -> None:
    values = summarise(LOGITS, TARGETS)
    assert values["loss"] == pytest.approx(-sum(map(math.log, (0.6, 0.5, 0.2, 0.8, 0.4))) / 5, rel=1e-5)
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["precision"] == pytest.approx((3 * 2 / 3 + 1 / 2 + 0) / 5)
    assert values["recall"] == pytest.approx((3 * 2 / 3 + 1 + 0) / 5)
    assert values["f1"] == pytest.approx((3 * 2 / 3 + 2 / 3 + 0) / 5)


def test_report_has_macro_averages_and_rows_per_class() -> None:
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


def random_predictions(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are often right, and targets that lack the last class."""
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, classes, generator=rng)
    return logits, logits[:, :-1].softmax(1).multinomial(1, generator=rng)[:, 0]


def by_scikit_learn(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float | list[float]]:
    """The numbers of a report as scikit-learn computes them, lists by class."""
    predicted, labels = logits.argmax(1), range(logits.shape[1])
    rows = sklearn_metrics.precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=0)
    values = {"accuracy": sklearn_metrics.accuracy_score(targets, predicted)}
    values["loss"] = sklearn_metrics.log_loss(targets, logits.double().softmax(1), labels=labels)
    values["top5_accuracy"] = sklearn_metrics.top_k_accuracy_score(targets, logits, k=5, labels=labels)
    present = targets.unique().tolist()
    for average, prefix, chosen in (("weighted", "", labels), ("macro", "macro_", present)):
        options = {"average": average, "labels": chosen, "zero_division": 0}
        found = sklearn_metrics.precision_recall_fscore_support(targets, predicted, **options)
        values |= {f"{prefix}{key}": value for key, value in zip(("precision", "recall", "f1"), found, strict=False)}
    return values | dict(zip(("class precision", "class recall", "class f1", "class n"), rows, strict=True))


def test_report_equals_scikit_learns_numbers() -> None:
    logits, targets = random_predictions(60, 9)
    expected, values = by_scikit_learn(logits, targets), report(logits, targets, list("abcdefghi"))
    for key, value in expected.items():
        found = values[key] if key in values else [row[key.split()[1]] for row in values["per_class"].values()]
        assert found == pytest.approx(value, abs=1e-9), key
    assert summarise(logits, targets).items() <= values.items()
    counts = sklearn_metrics.confusion_matrix(targets, logits.argmax(1), labels=range(9))
    assert confusion_matrix(logits, targets, 9).tolist() == counts.tolist()


def test_bootstrap_intervals_equal_those_of_scikit_learns_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
    logits, targets = random_predictions(30, 9)
    drawn = np.random.default_rng(0).integers(30, size=(40, 30))
    resamples = [by_scikit_learn(logits[rows], targets[rows]) for rows in drawn]
    found = bootstrap_intervals(logits, targets, list("abcdefghi"))
    for key in resamples[0]:
        values = np.array([resample[key] for resample in resamples], float)  # (40,) or (40, 9)
        if key in found:
            assert found[key] == pytest.approx(np.percentile(values, (2.5, 97.5)), abs=1e-9), key
            continue
        values[np.array([resample["class n"] for resample in resamples]) == 0] = np.nan
        for name, column in zip("abcdefgh", values.T, strict=False):
            ends = found["per_class"][name][key.split()[1]]
            assert ends == pytest.approx(np.nanpercentile(column, (2.5, 97.5)), abs=1e-9), (name, key)
    assert set(map(tuple, found["per_class"]["i"].values())) == {(None, None)}


def test_confusion_rows_are_true_classes() -> None:
    assert confusion_matrix(LOGITS, TARGETS, 3).tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]


def sure(confidences: list[float], classes: int = 3) -> torch.Tensor:
    """Probabilities (N, K) whose largest is that of class 0."""
    rest = (1 - torch.tensor(confidences)) / (classes - 1)
    return torch.cat([torch.tensor(confidences)[:, None], rest[:, None].expand(-1, classes - 1)], dim=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_undoes_the_scaling_of_logits(factor: float) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20000, 5, generator=rng)
    targets = logits.softmax(1).multinomial(1, generator=rng)[:, 0]
    assert fit_temperature(factor * logits, targets) == pytest.approx(factor, rel=0.04)


def test_calibration_error_by_hand() -> None:
    error, bins = calibration_error(sure([0.9, 0.9, 0.62, 0.62, 1.0]), torch.tensor([0, 1, 0, 0, 0]))
    assert error == pytest.approx((2 * abs(0.5 - 0.9) + 2 * abs(1 - 0.62)) / 5, abs=1e-6)
    assert [row["n"] for row in bins] == [2, 2, 1]
    assert [(row["from"], row["to"]) for row in bins] == [(9 / 15, 10 / 15), (13 / 15, 14 / 15), (14 / 15, 1)]
    assert [row["accuracy"] for row in bins] == [1, 0.5, 1]
    assert calibration_error(sure([1.0]), torch.tensor([1]))[0] == 1


def test_coverage_by_hand() -> None:
    curve = accuracy_by_coverage(sure([0.9, 0.5, 0.8, 0.5]), torch.tensor([0, 1, 1, 0]))
    assert curve == pytest.approx(np.array([[0.9, 0.25, 1.0], [0.8, 0.5, 0.5], [0.5, 1.0, 0.5]]))


def test_confused_pairs_count_both_ways() -> None:
    counts = np.array([[5, 3, 0], [2, 7, 1], [0, 0, 9]])
    assert confused_pairs(counts, "abc", most=5) == [
        {"classes": ["a", "b"], "n": [3, 2], "of": 18},
        {"classes": ["b", "c"], "n": [1, 0], "of": 19},
    ]
    assert len(confused_pairs(counts, "abc", most=1)) == 1


def test_bootstrap_interval_of_accuracy_is_that_of_a_proportion() -> None:
    """800 of 1,000 right: the normal approximation gives 0.8 ± 1.96 · sqrt(0.8 · 0.2 / 1000)."""
    logits = torch.zeros(1000, 2)
    logits[:, 0] = 1
    targets = (torch.arange(1000) % 5 == 0).long()
    found = bootstrap_intervals(logits, targets, ["a", "b"])
    half = 1.96 * math.sqrt(0.8 * 0.2 / 1000)
    assert found["accuracy"] == pytest.approx([0.8 - half, 0.8 + half], abs=0.003)
    assert found["per_class"]["b"]["recall"] == pytest.approx([0, 0])
    values = report(logits, targets, ["a", "b"])
    assert found.keys() == values.keys()
    assert found["f1"][0] < values["f1"] < found["f1"][1]
    assert found["loss"][0] < values["loss"] < found["loss"][1]


def test_bootstrap_intervals_of_small_test_sets() -> None:
    logits, targets = torch.eye(3)[[0, 1, 1, 1, 1, 1]], torch.tensor([0, 1, 1, 1, 1, 1])
    found = bootstrap_intervals(logits, targets, ["once", "often", "never"])
    assert found["per_class"]["once"]["recall"] == [1, 1]  # and not 0 where it was not drawn
    assert found["per_class"]["never"]["recall"] == [None, None]
    assert bootstrap_intervals(logits[:1], targets[:1], ["once", "often", "never"])["accuracy"] == [1, 1]


@pytest.mark.parametrize(("count", "margin"), [(9, 2.0), (2000, 2.0), (9, -2.0), (500, -1.0)])
def test_temperature_of_equal_margins_is_where_loss_and_prior_balance(count: int, margin: float) -> None:
    """All right or all wrong: cross-entropy alone would send T to 0 or to infinity."""
    logits, targets = torch.tensor([[margin, 0.0]]).repeat(count, 1), torch.zeros(count, dtype=torch.long)
    power = math.log(fit_temperature(logits, targets))
    scaled = margin * math.exp(-power)
    slope = count * scaled / (1 + math.exp(scaled))  # of the summed cross-entropy, by log T
    assert power / 0.25**2 == pytest.approx(-slope, rel=0.01)
    assert -3 < power < 3
    assert (power < 0) == (margin > 0)


@pytest.mark.parametrize("count", [1, 5, 20, 200])
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_temperature_never_raises_the_loss_it_is_fitted_on(count: int, scale: float) -> None:
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        logits = torch.randn(count, 4, generator=rng, dtype=torch.double)
        targets = logits.softmax(1).multinomial(1, generator=rng)[:, 0]
        fitted = cross_entropy(scale * logits / fit_temperature(scale * logits, targets), targets)
        assert fitted <= cross_entropy(scale * logits, targets)


def test_flipped_labels_are_suspected() -> None:
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(rng.integers(0, 4, 300))
    logits = torch.nn.functional.one_hot(targets, 5) * 4.0 + torch.from_numpy(rng.normal(0, 0.5, (300, 5)))
    targets[[7, 50, 123]] = (targets[[7, 50, 123]] + 1) % 4
    assert sorted(suspected_label_errors(logits.softmax(1), targets)) == [7, 50, 123]  # of class 4 there is no image
    assert suspected_label_errors(logits.softmax(1), torch.zeros(300, dtype=torch.long)) == []


def test_copies_of_a_photograph_count_once(tmp_path: Path) -> None:
    for name, seed, quality in (("a", 1, 95), ("b", 2, 95), ("copy of a", 1, 60), ("c", 3, 95)):
        blobs(seed, (200, 160)).save(tmp_path / f"{name}.jpg", quality=quality)
    rows = [{"path": tmp_path / f"{name}.jpg"} for name in ("b", "a", "copy of a", "c")]
    assert [row["path"].stem for row in without_duplicates(rows)] == ["b", "a", "c"]
    assert without_duplicates([]) == []


@pytest.mark.parametrize(
    ("counts", "titles"),
    [
        ([[9, 1], [2, 8]], ["counts of 10 images of each class"]),
        ([[10, 1], [2, 8]], ["counts of 10 to 11 images of each class"]),
        ([[18, 2], [2, 8]], ["counts of 10 to 20 images of each class", "row-normalised (recall)"]),
    ],
)
def test_balanced_classes_need_one_confusion_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: list[list[int]], titles: list[str]
) -> None:
    drawn = []
    monkeypatch.setattr(curves, "save", lambda figure, path: drawn.extend(figure.axes))
    curves.confusion(np.array(counts), ("run", "sit"), "a_run", tmp_path / "matrix.png")
    assert [axes.get_title() for axes in drawn if axes.get_title()] == titles


@pytest.mark.parametrize("count", [2, 40])
def test_figures_have_room_for_long_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    classes = [f"playing_a_very_large_$instrument${n}_with_friends_in_a_park" for n in range(count)]
    rows = []
    for n, size in enumerate([(400, 90), (90, 400), (200, 200), (30, 20), (300, 200), (200, 300)]):
        blobs(n, size).save(tmp_path / f"{n}.jpg")
        top = [(classes[place % count], 0.9 / (place + 1)) for place in range(n, n + min(5, count))]
        row = {"index": 70 + n, "path": tmp_path / f"{n}.jpg", "true": classes[-1 - n % 2], "predicted": top[0][0]}
        rows.append(row | {"probability": 0.9, "top": top})
    pair = {"classes": classes[:2], "n": [3, 3], "of": 50}
    save, shown = Page.save, {}

    def checked(page: Page, path: Path) -> None:
        shown[path.stem] = [text.get_text() for text in page.axes.texts]
        save(page, path)
        check_page(page, path)

    monkeypatch.setattr(Page, "save", checked)
    with warnings.catch_warnings(action="error"):  # matplotlib warns where a layout has no room
        curves.predictions(rows, "Sample predictions", "a_run", tmp_path / "predictions.png")
        calibration_figures.confused_pairs([pair, pair, pair], [rows, rows[:2], []], "a_run", tmp_path / "confused.png")
        curves.confusion(np.eye(count, dtype=int), classes, "a_run", tmp_path / "matrix.png")
    names = [f"test image {70 + n}" for n in range(6)]
    for page, expected in (("predictions", names), ("confused", names + names[:2])):
        assert [text for text in shown[page] if text.startswith("test image")] == expected
    for name in ("predictions", "confused", "matrix"):
        not_blank(tmp_path / f"{name}.png")
