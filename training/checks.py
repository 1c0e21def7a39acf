"""Checks what a checkpoint says about its run, before scripts rely on it; reads records of older versions."""

import math
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from training.options import MAX_IMAGE_SIZE, RENAMED, Args

PREPROCESSING_VERSION = 1  # raise it when `dataset.EvalTransform` gives other pixels
RECORD = {  # types of the values that every record holds
    "dataset": str, "data": str | None, "classes": list, "weights": str, "weights_sha256": str, "image_size": int,
    "preprocessing": dict, "split": dict, "seed": int, "recipe": dict, "arguments": dict, "device": str,
    "precision": str, "versions": dict, "epoch": int, "val": dict, "seconds": dict,
}  # fmt: skip
NUMBERS = {"split": ("train", "val", "test"), "val": ("accuracy", "loss")}  # values of parts that scripts print
STORED = {"data": str | None, "cache": str, "results": str}  # paths, which a record holds as text

SplitDigests = dict[str, dict[str, str]]  # by part, file names and the SHA-256 of the files


def check_record(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the keys of this version (`upgrade`).

    Raises: ValueError naming what is missing or of another type than scripts expect; where the record is no
        dictionary, what Python raises.
    """
    record = upgrade(record)
    for name, kind in RECORD.items():
        require(name in record and fits(record[name], kind), name)
    classes = record["classes"]
    require(len(classes) > 1 and all(isinstance(name, str) for name in classes), "classes")
    require(len({*classes}) == len(classes), "classes")
    temperature = record.get("temperature", 1.0)
    require(fits(temperature, float) and 0 < temperature < math.inf, "temperature")
    require(0 < record["image_size"] <= MAX_IMAGE_SIZE, "image_size")
    for part, keys in NUMBERS.items():
        for key in keys:
            require(fits(record[part].get(key), float), f"{part} {key}")
    check_arguments(record["arguments"])
    return record


def check_arguments(stored: dict[str, Any]) -> None:
    """Raises ValueError where arguments that a run stored are not of the types of the options."""
    kinds = get_type_hints(Args) | STORED
    for name, value in stored.items():
        option = RENAMED.get(name, name)
        require(option not in kinds or fits(value, kinds[option]), f"argument {name}")


def check_history(rows: list[dict[str, Any]]) -> None:
    """Raises ValueError where rows of `metrics.jsonl` lack numbers that curves and tables show."""
    for number, row in enumerate(rows, 1):
        good = isinstance(row, dict) and row.get("epoch") == number
        parts = [row.get("train"), row.get("val")] if good else []
        require(good and all(isinstance(part, dict) for part in parts), f"row {number}")
        values = [row.get(name) for name in ("lr", "calibrated", "temperature")]
        values += [row.get("seconds", 0.0)]  # of a checkpoint; metrics.jsonl has none
        values += [part.get(name) for part in parts for name in ("loss", "accuracy", "precision", "recall", "f1")]
        require(all(fits(value, float) for value in values), f"row {number}")


def require(is_good: bool, name: str) -> None:
    if not is_good:
        raise ValueError(f"{name} is missing or wrong")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of an option; a whole number is a float, too."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, UnionType):
        return any(fits(value, part) for part in get_args(kind))
    if kind is NoneType:
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def check_split(split: SplitDigests) -> SplitDigests:
    """The split of a checkpoint. Raises: ValueError, KeyError or AttributeError where it is none."""
    for part in ("train", "val", "test"):
        digests = split[part]
        if not digests or not all(
            isinstance(name, str) and isinstance(digest, str) for name, digest in digests.items()
        ):
            raise ValueError(f"part {part!r} of the split is damaged")
    return split


def check_tensors(state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raises ValueError where a state dict holds tensors of other types than the network's own, or infinite ones."""
    for name, value in state.items():
        if name in own and value.dtype != own[name].dtype:
            raise ValueError(f"{name} is of type {value.dtype}, not {own[name].dtype}")
        if value.numel() and not all(map(math.isfinite, value.aminmax())):  # NaN passes through; 10 times .isfinite()
            raise ValueError(f"{name} holds values that are not finite")


def upgrade(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the keys of this version, from one that an older version may have written."""
    known = dict(record.get("preprocessing") or {})
    if "version" not in known:
        sentence = f"the middle square to {record['image_size']}, bilinear, antialiased"  # of the same pixels
        known["version"] = PREPROCESSING_VERSION if known.get("resize") == sentence else 0
    record = record | {"preprocessing": known}
    if "directions" in record:
        record["projection"] = record.pop("directions")
    for part in ("recipe", "arguments"):
        if part in record:
            record[part] = {RENAMED.get(name, name): value for name, value in record[part].items()}
    return record
