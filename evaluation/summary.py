"""Metrics of a test as lines for the console."""

from typing import Any

from evaluation.metrics import is_uneven
from evaluation.predictions import class_lines, short_name


def print_metrics(values: dict[str, Any], what: str = "test set") -> None:
    """Prints the content of `metrics.json`."""
    over = f"{values['groups']} groups of images" if values.get("groups", 0) > 1 else "test images"
    over += "; all are of one group: too narrow" if values.get("groups") == 1 else ""
    print(f"\n{what}: {values['n']} images; in brackets, 95 % bootstrap intervals over {over}")
    calibration = values["calibration"]
    counts = [row["n"] for row in values["per_class"].values()]
    if 0 in counts:
        print(f"  {counts.count(0)} of {len(counts)} classes have no image here; the figures say nothing of them")
    macro = ("macro_f1", "macro_precision", "macro_recall") if is_uneven(counts) else ()
    if macro:
        ends = f"{min(filter(None, counts))} to {max(counts)}"
        print(f"  classes of {ends} images: first the macro averages, where each counts alike")
    for key in (*macro, "accuracy", "top5_accuracy", "loss", "precision", "recall", "f1"):
        low, high = values["intervals"][key]
        more = f"   macro {values[f'macro_{key}']:.4f}" if f"macro_{key}" in values and not macro else ""
        name = key
        if key == "loss":
            name, more = "calibrated loss", f"   raw {calibration['loss_uncalibrated']:.4f}"
        print(f"  {name:15s} {values[key]:.4f} ({low:.4f} to {high:.4f}){more}")
    print(
        f"  ECE             {calibration['ece']:.4f} after temperature scaling (T = "
        f"{calibration['temperature']:.2f}), {calibration['ece_uncalibrated']:.4f} before"
    )
    for row in values["coverage"][1:]:
        share = f"{row['coverage']:.0%} of the images"
        print(f"  p ≥ {row['threshold']:<4.0%}        {row['accuracy']:.4f} accuracy on {share}")
    for kind, row in values.get("copies", {}).items():
        print(f"  {kind}: accuracy {row['accuracy']:.4f} on {row['n']} images")
    for pair in values["confused_pairs"][:3]:
        print(f"  {' / '.join(map(short_name, pair['classes']))}: {sum(pair['n'])} of {pair['of']} confused")
    print(f"  {values['label_issues']} suspected label errors")
    print("", *class_lines(values["per_class"]), sep="\n")
    print()
