"""compare.py: McNemar's test, paired bootstrap, and the page of a comparison."""

import shutil
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_csv, read_json, write_rows
from pages_html import Page

import compare
from evaluation.paired import bootstrap_difference, compare_paired, mcnemar
from reports.comparison import read_tested, write_comparison
from runtime.errors import InputError
from training import checkpoint


def binomial_tail(smaller: int, total: int) -> float:
    return min(1.0, 2 * sum(comb(total, k) for k in range(smaller + 1)) / 2**total)


@pytest.mark.parametrize(("first", "second"), [(5, 15), (121, 59), (10, 10), (0, 1), (0, 6)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(first: int, second: int) -> None:
    wanted = binomial_tail(min(first, second), first + second)
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(wanted)


def test_mcnemar_of_known_tables() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 64)
    assert mcnemar(5, 15) == pytest.approx(0.04138947, rel=1e-6)


def test_paired_bootstrap_resamples_images() -> None:
    first = np.repeat([True, True, False, False], [50, 20, 8, 22])
    second = np.repeat([True, False, True, False], [50, 20, 8, 22])
    found = compare_paired(first, second)
    assert {key: found[key] for key in ("n", "both", "only_first", "only_second", "neither")} == {
        "n": 100, "both": 50, "only_first": 20, "only_second": 8, "neither": 22,
    }  # fmt: skip
    assert found["difference"] == pytest.approx(-0.12)
    assert found["p_value"] == pytest.approx(binomial_tail(8, 28))
    generator = np.random.default_rng(1)
    drawn = generator.integers(100, size=(20_000, 100))
    wanted = np.percentile((second[drawn].mean(1) - first[drawn].mean(1)), (2.5, 97.5))
    assert found["interval"] == pytest.approx(wanted, abs=0.0101)  # the values are hundredths
    spread = np.sqrt((0.28 - 0.12**2) / 100)
    assert np.diff(found["interval"])[0] == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert bootstrap_difference(0, 0, 50) == [0, 0]


@pytest.fixture(scope="module")
def results(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: a, and b with other predictions and another learning rate."""
    folder = tmp_path_factory.mktemp("compared")
    for name in ("a", "b"):
        shutil.copytree(
            trained / "results/a", folder / name, ignore=shutil.ignore_patterns("*.pt", "snapshots", "test_tta")
        )
        content = torch.load(trained / "results/a/best.pt", weights_only=True) | {"model": {}}
        content["record"]["arguments"]["lr"] = 0.001 if name == "a" else 0.003
        torch.save(content, folder / name / "best.pt")
    table = folder / "b/test/test_predictions.csv"
    rows = read_csv(table)
    for row in rows[::3]:
        row["predicted"] = row["true"]
    write_rows(table, [tuple(rows[0]), *(tuple(row.values()) for row in rows)])
    return folder


def test_comparison_counts_what_each_run_gets_right(
    results: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    compare.main(compare.Args(runs=("a", "b"), results=results))
    folder = results / "comparison_a_b"
    right = {
        run: [row["true"] == row["predicted"] for row in read_csv(results / run / "test/test_predictions.csv")]
        for run in ("a", "b")
    }
    only_a = sum(a and not b for a, b in zip(*right.values(), strict=True))
    only_b = sum(b and not a for a, b in zip(*right.values(), strict=True))
    values = read_json(folder / "comparison.json")
    pair = values["pairs"]["b"]
    assert (pair["only_first"], pair["only_second"]) == (only_a, only_b)
    assert pair["difference"] == pytest.approx((only_b - only_a) / 90)
    assert pair["p_value"] == pytest.approx(binomial_tail(min(only_a, only_b), only_a + only_b))
    assert values["settings"] == {"--lr": ["0.001", "0.003"]}
    assert f"only a {only_a}, only b {only_b}" in capsys.readouterr().out
    page = Page(folder / "report.html")
    page.check_self_contained()
    stated = page.root.one(id="paired").numbers
    assert stated == [
        pair["difference"],
        *pair["interval"],
        pair["p_value"],
        only_a,
        only_b,
        pair["both"],
        pair["neither"],
    ]
    groups = [len(group.all(role="img")) for group in page.root.one(id="images").all("details")]
    assert groups == [min(40, only_a), min(40, only_b)]
    table = {row["filename"]: row for row in read_csv(folder / "images.csv")}
    for image in page.root.one(id="images").all("details")[1].all(role="img"):
        row = table[image.attributes["title"]]
        assert row["predicted b"] == row["true"] != row["predicted a"]
    for name, row in values["runs"].items():
        metrics = read_json(results / name / "test/metrics.json")
        assert {key: row[key] for key in ("n", "accuracy", "macro_f1", "loss")} == {
            key: metrics[key] for key in ("n", "accuracy", "macro_f1", "loss")
        }


def test_other_test_sets_are_not_paired(results: Path, tmp_path: Path) -> None:
    first, second = (read_tested(*checkpoint.read_about(results, name), tta=False) for name in ("a", "b"))
    name = next(iter(first.digests))
    changed = replace(second, digests=second.digests | {name: "0" * 64})
    relabelled = replace(second, rows=second.rows | {name: second.rows[name] | {"true": "nothing"}})
    for number, (other, reason) in enumerate([
        (changed, "the test sets differ (90 and 90 images, 89 of them in both)"),
        (relabelled, "the labels of 1 test images differ"),
    ]):  # fmt: skip
        values = write_comparison(tmp_path / str(number), [first, other], None)
        assert values["pairs"]["b"]["refused"] == f"{reason}, so that nothing can be paired"
        page = Page(tmp_path / str(number) / "report.html")
        assert reason in page.root.one(id="paired").text
        assert not page.root.all(id="images")


def test_runs_that_cannot_be_compared_are_named(results: Path) -> None:
    for runs, message in (
        (("a",), "give two runs or more"),
        (("a", "a"), "a: is given twice"),
        (("a", "c"), r"RUN c: .* has no best.pt; runs that have one: a, b"),
    ):
        with pytest.raises(InputError, match=message):
            compare.main(compare.Args(runs=runs, results=results))
    with pytest.raises(InputError, match=r"test_tta/metrics.json: is missing; run: python predict5.py --run a --tta$"):
        compare.main(compare.Args(runs=("a", "b"), results=results, tta=True))
    assert not list(results.glob("comparison_a_a"))
