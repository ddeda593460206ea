"""Which task to label next: least certain first, the audit slice mixed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from backend.learning.audit import hash_rank, interleave, is_audit

Floats = npt.NDArray[np.float32]


def uncertainty(probabilities: Floats, multiple: bool) -> Floats:
    """How unsure a model is of its answer to one control.

    Args:
        probabilities: (n, K) float32, 0 to 1; rows sum to 1 unless ``multiple``.
        multiple: several labels may be right at once.

    Returns:
        (n,) float32, 0 (certain) to 1. For one of many 1 − (best − second best), the margin; for
        several of many how undecided the least decided label is, 1 − min |2p − 1|.

    Example:
        >>> uncertainty(np.array([[0.5, 0.5], [1.0, 0.0]], dtype=np.float32), multiple=False)
        array([1., 0.], dtype=float32)
    """
    if multiple:
        return np.asarray(1 - np.abs(2 * probabilities - 1).min(axis=1), dtype=np.float32)
    best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(1 - (best[:, 1] - best[:, 0]), dtype=np.float32)


def place_uncertainty(beliefs: Sequence[float], alone: float) -> float:
    """How much a detector would learn from an image.

    The sum of the ten largest entropies of its finds (after PPAL, arXiv 2211.11612), brought to 0
    to 1 by x / (1 + x). Where nothing is found nobody knows: such images take any place in the
    less uncertain half, so that a steady share of them is looked through.

    Args:
        beliefs: confidence of everything found, shown or not, 0 to 1.
        alone: a number of the image's own, 0 to 1, that places it where nothing is found.

    Example:
        >>> round(place_uncertainty([0.5, 0.99], alone=0.0), 2)
        0.52
    """
    p = np.clip(np.asarray(beliefs, dtype=np.float64), 1e-6, 1 - 1e-6)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    whole = float(np.sort(bits)[-10:].sum())
    return max(whole / (1 + whole), alone / 2 if not len(p) else 0.0)


def scores(
    project: str,
    unsure: Mapping[int, float],
    unknown: Sequence[int],
    labeled: int,
    audit_labeled: int,
) -> dict[int, float]:
    """The number that Label Studio sorts open tasks by, ascending.

    Args:
        project: its identity, see :func:`backend.learning.audit.is_audit`.
        unsure: by open task, the uncertainty of its prediction, 0 to 1.
        unknown: open tasks without a prediction (unreadable images); they come last.
        labeled: tasks labeled so far, the audit ones among them.
        audit_labeled: audit tasks labeled so far.

    Returns:
        by task, 0 (ask first) to 1. A ranked task has 1 − uncertainty; an audit task the number
        between its neighbours; so a task that arrives later finds its place among the others.
    """
    audit = sorted((t for t in unsure if is_audit(project, t)), key=lambda t: hash_rank(project, t))
    slice_ = frozenset(audit)
    ranked = sorted(
        (t for t in unsure if t not in slice_), key=lambda t: (-unsure[t], hash_rank(project, t))
    )
    order = interleave(ranked, audit, labeled, audit_labeled)
    own = [None if t in slice_ else 1 - unsure[t] for t in order]
    return dict(zip(order, between(own), strict=True)) | dict.fromkeys(unknown, 1.0)


def between(values: Sequence[float | None]) -> list[float]:
    """Fill the gaps of an ascending list so that it stays ascending.

    Args:
        values: ascending where they are not None; at the start 0 and at the end 1 are assumed.

    Returns:
        the same with every gap evenly filled.

    Example:
        >>> between([0.2, None, 0.4, None])
        [0.2, 0.3, 0.4, 0.7]
    """
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    at = [-1, *(i for i, _ in known), len(values)]
    height = [0.0, *(v for _, v in known), 1.0]
    return [round(float(v), 6) for v in np.interp(range(len(values)), at, height)]
