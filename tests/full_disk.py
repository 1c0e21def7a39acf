"""Trains, tests and draws on disks that become full, then on larger ones: one line each, and nothing is lost.

    sudo python -m tests.full_disk        three minutes on two cores

A disk is a tmpfs, which Linux lets root mount, here where no other process sees it. Prints a line per size and writes
results/full_disk.json; exits with 1 where a message, a file or a number is wrong.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runtime.console import parse_arguments, run_script
from runtime.files import write_json
from runtime.version import commit
from sample.build import ensure_sample

OPTIONS = ("--weights", "random", "--image-size", "64", "--precision", "fp32", "--epochs", "2", "--snapshots")
MEGABYTES = (0.1, 60, 150, 260, 300, 380, 420)  # less than a run needs at its largest
LEFT = (0.04, 0.3, 2)  # megabytes that are free when a finished run is tested and drawn
SCRIPTS = {"predict5.py": (), "visualize_single_example.py": ("--out", "small/out"), "export.py": ()}
PRIVATE = "FULL_DISK_IS_PRIVATE"


@dataclass
class Args:
    json: Path = Path("results/full_disk.json")
    """File to write."""


def main(args: Args) -> None:
    if PRIVATE not in os.environ:  # once more, with mounts of its own
        command = ["unshare", "--mount", sys.executable, "-m", "tests.full_disk", "--json", str(args.json.resolve())]
        sys.exit(subprocess.run(command, env=os.environ | {PRIVATE: "1"}).returncode)
    with TemporaryDirectory() as name:
        folder = Path(name)
        ensure_sample(folder / "sample", per_class=6)
        errors = train(folder, "whole", "whole")
        if errors:
            sys.exit(f"the training on a large disk failed: {errors}")
        whole = (folder / "whole/whole/metrics.jsonl").read_bytes()
        disks = [fill(folder, megabytes, whole) for megabytes in MEGABYTES]
        disks += [use(folder, megabytes, script) for megabytes in LEFT for script in SCRIPTS]
    bad = [disk for disk in disks if disk["faults"]]
    write_json(args.json, {"commit": commit(), "disks": disks})
    print(f"{len(disks)} full disks, {len(bad)} with faults; written: {args.json}")
    sys.exit(bool(bad))


def train(folder: Path, results: str, run: str) -> list[str]:
    """Trains a run, or continues it where that is possible; returns lines of stderr."""
    again = (folder / results / run / "last.pt").exists()
    words = ("--resume",) if again else ("--data", "sample", *OPTIONS)
    places = ("--results", results, "--run", run, "--cache", "cache", "-q")
    command = [sys.executable, Path(__file__).parents[1] / "train.py", *words, *places]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr.splitlines()


def fill(folder: Path, megabytes: float, whole: bytes) -> dict[str, Any]:
    """Trains on a disk of that size until it is full, then on a larger one to the end."""
    disk = folder / "small"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={round(megabytes * 1024)}k", "tmpfs", disk], check=True)
    try:
        errors = train(folder, "small", "run")
        partial = [path.name for path in disk.rglob(".*")]
        subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
        later = train(folder, "small", "run")
        metrics = (disk / "run/metrics.jsonl").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)
    checks = {
        "message": len(errors) == 1 and errors[0].startswith("error: [Errno 28] No space left on device: "),
        "partial files": not partial,
        "the training after it": not later,
        "metrics": metrics == whole,
    }
    faults = [name for name, is_good in checks.items() if not is_good]
    print(f"{megabytes:6g} MB: {' '.join(errors)[-90:]} {faults or ''}", flush=True)
    return {"megabytes": megabytes, "message": errors, "faults": faults}


def use(folder: Path, megabytes: float, script: str) -> dict[str, Any]:
    """Runs a script on a finished run whose disk has that much left, then on a larger one."""
    disk = folder / "small"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", disk], check=True)
    try:
        ignored = shutil.ignore_patterns("snapshots", "last.pt")
        shutil.copytree(folder / "whole/whole", disk / "run", ignore=ignored)
        size = f"size={shutil.disk_usage(disk).used // 1024 + round(megabytes * 1024)}k"
        subprocess.run(["mount", "-o", f"remount,{size}", disk], check=True)
        words = ("--run", "run", "--results", "small", "--cache", "cache", "--device", "cpu", "-q", *SCRIPTS[script])
        command = [sys.executable, Path(__file__).parents[1] / script, *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        errors, partial = done.stderr.splitlines(), [path.name for path in disk.rglob(".*")]
        subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
        later = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    finally:
        subprocess.run(["umount", disk], check=True)
    told = done.returncode == 2 and len(errors) == 1 and "No space left on device: '" in errors[0]
    checks = {
        "message": told or done.returncode == 0,  # it may fit
        "partial files": not partial,
        "the same on a larger disk": later.returncode == 0,
    }
    faults = [name for name, is_good in checks.items() if not is_good]
    print(f"{script}, {megabytes:g} MB left: {' '.join(errors)[-90:] or 'fits'} {faults or ''}", flush=True)
    return {"script": script, "megabytes_left": megabytes, "message": errors, "faults": faults}


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
