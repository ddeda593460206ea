"""What a head says of images that it did not see: neither the image, nor its label, nor a copy."""

from __future__ import annotations

import numpy as np
import pytest

from backend.arrays import Floats
from backend.vision.heads import cross_validation
from backend.vision.heads.cross_validation import out_of_fold_probabilities
from backend.vision.heads.head import fit_head


def clusters(count: int, seed: int, labels: int = 3) -> tuple[Floats, Floats]:
    """Images of unit length around a centre a label, and their targets."""
    rng = np.random.default_rng(seed)
    given = np.arange(count) % labels
    x = 3 * np.eye(32)[given] + rng.standard_normal((count, 32)) * 0.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), np.eye(labels, dtype=np.float32)[given]


def bursts(count: int, length: int, seed: int) -> Floats:
    """Frames of videos: each is a copy of the next, the first and the last are not."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(count):
        view = rng.standard_normal(64)
        for _ in range(length):
            view = view / np.linalg.norm(view)
            frames.append(view)
            view = view + 0.15 * rng.standard_normal(64) / 8
    return np.asarray(frames, dtype=np.float32)


def crossed(x: Floats, targets: Floats, multiple: bool = False) -> Floats:
    names = tuple("abcdefgh"[: targets.shape[1]])
    head = fit_head(x, targets, labels=names, multiple=multiple, pool=x)
    return out_of_fold_probabilities(head, x, targets, pool=x)


def test_out_of_fold_heads_classify_held_out_images() -> None:
    x, targets = clusters(90, seed=0)
    found = crossed(x, targets)
    assert found.shape == (90, 3)
    assert found.dtype == np.float32
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    assert (found.argmax(1) == targets.argmax(1)).mean() > 0.95


def test_a_wrong_label_is_not_confirmed_out_of_fold() -> None:
    for seed in range(3):
        x, targets = clusters(90, seed)
        truth = targets.argmax(1)
        targets[:5] = np.roll(targets[:5], 1, axis=1)
        found = crossed(x, targets)[:5]
        assert (found.argmax(1) == truth[:5]).all()


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("length", [2, 10])
def test_no_row_is_scored_by_a_head_trained_on_a_near_duplicate(
    shuffled: bool, length: int
) -> None:
    x = bursts(100 // length, length, seed=0)
    x = np.random.default_rng(1).permutation(x) if shuffled else x
    fold = cross_validation._assign_grouped_folds(
        x, np.ones((100, 1), np.float32), np.random.default_rng(0)
    )
    learned = ~cross_validation._near_fold_mask(x, fold)
    moved = x - x.mean(axis=0)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    copies = moved @ moved.T > cross_validation.NEAR_DUPLICATE_COSINE
    assert copies.sum() > 150, "there are copies beside the rows themselves"
    assert not any((copies[i] & learned[:, fold[i]]).any() for i in range(100))


def test_near_duplicates_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = bursts(10, 5, seed=2)
    fold = np.random.default_rng(3).integers(0, 5, 50)
    whole = cross_validation._near_fold_mask(x, fold)
    monkeypatch.setattr(cross_validation, "BLOCK_ROWS", 7)
    assert (cross_validation._near_fold_mask(x, fold) == whole).all()


def test_a_label_with_one_example_is_unknown_in_its_own_fold() -> None:
    x, targets = clusters(40, seed=0, labels=2)
    targets = np.concatenate([targets, np.zeros((40, 1), np.float32)], axis=1)
    targets[7] = [0, 0, 1]
    found = crossed(x, targets)
    assert np.isfinite(found).all()
    assert found[7, 2] == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_rows_get_probabilities(count: int) -> None:
    x, targets = clusters(count, seed=0)
    assert np.isfinite(crossed(x, targets)).all()


def test_unasked_labels_get_probabilities() -> None:
    x, targets = clusters(60, seed=0)
    targets[30:, 2] = np.nan
    found = crossed(x, targets, multiple=True)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[:, :2].argmax(1) == targets[:, :2].argmax(1))[targets[:, :2].any(1)].mean() > 0.9
