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

TWIN = 0.98
"""Cosine of centred embeddings above which two images are as good as one."""
NEIGHBOURS = 0.01
"""Share of the images that count as near when the width of the kernel is chosen."""
NEAREST = 3
"""Images at least that count as near."""
LARGEST = 20_000
"""Images that are compared each with each; of more, a part is."""
BLOCK = 1024
AT_ONCE = 32
"""Gains that are computed again at a time."""
MOST = 128
"""Gains that are computed again for one pick. Where images are all equally unlike each other the
bounds tell little, and each pick would need every gain for an image that is hardly better."""


@dataclass(frozen=True)
class Coverage:
    """What is known of n open images from those that were labeled or picked.

    Attributes:
        vectors: (n, d) float32, centred embeddings of unit length.
        weights: (n,) float32, how unsure the model is of each, 0 to 1.
        near: (n,) float32, cosine with the most similar labeled or picked image; −1 without any.
        bounds: (n,) float32, no gain is larger than this.
        done: (n,) bool, labeled or picked.
        width: of the kernel, K = exp((cosine − 1) / width).
    """

    vectors: Floats
    weights: Floats
    near: Floats
    bounds: Floats
    done: npt.NDArray[np.bool_]
    width: float

    @property
    def best(self) -> Floats:
        """(n,) float32, how well each image is covered, 0 to 1."""
        return _kernel(self.near, self.width)


def survey(vectors: Floats, weights: Floats, labeled: Floats) -> Coverage:
    """Look at all open images. O(n² d), in blocks.

    Embeddings are centred, because those of one project lie in a narrow cone where all cosines
    are alike. The kernel's width is the squared distance, halved as in a Gaussian, to the
    neighbour that a hundredth of the images is nearer than; the median over the images.

    Args:
        vectors: (n, d) float32 embeddings of unit length of open images.
        weights: (n,) float32, 0 to 1.
        labeled: (m, d) float32 embeddings of labeled images; (0, anything) when there are none.
    """
    count = len(vectors)
    if not count:
        empty = np.zeros(0, dtype=np.float32)
        return Coverage(vectors, empty, empty, empty, np.zeros(0, dtype=bool), 1.0)
    both = np.concatenate([vectors, labeled]) if len(labeled) else vectors
    both = _centred(both)
    state = Coverage(
        both[:count],
        weights.astype(np.float32),
        _nearest(both[:count], both[count:]),
        np.zeros(count, dtype=np.float32),
        np.zeros(count, dtype=bool),
        _width(both[:count]),
    )
    return replace(state, bounds=_all_gains(state))


def covered(state: Coverage, rows: npt.ArrayLike) -> Coverage:
    """Some images were labeled: what is like them is worth less. O(n d) an image."""
    rows = np.asarray(rows, dtype=np.intp)
    if not len(rows):
        return state
    near = np.maximum(state.near, _nearest(state.vectors, state.vectors[rows]))
    done = state.done.copy()
    done[rows] = True
    return replace(state, near=near, done=done)


def pick(
    state: Coverage, count: int, seeking: int = 0, before: int = 0
) -> tuple[list[int], Coverage]:
    """The images to label next, each chosen with those before it in mind.

    Args:
        state: of the open images.
        count: how many at most.
        seeking: one pick in so many is the image least like any other so far (farthest first,
            Gonzalez 1985), which finds rare labels soonest; 0: none is.
        before: how many were picked and labeled before these, so that it goes on in the same turn.

    Returns:
        rows, first to last, and the state after them. Near-duplicates of a labeled or picked image
        are not picked.
    """
    picked: list[int] = []
    while len(picked) < count and (free := ~state.done & (state.near <= TWIN)).any():
        if is_turn(before + len(picked), seeking):
            row = int(np.where(free, state.near, np.inf).argmin())
        else:
            row, state = _best(state, free)
        picked.append(row)
        state = covered(state, [row])
    return picked, state


def is_turn(place: int, every: int) -> bool:
    """Whether a place, counted from 0, is the last of each ``every`` of them; of 0 none is.

    Example:
        >>> [place for place in range(10) if is_turn(place, 4)]
        [3, 7]
    """
    return every > 0 and place % every == every - 1


