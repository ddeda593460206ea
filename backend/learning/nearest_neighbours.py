"""Nearest-neighbour search in embeddings, by image or by the text of a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Floats, Indices

SEARCH_BLOCK_ROWS = 65_536


def find_nearest(
    vectors: Floats, queries: Floats, count: int, excluded: Sequence[int] = ()
) -> tuple[Indices, Floats]:
    """Return the rows with the highest cosine for each query; exact, in blocks of rows.

    Args:
        vectors: (n, d) float32 of unit length.
        queries: (m, d) float32 of unit length.
        count: maximum number of rows.
        excluded: rows to leave out, such as the queries themselves.

    Returns:
        (m, count) rows, best first, and (m, count) float32 cosines.

    Example:
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> rows, cosine = find_nearest(vectors, vectors[:1], 2)
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
    """Rank images by how likely they show a label without examples, alternating between labels.

    An image's score for a label is its cosine similarity to the label's text minus the highest
    similarity to another label's text. The mean similarity of each text over all images is
    subtracted first, because all images lie in a cone that is closer to some texts than to others.

    Args:
        vectors: (n, d) float32 image embeddings of unit length.
        prototypes: (K, d) float32 text embeddings of all labels.
        missing_labels: indices of labels without an example.

    Returns:
        all rows, best first; empty without missing labels.

    Example:
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> rank_by_label_text(vectors, vectors, missing_labels=[2])[0]
        2
    """
    cosine = vectors @ prototypes.T
    cosine -= cosine.mean(axis=0)
    rows_by_label = []
    for label in missing_labels:
        rival_cosine = np.delete(cosine, label, axis=1).max(axis=1, initial=-2.0)
        rows_by_label.append(np.argsort(rival_cosine - cosine[:, label], kind="stable").tolist())
    return list(dict.fromkeys(row for rows in zip(*rows_by_label, strict=True) for row in rows))


def _top_columns(rows: Indices, cosine: Floats, count: int) -> tuple[Indices, Floats]:
    """Return the ``count`` highest cosines of each query and their rows, in any order."""
    if cosine.shape[1] <= count:
        return rows, cosine
    top = np.argpartition(-cosine, count - 1, axis=1)[:, :count] if count else rows[:, :0]
    return np.take_along_axis(rows, top, axis=1), np.take_along_axis(cosine, top, axis=1)
