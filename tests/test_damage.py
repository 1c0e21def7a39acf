"""Damaged files that are read again: noticed by checksums, computed again where that is possible, else one line."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, read_jsonl, small

import train
from backbones.imagenet_weights import load_weights
from explorer import index
from features.pca import Projection
from reports.run import read_history
from runtime.errors import InputError
from splits.scan import known_scans, scan_files
from training import checkpoint


def flip(path: Path, seed: int = 0) -> None:
    """Changes one bit of a file, in the middle half."""
    data = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(len(data) // 4, 3 * len(data) // 4)
    data[place] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["bits", "zeros", "names", "cut"])
def test_damaged_feature_maps_are_computed_again(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, run="a", epochs=1, channels=64))
    (store,) = Path("data/cache").glob("maps-*/maps.bin")
    if damage == "bits":
        flip(store)
    elif damage == "zeros":
        store.write_bytes(bytes(store.stat().st_size))
    elif damage == "cut":
        store.write_bytes(store.read_bytes()[:-100])
    else:  # the names of two rows are exchanged
        names = store.with_name("rows.txt").read_bytes()
        store.with_name("rows.txt").write_bytes(names[65:130] + names[:65] + names[130:])
    capsys.readouterr()
    train.main(small(data=kaggle, run="b", epochs=1, channels=64))
    count = {"bits": "1", "zeros": "16", "names": "2"}.get(damage)
    assert (f"{count} of its feature maps are damaged; computes these again" in capsys.readouterr().out) is bool(count)
    first, second = (read_jsonl(Path(f"results/{run}/metrics.jsonl"))[0] for run in "ab")
    for part in ("train", "val"):
        assert second[part] == pytest.approx(first[part], rel=1e-3)
    train.main(small(data=kaggle, run="c", epochs=1, channels=64))
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["best.pt", "last.pt"])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(trained: Path, tmp_path: Path, file: str) -> None:
    shutil.copy(trained / "results/a" / file, tmp_path)
    checkpoint.read_checkpoint(tmp_path / file, torch.device("cpu"))
    flip(tmp_path / file)
    with pytest.raises(InputError, match=rf"{file}: not a readable checkpoint \(a checksum in it is wrong\)$"):
        checkpoint.read_checkpoint(tmp_path / file, torch.device("cpu"))


def test_a_damaged_projection_is_one_line(kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, run="a", epochs=1, channels=64))
    (basis,) = tmp_path.glob("data/cache/projection-*.pt")
    flip(basis)
    with pytest.raises(
        InputError, match=r"^data/cache/projection-\w+.pt: .* \(a checksum in it is wrong\); delete it$"
    ):
        train.main(small(data=kaggle, run="b", epochs=1, channels=64))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"[1]", b'{"a": 1}', b'{"a": {"sha256": "x"}}'])
def test_damaged_scans_are_made_again(kaggle: Path, tmp_path: Path, content: bytes) -> None:
    paths, cache = sorted((kaggle / "train").glob("*.jpg"))[:3], tmp_path / "scans.json"
    expected = scan_files(paths, cache)
    cache.write_bytes(content)
    assert known_scans(paths, cache) == []
    assert scan_files(paths, cache) == expected


def test_a_wrong_digit_in_scans_is_noticed_and_older_ones_are_read(kaggle: Path, tmp_path: Path) -> None:
    paths, cache = sorted((kaggle / "train").glob("*.jpg"))[:3], tmp_path / "scans.json"
    expected = scan_files(paths, cache)
    text, hashed = cache.read_text(), f'"dhash": {expected[1].dhash}'
    cache.write_text(text.replace(hashed, f'"dhash": {expected[1].dhash ^ 1}'))
    assert known_scans(paths, cache) == []
    assert scan_files(paths, cache) == expected
    assert cache.read_text() == text
    cache.write_text(json.dumps(json.loads(text)["scans"]))
    assert known_scans(paths, cache) == expected


def test_a_damaged_history_is_written_again_by_resuming(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, run="a", epochs=2))
    history = Path("results/a/metrics.jsonl")
    rows = read_jsonl(history)
    for content in (b"\xff\xfe", b"{", bytes(20)):
        history.write_bytes(content)
        with pytest.raises(InputError, match=r"metrics.jsonl: damaged .*; run: python train.py --resume --run a$"):
            read_history(Path("results/a"))
    train.main(train.Args(run="a", resume=True))
    assert read_jsonl(history) == rows


class Attack:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def readers(path: Path) -> dict[str, Callable[[], object]]:
    """What reads a file of each kind that may come from somebody else."""
    return {
        "checkpoint": lambda: checkpoint.read_checkpoint(path, torch.device("cpu")),
        "weights": lambda: load_weights(str(path)),
        "pretrained": lambda: checkpoint.load_pretrained(torch.device("cpu"), path),
        "projection": Projection(path, 64, 8).load,
        "index": lambda: index.load(path),
    }


@pytest.mark.parametrize("reader", ["checkpoint", "weights", "pretrained", "projection", "index"])
@pytest.mark.parametrize("form", ["torch", "legacy", "pickle", "numpy"])
def test_no_pickle_is_executed(tmp_path: Path, reader: str, form: str) -> None:
    path, mark = tmp_path / "file.pt", tmp_path / "executed"
    attack = Attack(f"touch {mark}")
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": attack}))
    elif form == "numpy":
        with path.open("wb") as file:
            np.savez(file, keys=np.array([attack], dtype=object))
    else:
        torch.save({"model": attack}, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises((InputError, ValueError, KeyError, zipfile.BadZipFile)) as caught:
        readers(path)[reader]()
    assert reader == "index" or caught.type is InputError
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are threads there")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = "import os, time; from splits.scan import worker_pool; pool = worker_pool(1000); "
    code += "print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        workers = [Path("/proc", word, "stat") for word in parent.stdout.readline().split()]
        assert workers
        assert all(map(is_alive, workers))
        parent.kill()
    end = time.monotonic() + 20
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_alive, workers))


def is_alive(stat: Path) -> bool:
    """Whether a process runs, of its file in /proc; those that have ended may lie there as zombies."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
