"""Cases of tests/fuzz.py: the bad input in a folder, and the arguments of a script that meets it."""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from runtime.options import option_name
from tests.fuzz_files import DATASETS, blob, file_name, image_bytes, mutate, word

# Relative alone: scripts write to some of them, and root may replace a device.
NUMBERS = (
    "-1", "0", "1", "2", "3", "9" * 30, "-" + "9" * 30, "", "x", "1e3", "0.5", "nan", "inf", "-inf", "1e308", "1e999",
)  # fmt: skip
PATHS = ("none", "set", "good.png", "loop", "results", "", ".", "good.png/x", "a" * 300, "-x")
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**70, 0.5, float("nan"), float("inf"), "", "x", "$a_{", [], [1], {}, {"a": 1},
]  # fmt: skip
SCRIPTS = (
    "train", "predict5", "visualize_activations", "visualize_single_example", "prepare_data", "explore", "export",
    "compare",
)  # fmt: skip
TRAIN = ("--weights", "random", "--image-size", "64", "--precision", "fp32", "--epochs", "1")
QUICK = ("--attribution", "none", "--dpi", "40", "--layers", "fc")  # of visualize_single_example.py
Words = list[str]


def option_words(arguments: type, name: str, rng: random.Random) -> Words:
    """An option of a script's `Args` with a value, good or bad."""
    (field,) = (field for field in fields(arguments) if field.name == name)
    words = values(get_type_hints(arguments)[name], rng)
    return words if "positional" in field.metadata else [option_name(name), *words]


def values(annotation: Any, rng: random.Random) -> Words:
    """Words of a command line for a type, good or bad."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        count = rng.randrange(4) if Ellipsis in inner else len(inner)
        return [one for _ in range(count) for one in values(inner[0], rng)]
    if NoneType in inner:
        return values(next(part for part in inner if part is not NoneType), rng)
    if origin is Literal:
        return [rng.choice([*inner, word(rng)])]
    if annotation is bool:
        return []
    return [rng.choice({int: NUMBERS, float: NUMBERS, Path: PATHS}.get(annotation, (word(rng), word(rng))))]


def option_list(arguments: type, rng: random.Random, skip: tuple[str, ...] = ()) -> Words:
    names = [field.name for field in fields(arguments) if field.name not in skip]
    words = [
        one
        for name in rng.sample(names, min(len(names), rng.randint(1, 3)))
        for one in option_words(arguments, name, rng)
    ]
    return [one for one in words if "\0" not in one and one.encode(errors="ignore").decode() == one]


def odd_options(script: str, folder: Path, rng: random.Random, arguments: dict[str, type]) -> Words:
    """The script's usual arguments, then odd ones."""
    skip = (
        ("epochs", "wandb", "check", "out")
        if script in ("train", "prepare_data")
        else ("host", "port", "all_layers", "tta")
    )
    return [*usual(script), *option_list(arguments[script], rng, skip)]


def usual(script: str) -> Words:
    """Arguments that let a script end well and soon, in the folder of a trained run."""
    return {
        "train": ["--data", "set", *TRAIN, "--run", "new"],
        "predict5": ["--device", "cpu"],
        "visualize_activations": ["--dpi", "40", "--rows", "1", "--columns", "relu2"],
        "visualize_single_example": [*QUICK],
        "prepare_data": ["--check", "set"],
        "explore": ["--index", "--index-images", "2"],
        "export": ["--format", "program"],
        "compare": ["a", "b"],
    }[script]


def odd_dataset(script: str, folder: Path, rng: random.Random) -> Words:
    root = folder / "odd"
    root.mkdir()
    rng.choice(DATASETS)(root, rng)
    more = ["--skip-bad"] * (rng.random() < 0.4)
    return ["--check", "odd"] if script == "prepare_data" else ["--data", "odd", *TRAIN, "--run", "new", *more]


def odd_image(script: str, folder: Path, rng: random.Random) -> Words:
    if rng.random() < 0.25:
        path = rng.choice(["/dev/zero", "/dev/null", "set", "loop", "pipe", "none", "huge.png", "locked.png", "."])
    else:
        suffix, data = image_bytes(rng)
        path = f"{file_name(rng)}.{suffix}"
        (folder / os.fsencode(path).decode(errors="surrogateescape")).write_bytes(data)
    path = f"./{path}" if path.startswith("-") else path
    if script == "predict5":
        return [path, *["good.png"] * (rng.random() < 0.5), *["--skip-bad"] * (rng.random() < 0.3)]
    if script == "visualize_activations":
        return ["--compare", "good.png", path, "--dpi", "40"] if rng.random() < 0.3 else [path, *usual(script)]
    return [path, *QUICK]


def spoil_text(path: Path, rng: random.Random) -> None:
    """Damages a file of JSON, JSON lines or CSV."""
    text = path.read_bytes()
    content = None
    if path.suffix == ".json" and rng.random() < 0.6:
        content = spoil_value(json.loads(text), rng)
    change = json.dumps(content).encode() if content is not None else mutate(text, rng)
    path.write_bytes(rng.choice([change, change, change, b"", b"null", b"[]\n", b'{"a": 1}\n', b"\xff\xfe"]))


