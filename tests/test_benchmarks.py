"""Benchmarks: ratios, candidates in separate processes, subsets; and the ablation as a user runs it, small."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL
from processes import run_script

import train
from benchmarks import ablation, bench, calibration, scripts, speed
from benchmarks.baselines import CANDIDATES
from benchmarks.interleave import Candidate
from benchmarks.workload import Workload
from dataset import read_dataset
from runtime.arguments import parse
from runtime.errors import InputError


def test_ratios_are_medians_over_rounds() -> None:
    runs = {"ours, fast": [10.0, 40.0, 30.0], "ours, exact": [5.0, 20.0, 30.0], "theirs": [5.0, 10.0, 10.0]}
    value = bench.compare(runs, {"absent": "ModuleNotFoundError: no module"})
    assert (value["ours"], value["peers"]) == (30.0, {"ours, exact": 20.0, "theirs": 10.0})
    assert value["ratio"] == {"ours, exact": 2.0, "theirs": 3.0}
    assert "absent" in value["notes"][0]


def test_candidate_runs_in_its_process_and_reports_errors(sample: Path, tmp_path: Path) -> None:
    data = read_dataset(sample)
    work = Workload(data.labelled, data.classes, tmp_path)
    candidate = Candidate("decoding, dataset images: ours", work)
    assert candidate.error is None
    assert candidate.rate() > 1
    candidate.stop()
    assert not candidate.process.is_alive()
    missing = [replace(row, path=tmp_path / "gone.jpg") for row in data.labelled]
    assert "gone.jpg" in Candidate("decoding, dataset images: ours", replace(work, samples=missing)).error


@pytest.mark.parametrize("size", [80, 120])
def test_subset_is_a_dataset_with_all_classes(sample: Path, tmp_path: Path, size: int) -> None:
    data = read_dataset(sample)
    subset = read_dataset(scripts.make_subset(bench.Bench(None, data, tmp_path, {}), size))
    assert len(subset.train) == size
    assert set(subset.classes) == set(data.classes)
    assert subset.name == data.name


def test_results_of_the_same_machine_and_dataset_are_kept(tmp_path: Path) -> None:
    file, about = tmp_path / "benchmark.json", {"machine": {"cores": 2}, "dataset": "har"}
    assert bench.known_parts(file, about) == {}
    file.write_text(json.dumps(about | {"head": {"ours": 3}}))
    assert bench.known_parts(file, about)["head"] == {"ours": 3}
    assert bench.known_parts(file, about | {"dataset": "sample"}) == {}


def test_fitted_temperature_is_never_clearly_worse_than_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Test loss of simulated networks, in brackets of the worst one against T = 1."""
    for name, value in {"SIZES": (5, 20, 1000), "POOL": 2000, "CLASSES": (15,)}.items():
        monkeypatch.setattr(calibration, name, value)
    calibration.main(calibration.Args(repeats=10))
    rows = [
        [float(value) for value in re.findall(r"[-+.\d]+", line)] for line in capsys.readouterr().out.splitlines()[2:]
    ]
    assert [row[0] for row in rows] == [5, 20, 1000]
    for _, raw, _, none_worst, _, platt_worst, ours, ours_worst, best in rows:
        assert best <= ours < raw
        assert ours_worst < 0.02
        assert platt_worst > ours_worst
        assert none_worst > ours_worst or none_worst < 0.01
    assert rows[-1][6] == pytest.approx(rows[-1][8], abs=0.02)


def test_every_group_but_plain_validation_has_a_candidate_of_ours() -> None:
    groups = {name.partition(": ")[0] for name in CANDIDATES}
    without = {group for group in groups if not any(name.startswith(f"{group}: ours") for name in CANDIDATES)}
    assert without == {"plain validation"}


@pytest.mark.parametrize("name", ["benchmark.json", "benchmark_sample.json"])
def test_committed_results_name_the_candidates_of_today(name: str) -> None:
    """Otherwise a new measurement would stand beside the old one instead of replacing it."""
    results = json.loads((REPOSITORY / "results" / name).read_text(encoding="utf-8"))
    for group in (group for groups in speed.GROUPS.values() for group in groups):
        names = {name.removeprefix(f"{group}: ") for name in CANDIDATES if name.startswith(f"{group}: ")}
        assert set(results[group]["runs"]) == names, group
    others = results.keys() - {"machine", "dataset"} - {group for groups in speed.GROUPS.values() for group in groups}
    assert others <= speed.MEASUREMENTS.keys() - {"looking"}


def test_committed_ablation_has_todays_rows_and_its_table() -> None:
    results = json.loads((REPOSITORY / "results/ablation.json").read_text(encoding="utf-8"))
    assert list(results) == [row for row in ablation.ROWS if row in results]
    table = (REPOSITORY / "results/ablation.md").read_text(encoding="utf-8")
    assert table == ablation.markdown_table(results)


def test_options_keep_their_former_names() -> None:
    args = parse(bench.Args, ["--pictures", "7", "--parts", "looking"])[0]
    assert (args.images, args.parts) == (7, ("looking",))
    assert speed.MEASUREMENTS["looking"] is speed.MEASUREMENTS["visualize"]


def test_ablation_trains_and_tests_rows_once(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", lambda command, stdout: run_script(tmp_path, *command[1:]))
    options = " ".join((*SMALL, "--epochs", "1", "--no-report"))
    args = ablation.Args(data=kaggle, rows=("layer4 fine-tuned",), seeds=1, options=options)
    ablation.main(args)
    (measured,) = json.loads(Path("results/ablation.json").read_text())["layer4 fine-tuned"]
    run = Path("results") / measured["run"]
    arguments = json.loads((run / "best.json").read_text())["arguments"]
    assert (arguments["unfreeze"], arguments["views"], arguments["epochs"]) == ("layer4", 4, 1)
    assert arguments["head"].startswith("ablation_default_0_")  # trained first
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
    assert line.startswith(f"| layer4 fine-tuned | 1 | {100 * measured['val']:.1f} % | ")
    with pytest.raises(InputError, match=r"--rows magic: no such row; give one of: plain head, default, "):
        ablation.main(ablation.Args(rows=("magic",)))


@pytest.mark.parametrize("row", ablation.ROWS)
def test_train_accepts_the_options_and_run_name_of_each_row(row: str) -> None:
    run, options = ablation.find_run(ablation.Args(), row, 0)
    parse(train.Args, [*options, "--run", run.name])[0].check()
