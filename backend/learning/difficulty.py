"""How much a finder of boxes or points would learn from an image, by what it finds there.

After PPAL (Yang et al. 2024, arXiv 2211.11612): the entropies of an image's least decided finds,
each times how hard its label is. What comes out are the weights of :mod:`backend.learning.coverage`
where the answer is places: so one policy orders images of every kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MOST = 10
"""Finds of an image that count: a crowd must not outweigh everything else."""
FLOOR = 0.05
"""Confidence below which a find is none: a network has hundreds of them in any image."""
DOUBT = 10.0
"""Objects that nobody found, added to each label: a label of few examples is hard."""
UNSEEN = 0.1
"""Share of images without any find among those that count: nobody knows what is missed there."""


def find_entropy(confidence: npt.ArrayLike) -> Floats:
    """How undecided each find is: −p log₂ p − (1 − p) log₂ (1 − p), in bits.

    Args:
        confidence: (n,) 0 to 1.

    Returns:
        (n,) 0 (certainly there, or certainly not) to 1.

    Example:
        >>> find_entropy([0.5, 1.0, 0.0]).tolist()
        [1.0, 0.0, 0.0]
    """
    p = np.asarray(confidence, dtype=np.float64)
    q = 1 - p
    terms = [v * np.log2(np.where(v > 0, v, 1.0)) for v in (p, q)]
    return np.asarray(0.0 - terms[0] - terms[1])


def label_difficulty(
    evidence: Mapping[str, tuple[Sequence[float], Sequence[bool]]],
    there: Mapping[str, int],
) -> dict[str, float]:
    """How hard each label is: 1 − mean confidence in its objects, where one not found counts 0.

    ``DOUBT`` objects that nobody found are added to each label, so that one with hardly an example
    counts as hard.

    Args:
        evidence: by label, the confidence of its finds, and whether each is an object.
        there: by label, objects in the same images; every label is named.

    Returns:
        by label, 0 (easy) to 1.

    Example:
        >>> label_difficulty({"ripe": ([0.9] * 90, [True] * 90)}, {"ripe": 90, "green": 0})
        {'ripe': 0.19, 'green': 1.0}
    """
    difficulty = {}
    for label, objects in there.items():
        confidence, right = evidence.get(label, ((), ()))
        known = sum(c for c, r in zip(confidence, right, strict=True) if r)
        difficulty[label] = round(1 - known / (objects + DOUBT), 4)
    return difficulty


def image_difficulty(
    labels: Sequence[str], confidence: npt.ArrayLike, difficulty: Mapping[str, float]
) -> float:
    """What labeling an image would teach a finder, by its finds there.

    It grows with every find that is less decided, or whose label is harder, up to ``MOST`` of them.

    Args:
        labels: of everything found, shown or not.
        confidence: belief in each, 0 to 1.
        difficulty: by label, 0 to 1; a label that is not named counts as hard, 1.

    Returns:
        0 to 1; 0 where nothing is found.

    Example:
        >>> image_difficulty(["ripe", "green"], [0.5, 0.5], {"ripe": 0.2, "green": 1.0})
        0.12
    """
    belief = np.asarray(confidence, dtype=np.float64)
    hard = np.array([difficulty.get(label, 1.0) for label in labels], dtype=np.float64)
    entropies = np.where(belief >= FLOOR, hard * find_entropy(belief), 0.0)
    return float(np.sort(entropies)[-MOST:].sum()) / MOST


def image_weights(difficulties: npt.ArrayLike, alone: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """What each image counts in the coverage of all open ones.

    Where nothing is found nobody knows what is missed. Of these images a few, always the same,
    count like one with finds, so that they are ``UNSEEN`` of all that count; the others do not.

    Args:
        difficulties: (n,) of open images, 0 to 1; 0 where nothing is found.
        alone: (n,) a number of the image's own, even from 0 to 1, such as its hash.

    Returns:
        (n,) float32, 0 to 1; those with finds as they were. Without any find all count alike, 1.

    Example:
        >>> image_weights([0.5, 0.25, 0.0, 0.0], [0.5, 0.5, 0.0, 0.9])
        array([0.5 , 0.25, 0.25, 0.  ], dtype=float32)
    """
    weights = np.array(difficulties, dtype=np.float64)
    number = np.asarray(alone, dtype=np.float64)
    empty = weights <= 0
    if empty.all():
        return np.ones(len(weights), dtype=np.float32)
    seen, unseen = int((~empty).sum()), int(empty.sum())
    share = min(1.0, UNSEEN / (1 - UNSEEN) * seen / max(unseen, 1))
    rank = np.clip(number[empty] / share, 0, 1)
    like = np.quantile(weights[~empty], rank)
    weights[empty] = np.where(number[empty] < share, like, 0.0)
    return weights.astype(np.float32)
