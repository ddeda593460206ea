"""What a head says of labeled images that it did not see: by cross-validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from backend.vision.calibration import folds
from backend.vision.head import Floats, Head, fit_head
from backend.vision.logistic import NEVER

FOLDS = 5
TWIN = 0.98
"""Cosine of centred embeddings above which an image is a copy: a wrong label would be confirmed
by it, were it learned from."""
BLOCK = 1024


def out_of_fold(
    head: Head,
    embeddings: Floats,
    targets: Floats,
    *,
    anchors: Floats | None = None,
    pool: Floats | None = None,
    logit_scale: float = 1.0,
    logit_bias: float = 0.0,
    seed: int = 0,
) -> Floats:
    """Confidence for every row, by a head that saw neither the row nor a copy of it.

    Args:
        head: fitted to all rows; its ridge and temperature are kept, its weights are not used.
        embeddings: (n, d) float32 of unit length.
        targets: (n, K) float32 as :func:`backend.vision.head.fit_head` takes them.
        anchors: as the head was fitted with.
        pool: as the head was fitted with.
        logit_scale: as the head was fitted with.
        logit_bias: as the head was fitted with.
        seed: of the folds.

    Returns:
        (n, K) float32, 0 to 1, in the order of the head's labels. A label that no other fold has
        is 0 without text.
    """
    blank = replace(head, bias=np.full_like(head.bias, NEVER))
    fold = _folds(embeddings, targets, np.random.default_rng(seed))
    found = np.zeros(targets.shape, dtype=np.float32)
    for number in np.unique(fold):
        held = fold == number
        part = fit_head(
            embeddings[~held],
            targets[~held],
            labels=head.labels,
            multiple=head.multiple,
            anchors=anchors,
            pool=embeddings if pool is None else pool,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            previous=blank,
            seed=seed,
        )
        found[held] = part.probabilities(embeddings[held])
    return found


def _folds(embeddings: Floats, targets: Floats, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """The fold of each row; copies share the one of the first of them."""
    first = _first_copies(embeddings)
    leaders = np.unique(first)
    dealt = np.zeros(len(embeddings), dtype=np.intp)
    dealt[leaders] = folds(targets[leaders], min(FOLDS, max(1, len(leaders))), rng)
    return np.asarray(dealt[first], dtype=np.intp)


def _first_copies(embeddings: Floats) -> npt.NDArray[np.intp]:
    """By row, the first row that it is a copy of; itself when it is none."""
    moved = embeddings - embeddings.mean(axis=0)
    moved = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-6)
    first = np.arange(len(moved))
    for start in range(0, len(moved), BLOCK):
        rows = moved[start : start + BLOCK]
        alike = rows @ moved[: start + len(rows)].T > TWIN
        at = np.arange(start, start + len(rows))
        alike[np.arange(len(rows)), at] = True
        first[at] = alike.argmax(axis=1)
    return np.asarray(first[first], dtype=np.intp)
