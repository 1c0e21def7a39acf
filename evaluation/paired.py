"""Compares two networks on the same test images: McNemar's exact test, paired bootstrap of the accuracy difference."""

from typing import Any

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


def compare_paired(first: np.ndarray, second: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """How the second network differs from the first.

    Args:
        first, second: (N,) bool, whether each image is predicted rightly.

    Returns: `n`; `both`, `only_first`, `only_second`, `neither`: images that they predict rightly; `difference` of the
        accuracies, second minus first, and its 95 % `interval`; `p_value` of McNemar's exact test.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    counts = {
        "n": len(first), "both": int((first & second).sum()), "only_first": only_first, "only_second": only_second,
        "neither": int((~first & ~second).sum()),
    }  # fmt: skip
    return counts | {
        "difference": (only_second - only_first) / len(first),
        "interval": bootstrap_difference(only_first, only_second, len(first), seed),
        "p_value": mcnemar(only_first, only_second),
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947; binomial with p = 1/2); 1 where nothing differs."""
    from scipy.stats import binomtest  # takes half a second

    total = only_first + only_second
    return float(binomtest(only_first, total, 0.5).pvalue) if total else 1.0


def bootstrap_difference(only_first: int, only_second: int, images: int, seed: int = 0) -> list[float]:
    """95 % interval of the accuracy difference: percentiles over 10,000 resamples of the images, both networks at once.

    An image adds 1, -1 or 0, so that resampling images is drawing these three counts from a multinomial distribution.
    """
    shares = np.array([only_second, only_first, images - only_first - only_second]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=RESAMPLES)
    values = (drawn[:, 0] - drawn[:, 1]) / images
    return np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL))).tolist()
