"""What needs a GPU; skipped, saying so, without one. `benchmarks/gpu_check.sh` runs these tests where there is one."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, read_jsonl, small

import predict5
import train
from features.cache import fits_gpu
from runtime.errors import InputError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.fixture
def trained(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run `a` of two epochs, trained on the GPU."""
    monkeypatch.chdir(tmp_path)
    train.main(small(data=sample, run="a", device="cuda", precision="auto"))
    return tmp_path


def test_training_keeps_features_in_gpu_memory_and_repeats_its_numbers(trained: Path, sample: Path) -> None:
    best = json.loads(Path("results/a/best.json").read_text())
    assert not list(Path("data").glob("cache/maps-*"))
    assert (best["recipe"]["channels"], best["recipe"]["low_res"], best["projection"]) == (0, 0, "")
    train.main(small(data=sample, run="b", device="cuda", precision="auto"))
    one, other = (read_jsonl(Path(f"results/{run}/metrics.jsonl")) for run in "ab")
    assert [(row["train"], row["val"]) for row in one] == [(row["train"], row["val"]) for row in other]


def test_predictions_of_gpu_and_cpu_agree(trained: Path) -> None:
    found = []
    for device in ("cuda", "cpu"):
        predict5.main(predict5.Args(run="a", device=device, precision="auto" if device == "cuda" else "fp32"))
        with Path("results/a/test/test_predictions.csv").open(newline="") as file:
            found.append([float(row["probability"]) for row in csv.DictReader(file)])
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_fine_tuning_trains_on_the_gpu_in_fp16_too(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for precision in ("auto", "fp16"):
        options = {"recipe": "finetune", "epochs": 1, "precision": precision, "run": precision}
        train.main(small(data=sample, device="cuda", **options))
        assert read_jsonl(Path(f"results/{precision}/metrics.jsonl"))[0]["train"]["loss"] < 4


def test_full_gpu_memory_is_one_line(sample: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch; sys.argv = ['train.py', *sys.argv[1:]]\n"
        "total = torch.cuda.mem_get_info()[1]\n"
        "torch.cuda.set_per_process_memory_fraction(150 * 2**20 / total)\n"
        "import runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(REPOSITORY / "train.py"), "--data", str(sample), "--weights", "random"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, "--device", "cuda"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: GPU memory is full")
    assert "Traceback" not in done.stderr


def test_features_that_do_not_fit_are_not_kept() -> None:
    device = torch.device("cuda")
    free = torch.cuda.mem_get_info(device)[0]
    assert fits_gpu(free // 4, device)
    assert not fits_gpu(free, device)
    assert not fits_gpu(1, torch.device("cpu"))


def test_missing_device_is_named() -> None:
    with pytest.raises(InputError, match=r"--device cuda:99: not available"):
        train.main(train.Args(device="cuda:99"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs two GPUs")
def test_two_gpus_train_what_one_does(trained: Path, sample: Path) -> None:
    options = (
        "--data",
        sample,
        "--weights",
        "random",
        "--image-size",
        64,
        "--epochs",
        2,
        "--run",
        "two",
        "--device",
        "cuda",
    )
    launch = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        2,
        "--",
        REPOSITORY / "train.py",
    )
    subprocess.run([str(part) for part in (*launch, *options)], cwd=trained, check=True, timeout=280)
    one, two = (read_jsonl(trained / f"results/{run}/metrics.jsonl") for run in ("a", "two"))
    assert len(two) == len(one) == 2
    assert two[-1]["val"]["loss"] == pytest.approx(one[-1]["val"]["loss"], abs=0.3)
