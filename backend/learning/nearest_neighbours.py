"""Which images look like some others, and which like a label that nobody has given yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Floats, Indices

SEARCH_BLOCK_ROWS = 65_536


def find_nearest(
    vectors: Floats, queries: Floats, count: int, excluded: Sequence[int] = ()
) -> tuple[Indices, Floats]:
    """The most similar rows for each query, exactly; memory for BLOCK rows by query at a time.

    Args:
        vectors: (n, d) float32 of unit length.
        queries: (m, d) float32 of unit length.
        count: how many; fewer where there are fewer rows.
        excluded: rows that are not wanted, such as the queries' own.

    Returns:
        (m, count) rows, best first, and (m, count) float32 cosines.

    Example:
        >>> rows, cosine = find_nearest(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1], 2)
        >>> rows.tolist(), cosine.tolist()
        ([[0, 1]], [[1.0, 0.0]])
    """
    is_included = np.ones(len(vectors), dtype=bool)
    is_included[list(excluded)] = False
    rows = np.zeros((len(queries), 0), dtype=np.intp)
    cosine = np.zeros((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), SEARCH_BLOCK_ROWS):
        included_rows = np.flatnonzero(is_included[start : start + SEARCH_BLOCK_ROWS])
        if len(included_rows):
            block_cosine = queries @ vectors[start : start + SEARCH_BLOCK_ROWS].T
            block_rows = np.repeat(start + included_rows[None], len(queries), axis=0)
            rows, cosine = _top_columns(
                np.concatenate([rows, block_rows], axis=1),
                np.concatenate([cosine, block_cosine[:, included_rows]], axis=1),
                count,
            )
    order = np.lexsort((rows, -cosine), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosine, order, axis=1)


def rank_by_label_text(
    vectors: Floats, prototypes: Floats, missing_labels: Sequence[int]
) -> list[int]:
    """The rows that are most likely to show labels nobody has given yet, label by label in turn.

    A row speaks for a label by its cosine with the label's text less the highest with another
    label's, each less its mean over the rows: all images lie in one cone that is nearer to some
    texts than to others, and such a text would else be the rival of every label.

    Args:
        vectors: (n, d) float32 of unit length.
        prototypes: (K, d) float32 text embeddings of all labels.
        missing_labels: indices of labels without an example.

    Returns:
        all rows once, best first; none where no label is wanted.

    Example:
        >>> rank_by_label_text(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), missing_labels=[2])[0]
        2
    """
    cosine = vectors @ prototypes.T
    cosine -= cosine.mean(axis=0)
    rows_by_label = []
    for label in missing_labels:
        rival_cosine = np.delete(cosine, label, axis=1).max(axis=1, initial=-2.0)
        rows_by_label.append(np.argsort(rival_cosine - cosine[:, label], kind="stable").tolist())
    interleaved_rows = (row for rows in zip(*rows_by_label, strict=True) for row in rows)
    return list(dict.fromkeys(interleaved_rows))


def _top_columns(rows: Indices, cosine: Floats, count: int) -> tuple[Indices, Floats]:
    """The ``count`` highest of each line, in any order."""
    if cosine.shape[1] <= count:
        return rows, cosine
    top = np.argpartition(-cosine, count - 1, axis=1)[:, :count] if count else rows[:, :0]
    return np.take_along_axis(rows, top, axis=1), np.take_along_axis(cosine, top, axis=1)
