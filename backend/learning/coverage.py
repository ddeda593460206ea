"""Uncertainty-weighted coverage: select the images that represent the open images best.

Greedily maximise Σ_j u_j · max(0, K(j, i) − coverage_j) (UHerding, Bae et al. 2024, arXiv
2412.20644): an image has a high gain if it is similar to many uncertain images and to no labeled
one. Without labels all uncertainties are 1, and only coverage matters; once everything is covered,
uncertainty decides. Gains only shrink while images are picked (the sum is submodular), so an
earlier gain is an upper bound and few gains have to be recomputed (lazy greedy, Minoux 1978).
``MAX_GAIN_EVALUATIONS`` limits the time of a pick.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Floats, Indices

DUPLICATE_COSINE = 0.98
"""Cosine similarity of centred embeddings above which two images count as duplicates."""
KERNEL_NEIGHBOUR_SHARE = 0.01
"""Share of the images that count as neighbours when the kernel width is chosen."""
MIN_KERNEL_NEIGHBOURS = 3
MAX_COMPARED_IMAGES = 20_000
"""Maximum number of images of which all pairs are compared; larger pools are sampled."""
MATRIX_BLOCK_ROWS = 1024
GAIN_BATCH_SIZE = 32
MAX_GAIN_EVALUATIONS = 128
"""Maximum number of gains recomputed for one pick. If all images are equally dissimilar, the bounds
are loose: an exact pick would recompute all gains to find an image that is hardly better."""


@dataclass(frozen=True)
class Coverage:
    """Coverage of n open images by the labeled and picked images.

    Attributes:
        vectors: (n, d) float32, centred embeddings of unit length.
        uncertainties: (n,) float32, 0 to 1.
        max_cosine: (n,) float32, cosine similarity to the nearest labeled or picked image; −1
            without one.
        gain_bounds: (n,) float32, upper bounds of the gains.
        is_covered: (n,) bool, whether an image is labeled or picked itself.
        kernel_width: width in K = exp((cosine − 1) / width).
    """

    vectors: Floats
    uncertainties: Floats
    max_cosine: Floats
    gain_bounds: Floats
    is_covered: Bools
    kernel_width: float

    @property
    def coverage_levels(self) -> Floats:
        """Coverage of each image, (n,) float32, 0 to 1."""
        return _kernel(self.max_cosine, self.kernel_width)


def build_coverage(vectors: Floats, uncertainties: Floats, labeled: Floats) -> Coverage:
    """Compute the coverage of all open images, in blocks; O(n² d).

    Embeddings are centred, because those of one project lie in a narrow cone. The kernel width is
    the median over the images of half the squared distance to the neighbour at rank 1 %.

    Args:
        vectors: (n, d) float32 embeddings of the open images, of unit length.
        uncertainties: (n,) float32, 0 to 1.
        labeled: (m, d) float32 embeddings of the labeled images; (0, any) without labels.
    """
    count = len(vectors)
    if not count:
        no_values = np.zeros(0, dtype=np.float32)
        return Coverage(vectors, no_values, no_values, no_values, np.zeros(0, dtype=bool), 1.0)
    all_vectors = np.concatenate([vectors, labeled]) if len(labeled) else vectors
    all_vectors = _centre_vectors(all_vectors)
    state = Coverage(
        all_vectors[:count],
        uncertainties.astype(np.float32),
        _max_cosine(all_vectors[:count], all_vectors[count:]),
        np.zeros(count, dtype=np.float32),
        np.zeros(count, dtype=bool),
        _kernel_width(all_vectors[:count]),
    )
    return replace(state, gain_bounds=_compute_all_gains(state))


def mark_covered(state: Coverage, rows: npt.ArrayLike) -> Coverage:
    """Return the coverage after some images were labeled or picked; O(n d) per image."""
    rows = np.asarray(rows, dtype=np.intp)
    if not len(rows):
        return state
    max_cosine = np.maximum(state.max_cosine, _max_cosine(state.vectors, state.vectors[rows]))
    is_covered = state.is_covered.copy()
    is_covered[rows] = True
    return replace(state, max_cosine=max_cosine, is_covered=is_covered)


def pick_images(
    state: Coverage, count: int, explore_every: int = 0, picked_before: int = 0
) -> tuple[list[int], Coverage]:
    """Pick the images to label next greedily, without near-duplicates of covered images.

    Args:
        state: coverage of the open images.
        count: maximum number of images.
        explore_every: interval of exploration picks, which take the image least similar to all
            covered ones (farthest first, Gonzalez 1985) to find rare labels early; 0: never.
        picked_before: number of images picked and labeled earlier, from which the interval is
            counted.

    Returns:
        the picked rows in order, and the coverage after them.
    """
    picked: list[int] = []
    while (
        len(picked) < count
        and (is_available := ~state.is_covered & (state.max_cosine <= DUPLICATE_COSINE)).any()
    ):
        if is_last_in_cycle(picked_before + len(picked), explore_every):
            row = int(np.where(is_available, state.max_cosine, np.inf).argmin())
        else:
            row, state = _pick_best_gain(state, is_available)
        picked.append(row)
        state = mark_covered(state, [row])
    return picked, state


def is_last_in_cycle(position: int, cycle_length: int) -> bool:
    """Return whether a position, counted from 0, is the last of a cycle; False for length 0.

    Example:
        >>> [position for position in range(10) if is_last_in_cycle(position, 4)]
        [3, 7]
    """
    return cycle_length > 0 and position % cycle_length == cycle_length - 1


def order_by_gain(state: Coverage, picked: list[int]) -> list[int]:
    """Return all rows: picked ones, others by remaining gain, duplicates, then labeled ones."""
    remaining_gain = state.gain_bounds * (1 - state.coverage_levels)
    is_duplicate = state.max_cosine > DUPLICATE_COSINE
    order = np.lexsort((-remaining_gain, is_duplicate, state.is_covered))
    return [*picked, *order[~np.isin(order, picked)].tolist()]


def content_order(vectors: Floats) -> list[int]:
    """Return the rows in an order that depends on the embeddings, not on the present order.

    Ties are resolved by position, so images have to be in this order before they are compared.
    Otherwise the first files of a folder would win, and these often show the same label.

    Args:
        vectors: (n, d) float32.

    Example:
        >>> vectors = np.eye(4, dtype=np.float32)
        >>> (vectors[content_order(vectors)] == vectors[::-1][content_order(vectors[::-1])]).all()
        np.True_
    """
    keys = [hashlib.blake2b(vector.tobytes(), digest_size=8).digest() for vector in vectors]
    return sorted(range(len(keys)), key=keys.__getitem__)


def sample_candidates(uncertainties: Floats, count: int, rng: np.random.Generator) -> Indices:
    """Return the rows of a large pool of which all pairs are compared.

    Half are the most uncertain images and half are random, so that the gain over them still
    estimates the gain over all images.

    Args:
        uncertainties: (n,) float32, 0 to 1.
        count: maximum number of rows.
        rng: random generator.

    Returns:
        rows in ascending order.
    """
    if len(uncertainties) <= count:
        return np.arange(len(uncertainties))
    shuffled = rng.permutation(len(uncertainties))
    uncertain_order = np.argsort(uncertainties[shuffled], kind="stable")[::-1]
    most_uncertain = shuffled[uncertain_order[: count // 2]]
    others = np.setdiff1d(shuffled, most_uncertain)
    random_rows = rng.choice(others, count - len(most_uncertain), replace=False)
    return np.sort(np.concatenate([most_uncertain, random_rows]))


def _pick_best_gain(state: Coverage, is_available: Bools) -> tuple[int, Coverage]:
    """Return the available row with the largest gain, and the coverage with updated bounds."""
    gain_bounds = np.where(is_available, state.gain_bounds, -np.inf).astype(np.float32)
    is_current = ~is_available
    for evaluated in range(0, len(gain_bounds) + GAIN_BATCH_SIZE, GAIN_BATCH_SIZE):
        stale_bounds = np.where(is_current, -np.inf, gain_bounds)
        best_row = int(np.where(is_current, gain_bounds, -np.inf).argmax())
        is_best = is_available[best_row] and gain_bounds[best_row] >= stale_bounds.max()
        if is_best or evaluated >= MAX_GAIN_EVALUATIONS or not np.isfinite(stale_bounds.max()):
            break
        batch_size = min(GAIN_BATCH_SIZE, len(stale_bounds))
        batch_rows = np.argpartition(-stale_bounds, batch_size - 1)[:batch_size]
        batch_rows = batch_rows[np.isfinite(stale_bounds[batch_rows])]
        gain_bounds[batch_rows] = _compute_gains(state, batch_rows)
        is_current[batch_rows] = True
    tightened_bounds = np.where(is_available, gain_bounds, state.gain_bounds).astype(np.float32)
    return best_row, replace(state, gain_bounds=tightened_bounds)


def _compute_gains(state: Coverage, rows: Indices) -> Floats:
    kernel = _kernel(state.vectors[rows] @ state.vectors.T, state.kernel_width)
    kernel -= state.coverage_levels
    return np.asarray(np.maximum(kernel, 0, out=kernel) @ state.uncertainties, dtype=np.float32)


def _compute_all_gains(state: Coverage) -> Floats:
    """Return the gains of all rows; the kernel of each pair of blocks is computed only once."""
    vectors, uncertainties, levels = state.vectors, state.uncertainties, state.coverage_levels
    gains = np.zeros(len(vectors), dtype=np.float32)
    starts = range(0, len(vectors), MATRIX_BLOCK_ROWS)
    blocks = [slice(start, start + MATRIX_BLOCK_ROWS) for start in starts]
    for i, block in enumerate(blocks):
        for other in blocks[i:]:
            kernel = _kernel(vectors[block] @ vectors[other].T, state.kernel_width)
            gains[block] += np.maximum(kernel - levels[other], 0) @ uncertainties[other]
            if other != block:
                kernel -= levels[block, None]
                gains[other] += uncertainties[block] @ np.maximum(kernel, 0, out=kernel)
    return gains


def _kernel(cosine: Floats, width: float) -> Floats:
    """Return the Gaussian kernel of cosines, since |a − b|² = 2 − 2 · cosine for unit vectors."""
    return np.asarray(np.exp((cosine - 1) / np.float32(width)), dtype=np.float32)


def _max_cosine(vectors: Floats, others: Floats) -> Floats:
    """Return the cosine similarity to the nearest of ``others``, (n,); −1 without others."""
    max_cosine = np.full(len(vectors), -1, dtype=np.float32)
    for start in range(0, len(others), MATRIX_BLOCK_ROWS):
        cosine = vectors @ others[start : start + MATRIX_BLOCK_ROWS].T
        max_cosine = np.maximum(max_cosine, cosine.max(axis=1))
    return max_cosine


def _centre_vectors(vectors: Floats) -> Floats:
    centred = vectors - vectors.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(norms, 1e-6), dtype=np.float32)


def _kernel_width(vectors: Floats) -> float:
    """Return the median of 1 − cosine with the neighbour at rank ``KERNEL_NEIGHBOUR_SHARE``."""
    count = len(vectors)
    cosines = np.sort(vectors[:: max(1, count // 500)] @ vectors.T, axis=1)
    rank = min(count - 1, max(MIN_KERNEL_NEIGHBOURS, round(KERNEL_NEIGHBOUR_SHARE * count)))
    return max(float(np.median(1 - cosines[:, -1 - rank])), 1e-4)
