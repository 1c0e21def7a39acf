"""The built-in sample is complete and the same for the same seed."""

from pathlib import Path

import pytest

from runtime.errors import InputError
from sample.build import ensure_sample


def test_sample_is_whole_and_repeatable(sample: Path, tmp_path: Path) -> None:
    ensure_sample(tmp_path / "again", per_class=8)
    names = sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file())
    assert len([name for name in names if name.parent.name == "train"]) == 15 * 8
    for name in names:
        assert (sample / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="photos: holds something else"):
        ensure_sample(tmp_path / "photos")
