"""Labeled rows → the weights of a head: anchors, the choice of ridge and temperature, the fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Floats
from backend.vision.heads.calibration import Judged, best, folds, shrunk
from backend.vision.heads.logistic_regression import NEVER, ROUGH, Problems, solve

RIDGES = (0.5, 0.07, 0.01)
"""Strengths of the pull that are compared, for features of unit mean square length."""
RIDGE_TEXT, RIDGE_MEANS = 2.0, 0.05
"""The strength before there are labels enough to compare, see :func:`_default_ridge`."""
MEANS_SCALE = 20.0
"""Logits per unit along a class mean: 1 / the assumed variance of a class in one direction."""
TEMPERATURE_TEXT, TEMPERATURE_MEANS = 1.0, 1.5
"""The temperature that few labels are drawn to; means of few images are too sure of themselves."""
COMPARABLE = 5
"""Times each label was given from which on ridges are compared (reference/learning.md)."""
CALIBRATABLE = 10
"""Rows below which nothing is held out."""
SUBSET = 1000
"""Rows at most for comparing ridges, and held out for the temperature beyond."""
FEW = 300
"""Rows below which five folds are made, from there on three."""


@dataclass(frozen=True)
class Choices:
    """What a fit did not learn but choose.

    Attributes:
        ridge: strength of the pull towards the anchors.
        temperature: divisor of the logits.
        ridge_from: ``cross-validation``, ``previous`` or ``default``.
        temperature_from: ``out-of-fold``, ``held-out``, ``previous`` or ``default``.
    """

    ridge: float
    temperature: float
    ridge_from: str = "default"
    temperature_from: str = "default"


@dataclass(frozen=True)
class Rows:
    """Labeled rows, and where the weights are anchored.

    Attributes:
        features: (n, r) float32, the last column 1.
        targets: (n, K) float32, 0 to 1, NaN where nobody was asked.
        multiple: K sigmoids instead of one softmax.
        text: (K, r) float32 weights from the labels' names; None: class means.
    """

    features: Floats
    targets: Floats
    multiple: bool
    text: Floats | None

    def part(self, rows: npt.NDArray[np.intp]) -> Rows:
        """Some of the rows."""
        return replace(self, features=self.features[rows], targets=self.targets[rows])

    def problems(self, masks: Floats, ridges: tuple[float, ...]) -> Problems:
        """The problems of folds, (F, n) float32 with 1 for a row that is trained on."""
        given = masks @ np.nan_to_num(self.targets)  # (F, K)
        if self.text is None:
            prior, closed = class_means(self, masks), given == 0
        else:
            prior = np.repeat(self.text[None], len(masks), axis=0)
            closed = np.zeros_like(given, dtype=np.bool_)
        return Problems(self.features, self.targets, masks, prior, closed, ridges, self.multiple)


def class_means(rows: Rows, masks: Floats) -> Floats:
    """The weights of a nearest-mean classifier, for want of text.

    Labels as Gaussians of equal, round spread (linear discriminant analysis with covariance
    I / MEANS_SCALE): w_k = s · m_k and b_k = −s/2 · ‖m_k‖². Means are drawn to the centre of the
    pool as by one more image there. Several of many: the label against its absence, with the
    log-odds of how often it was given.

    Args:
        rows: n labeled rows.
        masks: (F, n) float32, 1 for a row that counts.

    Returns:
        (F, K, r) float32.
    """
    given, means = _means(rows, masks, np.nan_to_num(rows.targets))
    if rows.multiple:
        absent, others = _means(rows, masks, np.nan_to_num(1 - rows.targets))
        bias = _norms(means) - _norms(others) + np.log((given + 1) / (absent + 1))
        means = means - others
    else:
        bias = _norms(means)
    return np.concatenate([MEANS_SCALE * means, bias[..., None]], axis=-1, dtype=np.float32)


def _means(rows: Rows, masks: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """How often (F, K) and where on average (F, K, r − 1) labels are."""
    weights = masks[:, :, None] * shares  # (F, n, K)
    counts = weights.sum(1)
    sums = weights.transpose(0, 2, 1) @ rows.features[:, :-1]
    return counts, sums / (counts[..., None] + 1)


def _norms(means: Floats) -> Floats:
    """−s/2 · ‖m‖², (F, K)."""
    return np.asarray(-MEANS_SCALE / 2 * (means**2).sum(-1), dtype=np.float32)


def fit(
    rows: Rows, start: Floats | None, kept: Choices | None, rng: np.random.Generator
) -> tuple[Floats, Choices]:
    """Choose ridge and temperature, then fit all rows.

    Args:
        rows: n ≥ 1 labeled rows.
        start: (K, r) float32 weights to start from, or None.
        kept: the choices of a head that knew nearly all of these rows, to be kept; or None.
        rng: deals folds.

    Returns:
        (K, r) float32 weights, their last column −1e4 for a label that cannot be predicted; and
        the choices.
    """
    small, basis = _reduced(rows)
    begin = None if start is None else _projected(start, basis)
    choices, warm = _chosen(small, begin, kept, rng)
    problems = small.problems(np.ones((1, len(rows.features)), np.float32), (choices.ridge,))
    weights = _restored(solve(problems, warm)[0, 0], rows.text, basis)
    weights[problems.closed[0]] = 0
    weights[problems.closed[0], -1] = NEVER
    return weights, choices


def _reduced(rows: Rows) -> tuple[Rows, Floats | None]:
    """The rows in a basis of their own span, where that is much smaller than the space.

    The loss sees weights only through the rows, so what is learnt lies in their span.
    """
    count, width = rows.features.shape
    if 2 * count >= width:
        return rows, None
    basis = np.linalg.qr(rows.features[:, :-1].T)[0]  # (r − 1, n)
    text = None if rows.text is None else _projected(rows.text, basis)
    return replace(rows, features=_projected(rows.features, basis), text=text), basis


def _projected(table: Floats, basis: Floats | None) -> Floats:
    """(·, r) → (·, n + 1), the last column kept."""
    if basis is None:
        return table
    return np.concatenate([table[:, :-1] @ basis, table[:, -1:]], axis=1)


def _restored(weights: Floats, text: Floats | None, basis: Floats | None) -> Floats:
    """(K, n + 1) → (K, r): outside the span the weights stay at their anchors."""
    if basis is None:
        return weights
    whole = np.concatenate([weights[:, :-1] @ basis.T, weights[:, -1:]], axis=1)
    if text is None:
        return whole
    beside = text[:, :-1] - (text[:, :-1] @ basis) @ basis.T
    return np.concatenate([whole[:, :-1] + beside, whole[:, -1:]], axis=1)


def _chosen(
    rows: Rows, start: Floats | None, kept: Choices | None, rng: np.random.Generator
) -> tuple[Choices, Floats | None]:
    """Ridge and temperature, and weights to start the last fit from."""
    count = len(rows.features)
    usual = TEMPERATURE_MEANS if rows.text is None else TEMPERATURE_TEXT
    ridges, source = _candidates(rows, kept)
    if count < CALIBRATABLE:
        return Choices(ridges[0], usual, source), start
    if count > SUBSET:
        return _chosen_beyond(rows, start, kept, rng)
    judged = _out_of_fold(rows, ridges, rng)
    place, measured = best(judged)
    temperature = shrunk(measured, len(judged[place].targets), usual)
    return Choices(ridges[place], temperature, source, "out-of-fold"), start


def _chosen_beyond(
    rows: Rows, start: Floats | None, kept: Choices | None, rng: np.random.Generator
) -> tuple[Choices, Floats | None]:
    """The same for many rows: the ridge on a subset, the temperature on rows held out."""
    if kept is not None:
        return replace(kept, ridge_from="previous", temperature_from="previous"), start
    order = rng.permutation(len(rows.features))
    ridges, source = _candidates(rows, kept)
    place = 0
    if len(ridges) > 1:
        place, _ = best(_out_of_fold(rows.part(order[:SUBSET]), ridges, rng))
    held = order[: min(SUBSET, len(order) // 5)]
    mask = np.ones((1, len(order)), dtype=np.float32)
    mask[:, held] = 0
    problems = rows.problems(mask, ridges[place : place + 1])
    weights = solve(problems, start, tolerance=ROUGH)
    logits = rows.features[held] @ weights[0, 0].T
    closed = np.repeat(problems.closed, len(held), axis=0)
    _, temperature = best([_judged(logits, rows.part(held), closed)])
    return Choices(ridges[place], temperature, source, "held-out"), weights[0, 0]


def _candidates(rows: Rows, kept: Choices | None) -> tuple[tuple[float, ...], str]:
    """The ridges to compare, the first being the one to take without comparison."""
    if kept is not None:
        return (kept.ridge,), "previous"
    if not _comparable(rows):
        return (_default_ridge(rows),), "default"
    return RIDGES, "cross-validation"


def _default_ridge(rows: Rows) -> float:
    """Class means grow with the labels and need little pull; names are trusted 1 / (1 + n̄)."""
    if rows.text is None:
        return RIDGE_MEANS
    return RIDGE_TEXT / (1 + float(np.nan_to_num(rows.targets).sum(0).mean()))


def _comparable(rows: Rows) -> bool:
    """Whether every label was given (``multiple``: and denied) often enough to compare ridges.

    A label without any example cannot be predicted and does not count, unless it has a name: no
    comparison would notice that a weak pull makes the model forget it.
    """
    given = np.nan_to_num(rows.targets).sum(0)
    enough = given >= COMPARABLE
    if rows.multiple:
        enough &= np.nan_to_num(1 - rows.targets).sum(0) >= COMPARABLE
    return bool(enough.all() if rows.text is not None else enough[given > 0].all())


def _out_of_fold(rows: Rows, ridges: tuple[float, ...], rng: np.random.Generator) -> list[Judged]:
    """For each ridge, every row as answered by a model that did not see it."""
    count = len(rows.features)
    dealt = folds(rows.targets, 5 if count < FEW else 3, rng)
    masks = (dealt != np.arange(dealt.max() + 1)[:, None]).astype(np.float32)
    problems = rows.problems(masks, ridges)
    weights = solve(problems, tolerance=ROUGH)  # (R, F, K, r)
    logits = np.einsum("nr,pfkr->pfnk", rows.features, weights, optimize=True)
    own = logits[:, dealt, np.arange(count)]  # (R, n, K)
    return [_judged(table, rows, problems.closed[dealt]) for table in own]


def _judged(logits: Floats, rows: Rows, closed: Bools) -> Judged:
    """Leave out what the model could not have known: labels that it had no example of."""
    if rows.multiple:
        return Judged(logits, np.where(closed, np.nan, rows.targets).astype(np.float32), True)
    truth = np.nan_to_num(rows.targets)
    barred = np.where(closed | np.isnan(rows.targets), np.float32(NEVER), logits)
    fair = (truth * closed).sum(1) == 0
    return Judged(barred[fair], truth[fair], False)
