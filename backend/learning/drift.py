"""Drift between production images and the audit set, in labels and in embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backend.arrays import Floats

MIN_SHIFT_INDEX = 0.25
"""Population stability index above which label shares count as shifted (the usual limit)."""
REFERENCE_OUTLIER_SHARE = 0.05
"""Share of the audit set that is defined as outliers."""
MIN_OUTLIER_SHARE = 0.15
"""Share of outliers in production above which an alert is raised."""
MIN_DRIFT_ANSWERS = 50
"""Minimum number of predictions for a drift alert."""


def population_stability_index(
    reference_counts: Mapping[str, float], production_counts: Mapping[str, float]
) -> float:
    """Return the population stability index Σ (q − p) · ln (q / p) of two label distributions.

    A pseudo-count of 0.5 is added to each label, so that the index is finite for unseen labels.

    Args:
        reference_counts: label → count in the audit set.
        production_counts: label → count in production.

    Example:
        >>> population_stability_index({"a": 50, "b": 50}, {"a": 50, "b": 50})
        0.0
        >>> round(population_stability_index({"a": 50, "b": 50}, {"a": 90, "b": 10}), 2)
        0.85
    """
    labels = sorted(reference_counts.keys() | production_counts.keys())
    if not labels:
        return 0.0
    p, q = (
        np.array([counts.get(label, 0.0) + 0.5 for label in labels])
        for counts in (reference_counts, production_counts)
    )
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def outlier_distance(vectors: Floats) -> float:
    """Return the 95 % quantile of the cosine distance to the nearest other image.

    Args:
        vectors: (n, d) float32 of unit length, n at least 2.
    """
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    return float(np.quantile(1 - cosines.max(axis=1), 1 - REFERENCE_OUTLIER_SHARE))


def is_outlier(vector: Floats, vectors: Floats, distance: float) -> bool:
    """Return whether the distance to the nearest reference image exceeds the outlier distance.

    Args:
        vector: (d,) float32 of unit length.
        vectors: (n, d) float32 of unit length, of the audit set.
        distance: result of :func:`outlier_distance` for ``vectors``.
    """
    return float(1 - (vectors @ vector).max()) > distance
