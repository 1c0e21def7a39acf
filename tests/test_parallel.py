"""Two real processes on gloo: the numbers of one."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL

import parallel

ARGUMENTS = ("--data", "sample", *SMALL, "--epochs", "3", "--coarse", "0.4", "--batch-size", "30", "--patience", "0")


def torchrun(folder: Path, script: str, *arguments: object) -> str:
    """Runs a script in two processes, as the README says; returns what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(REPOSITORY / script), *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, sample: Path, script) -> Path:
    """A folder with the runs `one` and `two`, named after the number of their processes."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "sample").symlink_to(sample)
    done = script(folder, "train.py", *ARGUMENTS, "--run", "one", "--cache", "cache1")
    assert done.returncode == 0, done.stderr
    output = torchrun(folder, "train.py", *ARGUMENTS, "--run", "two", "--cache", "cache2")
    assert output.count("best epoch:") == 1  # one process prints
    return folder


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_to_the_numbers_of_one(both: Path) -> None:
    one, two = (rows_of(both / "results" / run) for run in ("one", "two"))
    assert len(one) == len(two) == 3
    for row, other in zip(one, two, strict=True):
        for part in ("train", "val"):
            assert other[part]["loss"] == pytest.approx(row[part]["loss"], rel=2e-3), (row, other)
    heads = [torch.load(both / "results" / run / "last.pt", weights_only=True)["head"] for run in ("one", "two")]
    for name, value in heads[0].items():
        assert (value.float() - heads[1][name].float()).norm() <= 0.02 * value.float().norm() + 1e-6, name


def test_shared_maps_are_the_same(both: Path) -> None:
    files = [sorted((both / cache).glob("maps-*/maps.bin")) for cache in ("cache1", "cache2")]
    assert [path.parent.name for path in files[0]] == [path.parent.name for path in files[1]]
    for one, two in zip(*files, strict=True):
        listed = [(path.parent / "rows.txt").read_text().split() for path in (one, two)]
        assert listed[0] == listed[1]
        maps = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.bfloat16).float() for path in (one, two)]
        torch.testing.assert_close(*maps, rtol=2**-7, atol=1e-3 * maps[0].max().item())


def test_two_processes_test_every_picture_once(both: Path, script) -> None:
    done = script(both, "predict5.py", "--run", "one", "--cache", "cache1")
    assert done.returncode == 0, done.stderr
    folder = both / "results" / "one" / "test"
    alone = json.loads((folder / "metrics.json").read_text())
    tables = [table_of(folder)]
    torchrun(both, "predict5.py", "--run", "one", "--cache", "cache1")
    shared = json.loads((folder / "metrics.json").read_text())
    tables.append(table_of(folder))
    assert shared["n"] == alone["n"]
    for key in ("loss", "accuracy", "f1"):
        assert shared[key] == pytest.approx(alone[key], abs=1e-5)
    assert [row[:3] for row in tables[0]] == [row[:3] for row in tables[1]]


def table_of(folder: Path) -> list[list[str]]:
    with (folder / "test_predictions.csv").open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(("count", "world"), [(71, 2), (128, 3), (1, 2), (5, 4), (0, 2)])
def test_parts_cover_every_row_once_and_keep_pairs(count: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world", lambda: world)
    seen = []
    for rank in range(world):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        part = parallel.part(count)
        assert part.start % 2 == 0 or part.start == count
        seen += range(count)[part]
    assert seen == list(range(count))
