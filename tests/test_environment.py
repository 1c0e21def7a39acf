"""The conda environment names what the pinned requirements name, with bounds that hold the pins."""

import re

import yaml
from conftest import REPOSITORY
from packaging.specifiers import SpecifierSet

CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


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
