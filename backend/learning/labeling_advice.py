"""Sort whole images, or mark the things in them? Answered from what people marked so far.

Two ways to tell from an image whether something is there, and how often: a classifier that sees the
image as a whole, and a detector whose finds are counted. Both are compared on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Doubles, Ints
from backend.learning.classification_metrics import Figure, share
from backend.learning.detection_metrics import Tally, count_figure
from backend.learning.quality_gate import mid_p

SMALL = 0.1
"""Side of a thing, as a share of the image's, below which it is a small part of the picture: after
the usual reduction to 224 pixels that is less than two of a transformer's 16-pixel patches."""
CERTAIN = 0.05
"""Chance, were both ways equal, below which a difference counts."""
BINS = 6
"""Counts that a classifier of whole images tells apart at most; more are put together."""
FEWEST = 3
"""Images with and without a thing below which nothing is said of telling them apart."""


@dataclass(frozen=True)
class Things:
    """What is marked in some images.

    Attributes:
        images: how many were looked through.
        empty: how many hold nothing.
        counts: things in each image.
        sides: of each box, the square root of its share of the image's area, 0 to 1; empty where
            only points are marked.
    """

    images: int
    empty: int
    counts: Doubles
    sides: Doubles

    def json(self) -> dict[str, Any]:
        """Middle and range of both; the range holds the middle 80 %."""
        return {
            "images": self.images,
            "empty": self.empty,
            "things": int(self.counts.sum()),
            "per_image": _spread(self.counts),
            "side": _spread(self.sides),
        }


@dataclass(frozen=True)
class Way:
    """What one way says of n images with K labels.

    Attributes:
        there: (n, K) bool, the label is there.
        counts: (n, K) whole numbers, how often.
    """

    there: Bools
    counts: Ints


@dataclass(frozen=True)
class Comparison:
    """Two ways on the same images.

    Attributes:
        sorting: the figure of classifying whole images, with its 95 % interval.
        finding: the figure of a detector.
        chance: of a difference as large, were both equal, two-sided; None where nothing is known.
        better: which one is shown to be better: ``sorting``, ``finding``, or empty.
    """

    sorting: Figure
    finding: Figure
    chance: float | None
    better: str

    def json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "sorting": self.sorting.json(),
            "finding": self.finding.json(),
            "chance": None if self.chance is None else round(self.chance, 4),
            "better": self.better or None,
        }


def compare_presence(sorting: Way, finding: Way, truth: Ints) -> Comparison:
    """Is it there? The share of images in which every label is told right; McNemar's test, mid-p.

    Args:
        sorting: what the classifier says.
        finding: what the detector says.
        truth: (n, K) how often each label is there.
    """
    right_one = (sorting.there == (truth > 0)).all(axis=1)
    right_two = (finding.there == (truth > 0)).all(axis=1)
    n, metric = len(truth), "is it there"
    figures = [share(int(right.sum()), n, metric) for right in (right_one, right_two)]
    won, lost = int((right_one & ~right_two).sum()), int((right_two & ~right_one).sum())
    if not tellable(truth):
        return Comparison(figures[0], figures[1], None, "")
    chance = min(1.0, 2 * mid_p(max(won, lost), won + lost)) if won + lost else 1.0
    better = "" if chance > CERTAIN else ("sorting" if won > lost else "finding")
    return Comparison(figures[0], figures[1], chance, better)


def compare_counts(sorting: Way, finding: Way, truth: Ints) -> Comparison:
    """How many? Σ |told − there| / Σ there, each with its interval; their difference by Student.

    The difference is a ratio of sums over images whose denominators are the same, so that its
    variance is that of its linearised terms (Cochran 1977, section 6.4).

    Args:
        sorting: what the classifier says.
        finding: what the detector says.
        truth: (n, K) how often each label is there.
    """
    from scipy.stats import t as student

    off_one, off_two = (np.abs(way.counts - truth).sum(axis=1) for way in (sorting, finding))
    there = truth.sum(axis=1)
    figures = [_count_figure(off, there) for off in (off_one, off_two)]
    n, whole = len(truth), float(there.sum())
    if n < 2 or not whole:
        return Comparison(figures[0], figures[1], None, "")
    gap = float((off_one - off_two).sum() / whole)
    terms = (off_one - off_two) - gap * there
    spread = math.sqrt(float((terms**2).sum()) * n / (n - 1)) / whole
    chance = float(2 * student.sf(abs(gap) / spread, n - 1)) if spread else float(gap == 0)
    better = "" if chance > CERTAIN else ("finding" if gap > 0 else "sorting")
    return Comparison(figures[0], figures[1], chance, better)


