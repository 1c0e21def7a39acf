"""The ablation as a user runs it, small."""

import csv
import json
from pathlib import Path

from conftest import SMALL, Script


def test_rows_are_trained_tested_and_not_done_twice(sample: Path, tmp_path: Path, script: Script) -> None:
    options = ("--data", sample, "--rows", "one view", "--options=" + " ".join((*SMALL, "--epochs", "1")))
    done = script(tmp_path, "ablation.py", *options)
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads((tmp_path / "results" / "ablation.json").read_text())["one view"]
    run = tmp_path / "results" / measured["run"]
    assert json.loads((run / "best.json").read_text())["recipe"]["views"] == 1
    for folder in ("test", "test_tta"):
        with (run / folder / "test_predictions.csv").open(newline="") as file:
            right = [row["true"] == row["predicted"] for row in csv.DictReader(file)]
        assert measured[folder]["accuracy"] == sum(right) / len(right)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = script(tmp_path, "ablation.py", *options)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    line = again.stdout.splitlines()[-1]
    assert line.startswith(f"| one view | 1 | {100 * measured['val']:.1f} % | ")
    wrong = script(tmp_path, "ablation.py", "--rows", "magic")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: --rows magic: there is no such row; there are: plain head, default, ")
