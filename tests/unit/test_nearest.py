"""Nearest-neighbour search, by image and by the text of a label."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from backend.arrays import Floats
from backend.learning import nearest_neighbours


def unit(rows: int, seed: int) -> Floats:
    found = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def test_the_examples_in_the_docstrings_hold() -> None:
    found = doctest.testmod(nearest_neighbours)
    assert found.attempted
    assert not found.failed


def test_the_nearest_rows_in_blocks_are_those_of_a_full_sort(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, queries = unit(50, 0), unit(3, 1)
    monkeypatch.setattr(nearest_neighbours, "SEARCH_BLOCK_ROWS", 16)
    rows, cosine = nearest_neighbours.find_nearest(vectors, queries, 7)
    for query, found, values in zip(queries, rows, cosine, strict=True):
        expected = sorted(range(50), key=lambda i: -float(vectors[i] @ query))[:7]
        assert found.tolist() == expected
        assert values == pytest.approx(vectors[expected] @ query)
    assert nearest_neighbours.find_nearest(vectors[:2], queries, 7)[0].shape == (3, 2)
    assert nearest_neighbours.find_nearest(vectors[:0], queries, 7)[0].shape == (3, 0)


def test_images_are_ranked_by_the_text_of_a_label_against_the_other_labels() -> None:
    text = np.eye(8, dtype=np.float32)[:3]
    cone = np.full(8, 0.5, dtype=np.float32)
    images = np.stack([text[0] + cone, text[1] + cone, text[2] + cone, text[1] + 2 * cone])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    assert nearest_neighbours.rank_by_label_text(images, text, missing_labels=[2])[0] == 2
    assert nearest_neighbours.rank_by_label_text(images, text, missing_labels=[1, 2])[:2] == [
        1,
        2,
    ], "in turn"
    assert sorted(nearest_neighbours.rank_by_label_text(images, text, missing_labels=[1, 2])) == [
        0,
        1,
        2,
        3,
    ]


def test_excluded_rows_are_not_returned_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit(50, 0), unit(3, 1)
    monkeypatch.setattr(nearest_neighbours, "SEARCH_BLOCK_ROWS", 16)
    out = [0, 3, *range(16, 32), 49]
    rows, _ = nearest_neighbours.find_nearest(vectors, queries, 7, excluded=out)
    for query, found in zip(queries, rows, strict=True):
        left = [i for i in range(50) if i not in out]
        assert found.tolist() == sorted(left, key=lambda i: -float(vectors[i] @ query))[:7]
    assert nearest_neighbours.find_nearest(vectors, queries, 7, excluded=range(50))[0].shape == (
        3,
        0,
    )
    assert nearest_neighbours.find_nearest(vectors, queries, 0)[0].shape == (3, 0)


def test_a_text_near_to_every_image_does_not_outrank_the_others() -> None:
    """Ten labels, one rare; texts differ in their mean cosine with the images."""
    shares = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        cone, given = rng.standard_normal(64), np.arange(500) % 9
        given[:15] = 9
        signal = rng.standard_normal((10, 64))
        texts = signal + rng.standard_normal((10, 1)) * 0.4 * cone
        images = 2 * cone + 0.7 * signal[given] + rng.standard_normal((500, 64))
        texts, images = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (texts, images))
        order = nearest_neighbours.rank_by_label_text(
            images.astype(np.float32), texts.astype(np.float32), [9]
        )
        shares.append((given[order[:15]] == 9).mean())
    assert np.mean(shares) > 0.9


def test_with_a_single_label_its_own_text_decides() -> None:
    images = np.eye(3, dtype=np.float32)
    assert nearest_neighbours.rank_by_label_text(images, images[1:2], missing_labels=[0])[0] == 1
    assert nearest_neighbours.rank_by_label_text(images, images, missing_labels=[]) == []
