"""The ablation as a user runs it, small."""

import csv
import json
from pathlib import Path

import pytest
from conftest import SMALL

import ablation
from errors import InputError


def test_rows_are_trained_tested_and_not_done_twice(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ablation.Args(data=sample, rows=("one view",), options=" ".join((*SMALL, "--epochs", "1")))
    ablation.main(args)
    (measured,) = json.loads(Path("results/ablation.json").read_text())["one view"]
    run = Path("results") / measured["run"]
    assert json.loads((run / "best.json").read_text())["recipe"]["views"] == 1
    for folder in ("test", "test_tta"):
        with (run / folder / "test_predictions.csv").open(newline="") as file:
            right = [row["true"] == row["predicted"] for row in csv.DictReader(file)]
        assert measured[folder]["accuracy"] == pytest.approx(sum(right) / len(right))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    ablation.main(args)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith(f"| one view | 1 | {100 * measured['val']:.1f} % | ")
    with pytest.raises(InputError, match=r"--rows magic: there is no such row; there are: plain head, default, "):
        ablation.main(ablation.Args(rows=("magic",)))