def ordered(state: Coverage, picked: list[int]) -> list[int]:
    """All rows, first to last: those that were picked, then the others by what is left of their
    gain; near-duplicates of one before them come last, and after them those labeled before.
    """
    left = state.bounds * (1 - state.best)
    twin = state.near > TWIN
    left[picked] = np.inf
    order = np.lexsort((-left, twin & ~np.isinf(left), state.done & ~np.isinf(left)))
    rest = [int(row) for row in order if not np.isinf(left[row])]
    return [*picked, *rest]


def shortlist(weights: Floats, count: int, rng: np.random.Generator) -> Indices:
    """Of more images than can be compared each with each, those that are.

    Half are those the model is least sure of, half are random, so that the sum over them still
    estimates the sum over all.

    Args:
        weights: (n,) float32, 0 to 1.
        count: how many; all when there are no more.
        rng: draws them.

    Returns:
        rows, ascending.
    """
    if len(weights) <= count:
        return np.arange(len(weights))
    shuffled = rng.permutation(len(weights))
    surest = np.argsort(weights[shuffled], kind="stable")[::-1]
    first = shuffled[surest[: count // 2]]
    others = np.setdiff1d(shuffled, first)
    return np.sort(np.concatenate([first, rng.choice(others, count - len(first), replace=False)]))


def _best(state: Coverage, free: npt.NDArray[np.bool_]) -> tuple[int, Coverage]:
    """The row of the largest gain among the free ones, and the bounds that were tightened.

    Of more than MOST that may have it, those that promised most are compared.
    """
    bounds = np.where(free, state.bounds, -np.inf).astype(np.float32)
    fresh = ~free
    for looked in range(0, len(bounds) + AT_ONCE, AT_ONCE):
        stale = np.where(fresh, -np.inf, bounds)
        top = int(np.where(fresh, bounds, -np.inf).argmax())
        if not np.isfinite(stale.max()) or (free[top] and bounds[top] >= stale.max()):
            break
        if looked >= MOST:
            break
        few = np.argpartition(-stale, min(AT_ONCE, len(stale)) - 1)[:AT_ONCE]
        few = few[np.isfinite(stale[few])]
        bounds[few] = _gains(state, few)
        fresh[few] = True
    tightened = np.where(free, bounds, state.bounds).astype(np.float32)
    return top, replace(state, bounds=tightened)


def _gains(state: Coverage, rows: Indices) -> Floats:
    kernel = _kernel(state.vectors[rows] @ state.vectors.T, state.width)
    kernel -= state.best
    return np.asarray(np.maximum(kernel, 0, out=kernel) @ state.weights, dtype=np.float32)


def _all_gains(state: Coverage) -> Floats:
    """The gains of all rows; each pair of blocks is multiplied once, for both."""
    z, u, best = state.vectors, state.weights, state.best
    gains = np.zeros(len(z), dtype=np.float32)
    starts = range(0, len(z), BLOCK)
    for a in (slice(start, start + BLOCK) for start in starts):
        for b in (slice(start, start + BLOCK) for start in starts if start >= a.start):
            kernel = _kernel(z[a] @ z[b].T, state.width)
            gains[a] += np.maximum(kernel - best[b], 0) @ u[b]
            if b.start > a.start:
                kernel -= best[a, None]
                gains[b] += u[a] @ np.maximum(kernel, 0, out=kernel)
    return gains


def _kernel(cosine: Floats, width: float) -> Floats:
    """A Gaussian of the distance: |a − b|² = 2 − 2 cosine on the unit sphere."""
    return np.asarray(np.exp((cosine - 1) / np.float32(width)), dtype=np.float32)


def _nearest(vectors: Floats, others: Floats) -> Floats:
    """Cosine with the most similar of the others, (n,); −1 without others."""
    near = np.full(len(vectors), -1, dtype=np.float32)
    for start in range(0, len(others), BLOCK):
        near = np.maximum(near, (vectors @ others[start : start + BLOCK].T).max(axis=1))
    return near


def _centred(vectors: Floats) -> Floats:
    moved = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(lengths, 1e-6), dtype=np.float32)


def _width(vectors: Floats) -> float:
    """1 − cosine with the neighbour that NEIGHBOURS of the images are nearer than; the median."""
    some = vectors[:: max(1, len(vectors) // 500)]
    cosines = np.sort(some @ vectors.T, axis=1)
    place = min(len(vectors) - 1, max(NEAREST, round(NEIGHBOURS * len(vectors))))
    return max(float(np.median(1 - cosines[:, -1 - place])), 1e-4)
