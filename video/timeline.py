"""Class probabilities over time: smoothing, segments of one prediction, and tables of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.files import write_csv, write_json

UNSURE = "not sure"


class Smoother:
    """Exponential moving average of probabilities (K,) at irregular times, of past frames alone.

    A frame's weight falls by e in `constant` seconds (Eckner, "Algorithms for Unevenly Spaced Time Series: Moving
    Averages and Other Rolling Operators"; a value stands for the time since the one before). 0: no smoothing.
    """

    def __init__(self, constant: float) -> None:
        self.constant, self.value, self.seconds = constant, None, 0.0

    def __call__(self, seconds: float, probabilities: Tensor) -> Tensor:
        if self.value is None or self.constant == 0:
            self.value = probabilities
        else:
            keep = math.exp(-(seconds - self.seconds) / self.constant)
            self.value = keep * self.value + (1 - keep) * probabilities
        self.seconds = seconds
        return self.value


@dataclass
class Timeline:
    """Predictions of frames in the order of time.

    Attributes:
        threshold: highest smoothed probability below which a frame is "not sure".
        times: seconds, N of them.
        raw, smoothed: N probability vectors (K,).
    """

    classes: Sequence[str]
    threshold: float
    times: list[float]
    raw: list[Tensor]
    smoothed: list[Tensor]

    def add(self, seconds: float, raw: Tensor, smoothed: Tensor) -> None:
        self.times.append(seconds)
        self.raw.append(raw)
        self.smoothed.append(smoothed)

    def cut(self, count: int) -> None:
        """Keeps the first frames alone."""
        for values in (self.times, self.raw, self.smoothed):
            del values[count:]

    def label(self, index: int) -> str:
        """The prediction for a frame, or `UNSURE`."""
        value, target = self.smoothed[index].max(0)
        return self.classes[target] if value.item() >= self.threshold else UNSURE

    def segments(self) -> list[dict[str, Any]]:
        """Times in which the prediction stays the same: `start` and `end` in seconds, `label`, mean `probability`."""
        found: list[dict[str, Any]] = []
        for index, seconds in enumerate(self.times):
            label = self.label(index)
            if found and found[-1]["label"] == label:
                found[-1]["frames"].append(index)
            else:
                found.append({"start": seconds, "label": label, "frames": [index]})
        ends = [segment["start"] for segment in found[1:]] + self.times[-1:]
        return [
            {
                "start": round(segment["start"], 3),
                "end": round(end, 3),
                "label": segment["label"],
                "probability": round(self.highest(segment["frames"]), 4),
                "frames": len(segment["frames"]),
            }
            for segment, end in zip(found, ends, strict=True)
        ]

    def highest(self, frames: Sequence[int]) -> float:
        """Mean over frames of the highest smoothed probability."""
        return torch.stack([self.smoothed[index].max() for index in frames]).mean().item()

    def write(self, folder: Path, about: dict[str, Any]) -> None:
        """Writes timeline.csv, a row per frame, and timeline.json, settings and segments."""
        rows = []
        for index, seconds in enumerate(self.times):
            value, target = self.smoothed[index].max(0)
            sure = value.item() >= self.threshold
            shares = [round(share, 6) for part in (self.smoothed, self.raw) for share in part[index].tolist()]
            rows.append((round(seconds, 4), self.classes[target], round(value.item(), 6), sure, *shares))
        kinds = [f"{kind}: {name}" for kind in ("smoothed", "raw") for name in self.classes]
        write_csv(folder / "timeline.csv", rows, ("seconds", "predicted", "probability", "sure", *kinds))
        mean = torch.stack(self.raw).mean(0)
        shares = {name: round(value, 6) for name, value in zip(self.classes, mean.tolist(), strict=True)}
        write_json(
            folder / "timeline.json",
            about | {"frames": len(self.times), "segments": self.segments(), "mean_probabilities": shares},
        )
