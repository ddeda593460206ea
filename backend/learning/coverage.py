"""Uncertainty-weighted coverage: which images, labeled next, would tell most about all the others.

Greedily maximises Σ_j u_j · max(0, K(j, i) − best_j) (UHerding, Bae et al. 2024, arXiv 2412.20644):
an image is worth much when it is like many images that the model is unsure of and that no labeled
image is like. Without labels u = 1, and this is coverage alone; where all is covered, the
uncertainty decides. Gains only shrink as images are picked (the sum is submodular), so that a gain
computed earlier is an upper bound and few have to be computed again (Minoux 1978); not more than
MOST are, so that no collection of images makes a pick slow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats, Indices

DUPLICATE_COSINE = 0.98
"""Cosine of centred embeddings above which two images are as good as one."""
KERNEL_NEIGHBOUR_SHARE = 0.01
"""Share of the images that count as near when the width of the kernel is chosen."""
MIN_KERNEL_NEIGHBOURS = 3
"""Images at least that count as near."""
MAX_COMPARED_IMAGES = 20_000
"""Images that are compared each with each; of more, a part is."""
MATRIX_BLOCK_ROWS = 1024
GAIN_BATCH_SIZE = 32
"""Gains that are computed again at a time."""
MAX_GAIN_EVALUATIONS = 128
"""Gains that are computed again for one pick. Where images are all equally unlike each other the
bounds tell little, and each pick would need every gain for an image that is hardly better."""


@dataclass(frozen=True)
class Coverage:
    """What is known of n open images from those that were labeled or picked.

    Attributes:
        vectors: (n, d) float32, centred embeddings of unit length.
        uncertainties: (n,) float32, how unsure the model is of each, 0 to 1.
        max_cosine: (n,) float32, cosine with the most similar labeled or picked image; −1 without any.
        gain_bounds: (n,) float32, no gain is larger than this.
        is_covered: (n,) bool, labeled or picked.
        kernel_width: of the kernel, K = exp((cosine − 1) / width).
    """

    vectors: Floats
    uncertainties: Floats
    max_cosine: Floats
    gain_bounds: Floats
    is_covered: npt.NDArray[np.bool_]
    kernel_width: float

    @property
    def coverage_levels(self) -> Floats:
        """(n,) float32, how well each image is covered, 0 to 1."""
        return _kernel(self.max_cosine, self.kernel_width)


def build_coverage(vectors: Floats, uncertainties: Floats, labeled: Floats) -> Coverage:
    """Look at all open images. O(n² d), in blocks.

    Embeddings are centred, because those of one project lie in a narrow cone where all cosines
    are alike. The kernel's width is the squared distance, halved as in a Gaussian, to the
    neighbour that a hundredth of the images is nearer than; the median over the images.

    Args:
        vectors: (n, d) float32 embeddings of unit length of open images.
        uncertainties: (n,) float32, 0 to 1.
        labeled: (m, d) float32 embeddings of labeled images; (0, anything) when there are none.
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
    """Some images were labeled: what is like them is worth less. O(n d) an image."""
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
    """The images to label next, each chosen with those before it in mind.

    Args:
        state: of the open images.
        count: how many at most.
        explore_every: one pick in so many is the image least like any other so far (farthest first,
            Gonzalez 1985), which finds rare labels soonest; 0: none is.
        picked_before: how many were picked and labeled before these, so that it goes on in the same turn.

    Returns:
        rows, first to last, and the state after them. Near-duplicates of a labeled or picked image
        are not picked.
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
    """Whether a place, counted from 0, is the last of each ``cycle_length`` of them; of 0 none is.

    Example:
        >>> [place for place in range(10) if is_last_in_cycle(place, 4)]
        [3, 7]
    """
    return cycle_length > 0 and position % cycle_length == cycle_length - 1


def order_by_gain(state: Coverage, picked: list[int]) -> list[int]:
    """All rows, first to last: those that were picked, then the others by what is left of their
    gain; near-duplicates of one before them come last, and after them those labeled before.
    """
    remaining_gain = state.gain_bounds * (1 - state.coverage_levels)
    is_duplicate = state.max_cosine > DUPLICATE_COSINE
    remaining_gain[picked] = np.inf
    order = np.lexsort(
        (
            -remaining_gain,
            is_duplicate & ~np.isinf(remaining_gain),
            state.is_covered & ~np.isinf(remaining_gain),
        )
    )
    other_rows = [int(row) for row in order if not np.isinf(remaining_gain[row])]
    return [*picked, *other_rows]


def sample_candidates(uncertainties: Floats, count: int, rng: np.random.Generator) -> Indices:
    """Of more images than can be compared each with each, those that are.

    Half are those the model is least sure of, half are random, so that the sum over them still
    estimates the sum over all.

    Args:
        uncertainties: (n,) float32, 0 to 1.
        count: how many; all when there are no more.
        rng: draws them.

    Returns:
        rows, ascending.
    """
    if len(uncertainties) <= count:
        return np.arange(len(uncertainties))
    shuffled = rng.permutation(len(uncertainties))
    uncertain_order = np.argsort(uncertainties[shuffled], kind="stable")[::-1]
    most_uncertain = shuffled[uncertain_order[: count // 2]]
    others = np.setdiff1d(shuffled, most_uncertain)
    return np.sort(
        np.concatenate(
            [most_uncertain, rng.choice(others, count - len(most_uncertain), replace=False)]
        )
    )


def _pick_best_gain(state: Coverage, is_available: npt.NDArray[np.bool_]) -> tuple[int, Coverage]:
    """The row of the largest gain among the free ones, and the bounds that were tightened.

    Of more than MOST that may have it, those that promised most are compared.
    """
    gain_bounds = np.where(is_available, state.gain_bounds, -np.inf).astype(np.float32)
    is_current = ~is_available
    for evaluated in range(0, len(gain_bounds) + GAIN_BATCH_SIZE, GAIN_BATCH_SIZE):
        stale_bounds = np.where(is_current, -np.inf, gain_bounds)
        best_row = int(np.where(is_current, gain_bounds, -np.inf).argmax())
        if not np.isfinite(stale_bounds.max()) or (
            is_available[best_row] and gain_bounds[best_row] >= stale_bounds.max()
        ):
            break
        if evaluated >= MAX_GAIN_EVALUATIONS:
            break
        batch_rows = np.argpartition(-stale_bounds, min(GAIN_BATCH_SIZE, len(stale_bounds)) - 1)[
            :GAIN_BATCH_SIZE
        ]
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
    """The gains of all rows; each pair of blocks is multiplied once, for both."""
    vectors, uncertainties, coverage_levels = (
        state.vectors,
        state.uncertainties,
        state.coverage_levels,
    )
    gains = np.zeros(len(vectors), dtype=np.float32)
    starts = range(0, len(vectors), MATRIX_BLOCK_ROWS)
    for block in (slice(start, start + MATRIX_BLOCK_ROWS) for start in starts):
        for other_block in (
            slice(start, start + MATRIX_BLOCK_ROWS) for start in starts if start >= block.start
        ):
            kernel = _kernel(vectors[block] @ vectors[other_block].T, state.kernel_width)
            gains[block] += (
                np.maximum(kernel - coverage_levels[other_block], 0) @ uncertainties[other_block]
            )
            if other_block.start > block.start:
                kernel -= coverage_levels[block, None]
                gains[other_block] += uncertainties[block] @ np.maximum(kernel, 0, out=kernel)
    return gains


def _kernel(cosine: Floats, width: float) -> Floats:
    """A Gaussian of the distance: |a − b|² = 2 − 2 cosine on the unit sphere."""
    return np.asarray(np.exp((cosine - 1) / np.float32(width)), dtype=np.float32)


def _max_cosine(vectors: Floats, others: Floats) -> Floats:
    """Cosine with the most similar of the others, (n,); −1 without others."""
    max_cosine = np.full(len(vectors), -1, dtype=np.float32)
    for start in range(0, len(others), MATRIX_BLOCK_ROWS):
        max_cosine = np.maximum(
            max_cosine, (vectors @ others[start : start + MATRIX_BLOCK_ROWS].T).max(axis=1)
        )
    return max_cosine


def _centre_vectors(vectors: Floats) -> Floats:
    centred = vectors - vectors.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(norms, 1e-6), dtype=np.float32)


def _kernel_width(vectors: Floats) -> float:
    """1 − cosine with the neighbour that NEIGHBOURS of the images are nearer than; the median."""
    sampled = vectors[:: max(1, len(vectors) // 500)]
    cosines = np.sort(sampled @ vectors.T, axis=1)
    neighbour_rank = min(
        len(vectors) - 1, max(MIN_KERNEL_NEIGHBOURS, round(KERNEL_NEIGHBOUR_SHARE * len(vectors)))
    )
    return max(float(np.median(1 - cosines[:, -1 - neighbour_rank])), 1e-4)