def spoil_value(value: Any, rng: random.Random) -> Any:
    """Replaces or drops one thing in nested lists and dictionaries."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        if rng.random() < 0.3:
            return {name: inner for name, inner in value.items() if name != key}
        if rng.random() < 0.7:
            return value | {key: spoil_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], spoil_value(value[at], rng), *value[at + 1 :]][rng.randrange(2) :]
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        return rng.choice(
            [value.flatten()[:1], value * float("nan"), value.half(), value[None], value.to(torch.complex64)]
        )
    return rng.choice(VALUES)


def spoil_checkpoint(path: Path, rng: random.Random) -> None:
    """Damages the bytes of a file of `torch.save`, or what is in it."""
    if rng.random() < 0.4:
        data = path.read_bytes()
        path.unlink()  # a link to the file of another case
        path.write_bytes(
            rng.choice([mutate(data, rng), data[: rng.randrange(len(data))], b"", b"x" * 100, data[-999:]])
        )
        return
    content = torch.load(path, weights_only=True)
    part = rng.choice(["record", "record", "record", *content]) if "record" in content else rng.choice(list(content))
    spoilt = content | {part: spoil_value(content[part], rng)} if rng.random() < 0.9 else spoil_value(content, rng)
    path.unlink()
    torch.save(spoilt, path)


def odd_run(script: str, folder: Path, rng: random.Random) -> Words:
    """Damages one file of run a; train.py resumes it, or takes its head."""
    run = folder / "results/a"
    resumes = script == "train" and rng.random() < 0.6
    texts = {
        "train": ["best.json"] if not resumes else ["best.json", "split.json", "metrics.jsonl"],
        "predict5": ["split.json", "metrics.jsonl", "best.json"],
        "compare": ["test/metrics.json", "test/test_predictions.csv", "metrics.jsonl", "best.json"],
    }.get(script, ["best.json", "split.json"])
    snapshots = script == "visualize_activations" and rng.random() < 0.5
    file = run / rng.choice(texts)
    if rng.random() < 0.6 or len(texts) == 2:
        file = run / ("last.pt" if resumes else "best.pt")
    if snapshots:
        file = run / "snapshots/epoch_001.pt"
    if rng.random() < 0.1:
        file.unlink()
        rng.choice([file.mkdir, lambda: file.symlink_to(file), lambda: None, lambda: os.mkfifo(file)])()
    elif file.suffix == ".pt":
        spoil_checkpoint(file, rng)
    else:
        spoil_text(file, rng)
    if snapshots:
        if rng.random() < 0.2:
            file.rename(file.with_name("epoch_x.pt")) if file.exists() else None
        return ["--training", "results/a", "--rows", "1", "--dpi", "40"]
    if script == "train":
        return ["--resume", "--run", "a", "-q"] if resumes else [*usual("train"), "--head", "a"]
    if script == "compare":
        return rng.choice([["a", "b"], ["b", "a"]])
    return [*usual(script), "--run", "a"]


def odd_cache(script: str, folder: Path, rng: random.Random) -> Words:
    """Damages a file of the feature cache, or the stored checks of images."""
    files = [path for path in (folder / "data/cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    scans = folder / "data/cache/scans.json"
    file = rng.choice([scans, *files])
    if rng.random() < 0.2:
        file.unlink()
        rng.choice([file.mkdir, lambda: file.symlink_to(file)])()
    elif file == scans:
        spoil_text(file, rng)
    else:
        file.write_bytes(mutate(file.read_bytes(), rng))
    return usual(script)


KINDS: dict[str, tuple[Callable[..., Words], tuple[str, ...]]] = {
    "options": (odd_options, SCRIPTS),
    "dataset": (odd_dataset, ("train", "prepare_data")),
    "image": (odd_image, ("predict5", "visualize_activations", "visualize_single_example")),
    "run": (odd_run, tuple(name for name in SCRIPTS if name != "prepare_data")),
    "cache": (odd_cache, ("train", "predict5", "prepare_data", "explore")),
}  # fmt: skip


def make_case(base: Path, folder: Path, script: str, kind: str, seed: int, arguments: dict[str, type]) -> Words:
    """Fills `folder` with a copy of the trained run in `base` and a bad input; returns the script's arguments."""
    rng = random.Random(f"{script} {kind} {seed}")
    shutil.copytree(base, folder, copy_function=link_large)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "huge.png").write_bytes((folder / "good.png").read_bytes())
    os.truncate(folder / "huge.png", 2**36)
    blob(1).save(folder / "locked.png")
    (folder / "locked.png").chmod(0)
    make = KINDS[kind][0]
    return make(script, folder, rng, arguments) if kind == "options" else make(script, folder, rng)


def link_large(source: str, target: str) -> None:
    """Copies a file; links one that scripts only replace."""
    if Path(source).stat().st_size > 10**6 and source.endswith(".pt"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
