"""Whether what applications send still looks like what the model was judged on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backend.arrays import Floats

SHIFTED = 0.25
"""Population stability index from which a mix counts as another one (the usual line)."""
USUAL = 0.05
"""Share of images that is unlike all others by definition."""
UNLIKE = 0.15
"""Share of them from which production counts as another place."""
FEWEST = 50
"""Answers below which nothing is told."""


def label_shift(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Population stability index of two mixes: Σ (q − p) · ln (q / p) over the labels.

    Half a count is added to each label, so that one that was never seen tells a finite number.

    Args:
        before: label → how often, of the audit slice.
        now: the same, of production.

    Example:
        >>> label_shift({"a": 50, "b": 50}, {"a": 50, "b": 50})
        0.0
        >>> round(label_shift({"a": 50, "b": 50}, {"a": 90, "b": 10}), 2)
        0.86
    """
    labels = sorted(before.keys() | now.keys())
    if not labels:
        return 0.0
    p = np.array([before.get(label, 0.0) for label in labels]) + 0.5
    q = np.array([now.get(label, 0.0) for label in labels]) + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def usual_distance(vectors: Floats) -> float:
    """The cosine distance to the nearest other that 95 of 100 images stay below.

    Args:
        vectors: (n, d) float32 of unit length, n at least 2.
    """
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1.0)
    return float(np.quantile(1 - likeness.max(axis=1), 1 - USUAL))


def unlike(vector: Floats, vectors: Floats, distance: float) -> bool:
    """Whether an image is farther from all others than is usual among them.

    Args:
        vector: (d,) of unit length.
        vectors: (n, d), of the audit slice.
        distance: see :func:`usual_distance`.
    """
    return float(1 - (vectors @ vector).max()) > distance
