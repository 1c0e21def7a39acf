"""The ablation as a user runs it, small."""

import csv
import json
from pathlib import Path

import pytest
import tyro
from conftest import SMALL

import train
from benchmarks import ablation
from runtime.errors import InputError


def test_rows_are_trained_tested_and_not_done_twice(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ablation.Args(data=sample, rows=("layer4 unfrozen",), seeds=1, options=" ".join((*SMALL, "--epochs", "1")))
    ablation.main(args)
    (measured,) = json.loads(Path("results/ablation.json").read_text())["layer4 unfrozen"]
    run = Path("results") / measured["run"]
    arguments = json.loads((run / "best.json").read_text())["arguments"]
    assert (arguments["unfreeze"], arguments["views"], arguments["epochs"]) == ("layer4", 4, 1)
    assert arguments["head"].startswith("ablation_default_0_")  # trained on the way
    for folder in ("test", "test_tta"):
        with (run / folder / "test_predictions.csv").open(newline="") as file:
            right = [row["true"] == row["predicted"] for row in csv.DictReader(file)]
        assert measured[folder]["accuracy"] == pytest.approx(sum(right) / len(right))
    metrics = run / "test" / "metrics.json"
    measured_values = metrics.read_text()
    metrics.write_text(measured_values.replace('"arithmetic": "auto"', '"arithmetic": "bf16"'))  # as if tested by hand
    ablation.main(args)
    assert json.loads(metrics.read_text()) == json.loads(measured_values)
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*.p*")}
    ablation.main(args)
    assert before == {path: path.stat().st_mtime_ns for path in Path("results").rglob("*.p*")}
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith(f"| layer4 unfrozen | 1 | {100 * measured['val']:.1f} % | ")
    with pytest.raises(InputError, match=r"--rows magic: there is no such row; there are: plain head, default, "):
        ablation.main(ablation.Args(rows=("magic",)))


@pytest.mark.parametrize("row", ablation.ROWS)
def test_each_row_has_options_and_a_run_that_train_py_takes(row: str) -> None:
    run, options = ablation.find_run(ablation.Args(), row, 0)
    tyro.cli(train.Args, args=[*options, "--run", run.name]).resolve()