def tellable(truth: Ints) -> bool:
    """Whether some label is there in some images and absent in others, a few of each."""
    there = (truth > 0).sum(axis=0)
    return bool(((there >= FEWEST) & (len(truth) - there >= FEWEST)).any())


def count_bins(counts: npt.ArrayLike) -> list[int]:
    """The numbers that a classifier of counts tells apart, ascending; others go to the next one.

    Args:
        counts: that occur in what it learns from.

    Example:
        >>> count_bins([0, 0, 1, 3]), count_bins(range(20))
        ([0, 1, 3], [0, 4, 8, 11, 15, 19])
    """
    known = np.unique(np.asarray(counts, dtype=np.int64))
    if len(known) <= BINS:
        return [int(one) for one in known]
    at = np.linspace(0, 1, BINS)
    picked = np.quantile(np.asarray(counts), at, method="nearest")
    return [int(one) for one in np.unique(picked)]


def nearest_bin(count: int, bins: Sequence[int]) -> int:
    """The number of some bins that is next to a count; the lower of two.

    Example:
        >>> nearest_bin(5, [0, 4, 8]), nearest_bin(6, [0, 4, 8])
        (4, 4)
    """
    return min(bins, key=lambda one: (abs(one - count), one))


def recommend(things: Things, presence: Comparison, count: Comparison, points: bool) -> list[str]:
    """What the figures advise, as sentences in plain words.

    Args:
        things: what is marked.
        presence: of the two ways, on "is it there?".
        count: of the two ways, on "how many?".
        points: people click on middles; otherwise they draw boxes.
    """
    return [
        *_on_things(things),
        _on_presence(presence, points),
        *([_on_count(count)] if float(things.counts.max(initial=0)) > 1 else []),
        *_on_points(points),
    ]


def _on_things(things: Things) -> list[str]:
    if not len(things.sides):
        return []
    middle = float(np.median(things.sides))
    if middle < SMALL:
        return [
            f"The things are small: half of them are narrower than {middle:.0%} of the image, so "
            "a model that sees the whole image sees mostly what surrounds them."
        ]
    return [f"The things are no small part of the image: {middle:.0%} of its side in the middle."]


def _on_presence(found: Comparison, points: bool) -> str:
    mark = "clicks" if points else "boxes"
    if found.chance is None:
        return (
            "Whether sorting whole images would tell if something is there cannot be said: too "
            "few of the labeled images are without it, or with it."
        )
    told = _told(found)
    if found.better == "finding":
        return f"Is it there? Keep the {mark}: they tell it better than whole images ({told})."
    if found.better == "sorting":
        return (
            f"Is it there? Sort whole images if that is all you want to know: it tells it better "
            f"({told}), and takes one key instead of {mark}."
        )
    return (
        f"Is it there? No difference is shown ({told}). If that is all you want to know, sort "
        f"whole images: it takes one key instead of {mark}."
    )


def _on_count(found: Comparison) -> str:
    if found.chance is None:
        return "How many? Too few images are labeled to say."
    told = _told(found)
    if found.better == "finding":
        return f"How many? Only marks will do: sorting whole images counts worse ({told})."
    if found.better == "sorting":
        return f"How many? So far whole images tell it better ({told}); more labels may turn that."
    return f"How many? No difference is shown yet ({told}); label more, or mark: it shows where."


def _on_points(points: bool) -> list[str]:
    if points:
        return []
    return ["If you only count or find, and need no extent: a click is quicker than a box."]


def _told(found: Comparison) -> str:
    wrong = " wrong" if found.sorting.metric == "counting error" else " right"
    one, two = (_figure(figure) for figure in (found.sorting, found.finding))
    return f"whole images {one}{wrong}, marks {two}{wrong}, on {found.sorting.n} images"


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return "unknown"
    return f"{figure.value:.0%} ({figure.low:.0%} to {figure.high:.0%})"


def _count_figure(off: npt.ArrayLike, there: npt.ArrayLike) -> Figure:
    """Of tallies that are so much off: two labels' errors do not cancel each other."""
    rows = zip(np.asarray(off).tolist(), np.asarray(there).tolist(), strict=True)
    return count_figure([Tally(0, t + o, t) for o, t in rows])


def _spread(values: Doubles) -> dict[str, float] | None:
    if not len(values):
        return None
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {
        "low": round(float(low), 4),
        "median": round(float(middle), 4),
        "high": round(float(high), 4),
    }
