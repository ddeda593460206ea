"""Which images look like some others, and which like a label that nobody has given yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
BLOCK = 65_536


def nearest(vectors: Floats, queries: Floats, count: int) -> tuple[Rows, Floats]:
    """The most similar rows for each query, exactly, in blocks.

    Args:
        vectors: (n, d) float32 of unit length.
        queries: (m, d) float32 of unit length.
        count: how many; fewer where there are fewer rows.

    Returns:
        (m, count) rows, best first, and (m, count) float32 cosines.

    Example:
        >>> rows, cosine = nearest(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1], 2)
        >>> rows.tolist(), cosine.tolist()
        ([[0, 1]], [[1.0, 0.0]])
    """
    parts = [vectors[start : start + BLOCK] @ queries.T for start in range(0, len(vectors), BLOCK)]
    cosine = np.concatenate(parts).T if parts else np.zeros((len(queries), 0), dtype=np.float32)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosine, order, axis=1)


def looked_for(vectors: Floats, prototypes: Floats, wanted: Sequence[int]) -> list[int]:
    """The rows that are most likely to show labels nobody has given yet, label by label in turn.

    A row speaks for a label by its cosine with the label's text less the highest with another
    label's: all images lie in one cone that is nearer to some texts than to others.

    Args:
        vectors: (n, d) float32 of unit length.
        prototypes: (K, d) float32 text embeddings of all labels, K ≥ 2.
        wanted: indices of labels without an example.

    Returns:
        all rows once, best first.

    Example:
        >>> looked_for(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), wanted=[2])[0]
        2
    """
    cosine = vectors @ prototypes.T
    orders = []
    for label in wanted:
        others = np.delete(cosine, label, axis=1).max(axis=1)
        orders.append(np.argsort(others - cosine[:, label], kind="stable").tolist())
    turns = (row for rows in zip(*orders, strict=True) for row in rows)
    return list(dict.fromkeys(turns))
