"""Two real processes on gloo reach the numbers of one."""

import csv
import json
import os
import socket
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from processes import RunningScript

import predict5
import train
from backbones.imagenet_weights import BackboneWeights
from dataset import read_dataset
from features.cache import FeatureStore
from features.decode import ImageReader
from features.engines import make_engine
from features.spec import FeatureSpec
from model import build_model
from runtime import distributed
from splits.scan import scan_files
from training import checkpoint

CPU = torch.device("cpu")

OPTIONS = {"weights": "random", "image_size": 64, "precision": "fp32", "epochs": 3, "low_res": 0.4, "mixup": 0.2}
OPTIONS |= {"views": 2, "channels": 0}  # untrained features hardly vary: a projection would enlarge rounding errors
OPTIONS["no_report"] = True
OPTIONS["batch_size"] = 44  # of 90 images: none of the last batch are left for the second process


def torchrun(folder: Path, script: str, *arguments: object) -> str:
    """Runs a script in two processes, as the README says; returns what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(REPOSITORY / script), *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def two_processes(folder: Path, script: str, *arguments: object) -> None:
    """Runs a script as `torchrun` would, from the fork server: without the imports of three interpreters."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    running = [
        RunningScript(folder, script, *arguments, RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS="1", **common)
        for rank in "01"
    ]
    for process in running:
        done = process.finish()
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A folder with the runs `one` and `two`, named after the number of their processes; `two` made the maps."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "sample").symlink_to(sample)
    given = {f"--{name.replace('_', '-')}": value for name, value in OPTIONS.items()}
    arguments = [part for name, value in given.items() for part in ((name,) if value is True else (name, value))]
    output = torchrun(folder, "train.py", "--data", "sample", *arguments, "--run", "two")
    assert output.count("best epoch:") == 1  # one process prints
    with chdir(folder):
        train.main(train.Args(data=Path("sample"), run="one", **OPTIONS))
    return folder


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_to_the_losses_of_one(both: Path) -> None:
    one, two = (rows_of(both / "results" / run) for run in ("one", "two"))
    assert len(one) == len(two) == 3
    for row, other in zip(one, two, strict=True):
        for part in ("train", "val"):
            assert other[part]["loss"] == pytest.approx(row[part]["loss"], rel=2e-4), (row, other)
    heads = [torch.load(both / "results" / run / "last.pt", weights_only=True)["head"] for run in ("one", "two")]
    for name in ("conv1.weight", "bn1.running_var", "conv2.weight", "fc.weight"):
        moved = (heads[1][name] - heads[0][name]).norm() / heads[0][name].norm()
        assert moved < 0.01, name  # Adam turns rounding into steps where a gradient is near zero


def test_features_computed_by_two_processes_equal_those_of_one(
    both: Path, tmp_path: Path, untrained: BackboneWeights
) -> None:
    """Within the rounding of bfloat16, since each image has other neighbours in its batch."""
    samples = read_dataset(both / "sample").train
    digests = [scan.sha256 for scan in scan_files([sample.path for sample in samples], tmp_path / "scans.json")]
    spec = FeatureSpec(untrained.sha256, "none", "dataset", 64)
    alone, shared = (
        FeatureStore(folder, spec, 1, 64, "fp32", (2048, 2)) for folder in (tmp_path, both / "data" / "cache")
    )
    mine = [digest for digest in digests if digest in shared.rows]
    samples = [sample for digest, sample in zip(digests, samples, strict=True) if digest in shared.rows]
    assert len(mine) == len(shared.rows) == len(set(mine)) > 80
    network = build_model(untrained, 2).base_model.eval()
    alone.build(
        lambda count, size: make_engine(network, CPU, "fp32", size, count), samples, mine, ImageReader(CPU, 0), "alone"
    )
    expected = alone.read(mine).float()
    torch.testing.assert_close(shared.read(mine).float(), expected, rtol=2**-7, atol=1e-3 * expected.max().item())


def test_two_processes_share_the_projection(both: Path) -> None:
    arguments = ("--weights", "random", "--image-size", 64, "--precision", "fp32", "--epochs", 2, "--channels", 48)
    two_processes(both, "train.py", "--data", "sample", *arguments, "--cache", "projected", "--run", "projected")
    (rows,) = (both / "projected").glob("maps-*/rows.txt")
    assert rows.with_name("maps.bin").stat().st_size == len(rows.read_text().split()) * 2 * 2 * 48 * 2
    basis = torch.load(next((both / "projected").glob("projection-*.pt")), weights_only=True)
    model, _, _ = checkpoint.load_model(both / "results" / "projected", CPU)
    kernels = model.conv1.weight  # of all channels, yet in the span of the projection
    spanned = torch.einsum("ochw,ck,dk->odhw", kernels, basis, basis)
    torch.testing.assert_close(spanned, kernels, rtol=0, atol=1e-5)


def test_two_processes_test_every_image_once(both: Path) -> None:
    with chdir(both):
        predict5.main(predict5.Args(run="one"))
    folder = both / "results" / "one" / "test"
    alone = json.loads((folder / "metrics.json").read_text())
    tables = [table_of(folder)]
    two_processes(both, "predict5.py", "--run", "one")
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
def test_shards_cover_every_row_once_and_keep_mixup_pairs(
    count: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    seen = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        part = distributed.shard(count)
        assert part.start % 2 == 0 or part.start == count
        seen += range(count)[part]
    assert seen == list(range(count))
