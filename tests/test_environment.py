"""The conda environment names what the pinned requirements name, with bounds that hold the pins."""

import re

import pytest
import torch
import yaml
from conftest import REPOSITORY
from packaging.specifiers import SpecifierSet

from runtime.device import pick_device
from runtime.errors import InputError

CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def test_lock_file_pins_the_same_versions_with_digests() -> None:
    """After a change of requirements.txt: the command in CONTRIBUTING.md."""
    pins = set((REPOSITORY / "requirements.txt").read_text().split())
    entries = re.split(r"\n(?=\S)", (REPOSITORY / "requirements.lock").read_text().replace("\\\n", ""))
    locked = {re.match(r"[\w.-]+==[^\s;]+", entry).group() for entry in entries}
    assert pins <= locked
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_conda_environment_agrees_with_the_pins() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().split()
    pins = dict(line.split("==") for line in lines)
    environment = yaml.safe_load((REPOSITORY / "md_env.yml").read_text())
    assert environment["name"]
    assert environment["channels"][0] == "conda-forge"
    bounds = {}
    for entry in environment["dependencies"]:
        name, specifier = re.fullmatch(r"([a-z0-9-]+)(.*)", entry).groups()
        bounds[CONDA_NAMES.get(name, name)] = specifier
    assert bounds.pop("python") == "=3.11"
    assert bounds.keys() == pins.keys()
    for name, pin in pins.items():
        assert pin in SpecifierSet(bounds[name]), name


def test_gpu_whose_memory_others_hold_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(InputError, match=r"--device cpu: other programs hold its memory .*; end one"):
        pick_device("cpu")
