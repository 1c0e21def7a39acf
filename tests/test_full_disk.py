"""runtime/files.py: a full disk is one line, and leaves the file as it was."""

from collections import namedtuple
from pathlib import Path

import pytest

from runtime import files

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "expected"), [(100, OSError), (10**9, RuntimeError)])
def test_torch_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, expected: type) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: Usage(10**9, 0, free))
    (tmp_path / "last.pt").write_text("old")

    def write(partial: Path) -> None:
        partial.write_text("half")
        raise RuntimeError("unexpected pos 36492992 vs 36492888")

    with pytest.raises(expected, match=r"No space left.*last\.pt|unexpected pos"):
        files.write_atomically(tmp_path / "last.pt", write)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
