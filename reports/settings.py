"""The settings of a run: which differ from the defaults, and the commands that repeat it."""

import shlex
from dataclasses import dataclass, replace
from typing import Any

from backbones.names import RESNET
from runtime.options import option_name
from sample.build import NAME as SAMPLE_NAME
from training.options import PLACES, Args


@dataclass(frozen=True)
class Setting:
    """An option of `train.py` with its value in a run and its default for such a run, as text."""

    option: str
    value: str
    default: str
    differs: bool


def settings(record: dict[str, Any]) -> list[Setting]:
    """The options that decide what a run learns, by name."""
    given, several = record["arguments"], defaults(record)
    return [
        Setting(option_name(name), show(value), show(several[0].get(name)), differs(name, value, several))
        for name, value in sorted(given.items())
        if name in several[0] and name not in {*PLACES, "precision"}  # what auto became is no choice of the user
    ]


def defaults(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The defaults of a run of this recipe, backbone and stage, with these views and channels; on a GPU either of two.

    Of the options that decide about the others, the defaults are those of a run that was given none of them.
    """
    given, images = record["arguments"], record["split"]["train"]
    plain = Args(recipe=given["recipe"], backbone=given["backbone"]).resolve()
    stage = replace(plain, unfreeze=given["unfreeze"])
    features = replace(stage, views=given["views"], channels=given["channels"])
    own = {"recipe": Args.recipe, "backbone": RESNET, "unfreeze": plain.unfreeze}
    several = []
    for on_gpu in (False, True) if record["device"].startswith("cuda") else (False,):
        recipe, epochs = stage.resolve_recipe(images, on_gpu)
        own |= {"views": recipe.views, "channels": recipe.channels}
        recipe, _ = features.resolve_recipe(images, on_gpu)
        several.append(features.stored(recipe, epochs, record["precision"]) | own)
    return several


def differs(name: str, value: Any, several: list[dict[str, Any]]) -> bool:
    return all(value != values.get(name) for values in several)


def show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "–" if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)


def training_command(record: dict[str, Any], run: str) -> list[str]:
    """Command lines that train the run again, in the order of their use, under the name `run`."""
    lines, several = [], defaults(record)
    words = ["python", "train.py", "--run", run]
    if record["dataset"] == SAMPLE_NAME:
        lines.append("python -m sample.build")
        words += ["--data", "data/sample"]
    else:
        words += ["--data", record["data"] or "DIR"]
    for name, value in record["arguments"].items():
        told = name == "precision" or (name in several[0] and differs(name, value, several))
        if name in PLACES or not told:
            continue
        words += [option_name(name)] if value is True else [option_name(name), str(value)]
    return [*lines, shlex.join(words)]


def differing(records: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Settings and circumstances in which runs differ: the name, and the value of each run."""
    names = sorted({name for record in records for name in record["arguments"]} - PLACES)
    rows = [(option_name(name), [show(record["arguments"].get(name)) for record in records]) for name in names]
    for name in ("dataset", "weights", "backbone", "image_size", "device", "processes", "commit"):
        if name not in names:
            rows.append((name.replace("_", " "), [show(record.get(name)) for record in records]))
    for part, words in (("train", "training images"), ("val", "validation images"), ("test", "test images")):
        rows.append((words, [f"{record['split'][part]:,}" for record in records]))
    libraries = {name for record in records for name in record["versions"]}
    rows += [(name, [show(record["versions"].get(name)) for record in records]) for name in sorted(libraries)]
    return [(name, values) for name, values in rows if len(set(values)) > 1]
