"""Summary of a run's images: counts per class and part, duplicates, sizes."""

from collections import Counter
from typing import Any

from splits.scan import known_scans, sizes
from training.trained_run import TrainedRun

PARTS = {"train": "training", "val": "validation", "test": "test"}


def summarise_data(run: TrainedRun) -> dict[str, Any]:
    """Counts of images and their sizes.

    Returns: `classes`, by name the number of images in each of PARTS; `parts`, the sum of each; `left_out`, duplicates
        that belong to no part; `sizes`, as of `splits.scan.sizes`, and `scanned`, of how many images they are.
    """
    samples = {sample.name: sample for sample in run.dataset.labelled}
    counts = {part: Counter(samples[name].label for name in run.split[part] if name in samples) for part in PARTS}
    paths = [samples[name].path for part in PARTS for name in run.split[part] if name in samples]
    scans = known_scans(paths, run.cache / "scans.json")
    return {
        "classes": {name: [counts[part][name] for part in PARTS] for name in run.classes},
        "parts": [len(run.split[part]) for part in PARTS],
        "left_out": len(run.split.get("left_out", ())),
        "sizes": sizes(scans),
        "scanned": len(scans),
    }
