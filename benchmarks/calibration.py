"""Simulates temperature scaling with few validation images, for networks whose best temperature is known.

    python -m benchmarks.calibration

Prints a Markdown table, for each number of validation images the mean test loss over networks of T = 1, of three fits
and of the best T. In brackets: test loss above that of T = 1 for the network where this difference is largest.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from evaluation.calibration import fit_temperature
from runtime.console import parse_arguments, run_script
from runtime.options import require_range

SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)  # validation images
CLASSES = (3, 15)
LABELS = ((0.6, 0), (0.8, 0), (0.97, 0), (1, 0), (1, 0.04))  # accuracy, and the share of labels replaced at random
SCALES = {"over-confident": 2.5, "calibrated": 1.0, "under-confident": 1 / 2.5}  # of the logits
POOL = 10_000  # images to draw validation sets from, and as many for the test
GRID = np.linspace(-3, 3, 241)  # of log T, at which the test loss is tabulated


@dataclass
class Args:
    repeats: int = 100
    """Validation sets drawn for each network and size."""
    seed: int = 0


def main(args: Args) -> None:
    require_range("repeats", args.repeats, 1)
    rules = {"no prior": without_prior, "Platt's targets": platt, "`fit_temperature`": fit_temperature}
    print("| validation images | T = 1 | " + " | ".join(rules) + " | best T |\n" + "|---" * 6 + "|")
    rng = np.random.default_rng(args.seed)
    networks = [
        simulate(classes, *labels, scale, np.random.default_rng((args.seed, number)))
        for number, (classes, labels, scale) in enumerate(product(CLASSES, LABELS, SCALES.values()))
    ]
    curves = [test_losses(*network) for network in networks]
    for size in SIZES:
        fitted = np.zeros((len(rules), len(networks)))  # mean test loss
        for number, ((logits, targets), curve) in enumerate(zip(networks, curves, strict=True)):
            for _ in range(args.repeats):
                chosen = rng.choice(POOL, size, replace=False)
                found = [np.log(rule(logits[chosen], targets[chosen])) for rule in rules.values()]
                fitted[:, number] += np.interp(found, GRID, curve) / args.repeats
        raw = np.array([np.interp(0, GRID, curve) for curve in curves])
        cells = [f"{loss.mean():.3f} ({(loss - raw).max():+.3f})" for loss in fitted]
        best = np.mean([min(curve) for curve in curves])
        print(f"| {size} | {raw.mean():.3f} | " + " | ".join(cells) + f" | {best:.3f} |", flush=True)


def simulate(
    classes: int, accuracy: float, replaced: float, scale: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Logits (2 POOL, classes) of a network whose calibrated logits are multiplied by `scale`, and labels (2 POOL,).

    Where the accuracy is 1, labels are the predictions, before the share `replaced` of them becomes random.
    """
    logits = torch.from_numpy(rng.normal(size=(2 * POOL, classes)))
    if accuracy == 1:
        others = torch.from_numpy(rng.integers(0, classes, len(logits)))
        return 3 * scale * logits, torch.where(
            torch.arange(len(logits)) % 100 < 100 * replaced, others, logits.argmax(1)
        )
    low, high = 0.01, 100.0
    for _ in range(40):  # bisection: the mean confidence of a calibrated network is its accuracy
        middle = (low * high) ** 0.5
        confidence = (middle * logits).softmax(1).max(1).values.mean()
        low, high = (middle, high) if confidence < accuracy else (low, middle)
    logits = low * logits
    return scale * logits, logits.softmax(1).multinomial(1, generator=torch.Generator().manual_seed(0))[:, 0]


def test_losses(logits: Tensor, targets: Tensor) -> list[float]:
    """Cross-entropy of the second half of the images at each temperature of GRID."""
    return [cross_entropy(logits[POOL:] / np.exp(power), targets[POOL:]).item() for power in GRID]


def without_prior(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> float:
    """Maximum likelihood (Guo et al. 2017)."""
    found = minimize_scalar(
        lambda power: cross_entropy(logits / np.exp(power), targets, label_smoothing=smoothing).item(),
        bounds=(-3, 3),
        method="bounded",
    )
    return float(np.exp(found.x))


def platt(logits: Tensor, targets: Tensor) -> float:
    """Maximum likelihood of targets smoothed as in Platt 1999."""
    return without_prior(logits, targets, 1 / (len(targets) + 2))


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
