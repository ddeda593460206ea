"""Whether what applications send still looks like what the model was judged on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backend.arrays import Floats

MIN_SHIFT_INDEX = 0.25
"""Population stability index from which a mix counts as another one (the usual line)."""
REFERENCE_OUTLIER_SHARE = 0.05
"""Share of images that is unlike all others by definition."""
MIN_OUTLIER_SHARE = 0.15
"""Share of them from which production counts as another place."""
MIN_DRIFT_ANSWERS = 50
"""Answers below which nothing is told."""


def population_stability_index(
    reference_counts: Mapping[str, float], production_counts: Mapping[str, float]
) -> float:
    """Population stability index of two mixes: Σ (q − p) · ln (q / p) over the labels.

    Half a count is added to each label, so that one that was never seen tells a finite number.

    Args:
        reference_counts: label → how often, of the audit slice.
        production_counts: the same, of production.

    Example:
        >>> population_stability_index({"a": 50, "b": 50}, {"a": 50, "b": 50})
        0.0
        >>> round(population_stability_index({"a": 50, "b": 50}, {"a": 90, "b": 10}), 2)
        0.86
    """
    labels = sorted(reference_counts.keys() | production_counts.keys())
    if not labels:
        return 0.0
    reference_shares = np.array([reference_counts.get(label, 0.0) for label in labels]) + 0.5
    production_shares = np.array([production_counts.get(label, 0.0) for label in labels]) + 0.5
    reference_shares, production_shares = (
        reference_shares / reference_shares.sum(),
        production_shares / production_shares.sum(),
    )
    return float(
        (
            (production_shares - reference_shares) * np.log(production_shares / reference_shares)
        ).sum()
    )


def outlier_distance(vectors: Floats) -> float:
    """The cosine distance to the nearest other that 95 of 100 images stay below.

    Args:
        vectors: (n, d) float32 of unit length, n at least 2.
    """
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    return float(np.quantile(1 - cosines.max(axis=1), 1 - REFERENCE_OUTLIER_SHARE))


def is_outlier(vector: Floats, vectors: Floats, distance: float) -> bool:
    """Whether an image is farther from all others than is usual among them.

    Args:
        vector: (d,) of unit length.
        vectors: (n, d), of the audit slice.
        distance: see :func:`outlier_distance`.
    """
    return float(1 - (vectors @ vector).max()) > distance
