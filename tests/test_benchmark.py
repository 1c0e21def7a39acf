"""The benchmark: its ratios, and contenders in processes of their own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers import CONTENDERS, Work
from benchmarks.race import Contender
from benchmarks.speed import Bench, compare, known_parts, part_of
from dataset import read_dataset


def test_ratios_are_taken_round_by_round() -> None:
    runs = {"ours, fast": [10.0, 40.0, 30.0], "ours, exact": [5.0, 20.0, 30.0], "theirs": [5.0, 10.0, 10.0]}
    found = compare(runs, {"absent": "ModuleNotFoundError: no module"})
    assert (found["ours"], found["peers"]) == (30.0, {"ours, exact": 20.0, "theirs": 10.0})
    assert found["ratio"] == {"ours, exact": 2.0, "theirs": 3.0}
    assert "absent" in found["notes"][0]


def test_a_contender_works_and_another_says_why_not(sample: Path, tmp_path: Path) -> None:
    data = read_dataset(sample)
    work = Work(data.labelled, data.classes, tmp_path, tmp_path, data.name)
    contender = Contender("decoding, the dataset's: ours", work)
    assert contender.trouble is None
    assert contender.rate() > 1
    contender.end()
    assert not contender.process.is_alive()
    nowhere = [replace(row, path=tmp_path / "gone.jpg") for row in data.labelled]
    assert "gone.jpg" in Contender("decoding, the dataset's: ours", replace(work, samples=nowhere)).trouble


@pytest.mark.parametrize("size", [80, 120])
def test_a_part_of_a_dataset_is_a_dataset(sample: Path, tmp_path: Path, size: int) -> None:
    data = read_dataset(sample)
    part = read_dataset(part_of(Bench(None, data, tmp_path, {}), size))
    assert len(part.train) == size
    assert set(part.classes) == set(data.classes)
    assert part.name == data.name


def test_parts_of_the_same_machine_and_dataset_stay(tmp_path: Path) -> None:
    file, about = tmp_path / "benchmark.json", {"machine": {"cores": 2}, "dataset": "har"}
    assert known_parts(file, about) == {}
    file.write_text(json.dumps(about | {"head": {"ours": 3}}))
    assert known_parts(file, about)["head"] == {"ours": 3}
    assert known_parts(file, about | {"dataset": "sample"}) == {}


def test_every_race_has_one_of_ours() -> None:
    titles = {name.partition(": ")[0] for name in CONTENDERS}
    assert {title for title in titles if not any(name.startswith(f"{title}: ours") for name in CONTENDERS)} == {
        "plain validation"
    }
