"""Statistics of a data set as LeRobot keeps them: for each episode, and of all of them.

Formulae: count-weighted mean of means; parallel variance (Chan, Golub, LeVeque 1983); quantiles of the whole as the
count-weighted mean of the episodes' quantiles, which is what LeRobot does, too, and an approximation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_FRAMES = 100
_WIDE_PX, _NARROW_PX = 300, 150

Stats = dict[str, np.ndarray]


def of_numbers(values: np.ndarray) -> Stats:
    """Statistics of (T, size) numbers: arrays of (size,), and ``count`` of (1,)."""
    values = values.astype(np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def of_pictures(images: np.ndarray) -> Stats:
    """Statistics of the colours of (T, H, W, 3) uint8 pictures, 0 to 1: arrays of (3, 1, 1), ``count`` of (1,).

    Of long episodes a hundred frames are looked at, of large pictures a part of the pixels; so does LeRobot.
    """
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), _FRAMES)).astype(int))
    widest = max(images.shape[1:3])
    step = max(1, widest // _NARROW_PX) if widest >= _WIDE_PX else 1
    seen = images[rows, ::step, ::step]
    levels = np.arange(256) / 255.0
    stats: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *QUANTILES)}
    for channel in range(3):
        counts = np.bincount(seen[..., channel].reshape(-1), minlength=256)
        share = counts / counts.sum()
        present = np.flatnonzero(counts)
        mean = float(share @ levels)
        stats["min"].append(levels[present[0]])
        stats["max"].append(levels[present[-1]])
        stats["mean"].append(mean)
        stats["std"].append(float(np.sqrt(share @ (levels - mean) ** 2)))
        cumulated = np.cumsum(share)
        for name, quantile in QUANTILES.items():
            stats[name].append(levels[min(255, int(np.searchsorted(cumulated, quantile)))])
    shaped = {name: np.array(values).reshape(3, 1, 1) for name, values in stats.items()}
    return {**shaped, "count": np.array([len(rows)])}


def joined(first: Stats, second: Mapping[str, np.ndarray]) -> Stats:
    """Statistics of both together."""
    n, m = float(first["count"][0]), float(second["count"][0])
    total = n + m
    mean = (first["mean"] * n + second["mean"] * m) / total
    variance = (
        (first["std"] ** 2 + (first["mean"] - mean) ** 2) * n
        + (second["std"] ** 2 + (second["mean"] - mean) ** 2) * m
    ) / total
    return {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": first["count"] + second["count"],
        **{name: (first[name] * n + second[name] * m) / total for name in QUANTILES},
    }
