"""Processes that decode images, when something ends them: one line, as for other things from outside."""

import os
import shlex
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from conftest import SMALL
from processes import RunningScript

from runtime.console import run_script


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_killed_worker_of_a_training_is_one_line(kaggle: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--recipe", "plain", "--epochs", 500, "--workers", 2, "--data", kaggle, "-q", "--run", "w")
    running = RunningScript(tmp_path, "train.py", *options)
    while running.process.is_alive() and not (tmp_path / "results/w/last.pt").exists():
        time.sleep(0.05)
    while running.process.is_alive():  # workers come and go with the epochs
        servers = children_of(running.process.pid)  # which fork the workers
        for worker in [worker for server in servers for worker in children_of(server)][-1:]:
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.02)
    done = running.finish()
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: a process that decodes images was ended from outside (")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results/w/last.pt").exists()  # from which --resume goes on


def test_ctrl_c_says_how_to_go_on_once_an_epoch_is_saved(kaggle: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--epochs", 500, "--data", kaggle, "-q", "--run", "w", "--cache", "c")
    running = RunningScript(tmp_path, "train.py", *options)
    while running.process.is_alive() and not (tmp_path / "results/w/last.pt").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(running.process.pid, signal.SIGINT)
    done = running.finish()
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1].startswith("stopped; go on with: python ")
    command = shlex.split(done.stderr.splitlines()[-1].partition("go on with: ")[2])
    assert command[2:] == ["--resume", "--run", "w", "--cache", "c"]
    assert not list((tmp_path / "results").rglob(".*"))  # half-written files


def test_a_killed_process_of_the_image_check_is_one_line(capsys: pytest.CaptureFixture) -> None:
    def main(_: object) -> None:
        with ProcessPoolExecutor(1) as pool:
            pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()

    with pytest.raises(SystemExit) as ended:
        run_script(main, None)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: a process that decodes images was ended from outside (")
