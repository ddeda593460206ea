"""Labeled rows → the weights of a head: anchors, the choice of ridge and temperature, the fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Floats
from backend.vision.heads.calibration import (
    HeldOutLogits,
    assign_folds,
    select_best_candidate,
    shrink_temperature,
)
from backend.vision.heads.logistic_regression import (
    COARSE_TOLERANCE,
    IMPOSSIBLE_LOGIT,
    LogisticProblems,
    solve_problems,
)

RIDGE_CANDIDATES = (0.5, 0.07, 0.01)
"""Strengths of the pull that are compared, for features of unit mean square length."""
TEXT_ANCHOR_RIDGE, CLASS_MEAN_RIDGE = 2.0, 0.05
"""The strength before there are labels enough to compare, see :func:`_default_ridge`."""
CLASS_MEAN_LOGIT_SCALE = 20.0
"""Logits per unit along a class mean: 1 / the assumed variance of a class in one direction."""
TEXT_ANCHOR_TEMPERATURE, CLASS_MEAN_TEMPERATURE = 1.0, 1.5
"""The temperature that few labels are drawn to; means of few images are too sure of themselves."""
MIN_EXAMPLES_PER_LABEL = 5
"""Times each label was given from which on ridges are compared (reference/learning.md)."""
MIN_CALIBRATION_ROWS = 10
"""Rows below which nothing is held out."""
MAX_SUBSET_ROWS = 1000
"""Rows at most for comparing ridges, and held out for the temperature beyond."""
FIVE_FOLD_ROW_LIMIT = 300
"""Rows below which five folds are made, from there on three."""


@dataclass(frozen=True)
class HeadHyperparameters:
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
class LabeledRows:
    """Labeled rows, and where the weights are anchored.

    Attributes:
        features: (n, r) float32, the last column 1.
        targets: (n, K) float32, 0 to 1, NaN where nobody was asked.
        multiple: K sigmoids instead of one softmax.
        text_weights: (K, r) float32 weights from the labels' names; None: class means.
    """

    features: Floats
    targets: Floats
    multiple: bool
    text_weights: Floats | None

    def subset(self, rows: npt.NDArray[np.intp]) -> LabeledRows:
        """Some of the rows."""
        return replace(self, features=self.features[rows], targets=self.targets[rows])

    def build_problems(self, masks: Floats, ridges: tuple[float, ...]) -> LogisticProblems:
        """The problems of folds, (F, n) float32 with 1 for a row that is trained on."""
        positive_counts = masks @ np.nan_to_num(self.targets)  # (F, K)
        if self.text_weights is None:
            prior, excluded_labels = class_mean_weights(self, masks), positive_counts == 0
        else:
            prior = np.repeat(self.text_weights[None], len(masks), axis=0)
            excluded_labels = np.zeros_like(positive_counts, dtype=np.bool_)
        return LogisticProblems(
            self.features, self.targets, masks, prior, excluded_labels, ridges, self.multiple
        )


def class_mean_weights(rows: LabeledRows, masks: Floats) -> Floats:
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
    positive_counts, means = _label_means(rows, masks, np.nan_to_num(rows.targets))
    if rows.multiple:
        negative_counts, negative_means = _label_means(rows, masks, np.nan_to_num(1 - rows.targets))
        bias = (
            _mean_biases(means)
            - _mean_biases(negative_means)
            + np.log((positive_counts + 1) / (negative_counts + 1))
        )
        means = means - negative_means
    else:
        bias = _mean_biases(means)
    return np.concatenate(
        [CLASS_MEAN_LOGIT_SCALE * means, bias[..., None]], axis=-1, dtype=np.float32
    )


def _label_means(rows: LabeledRows, masks: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """How often (F, K) and where on average (F, K, r − 1) labels are."""
    weights = masks[:, :, None] * shares  # (F, n, K)
    counts = weights.sum(1)
    sums = weights.transpose(0, 2, 1) @ rows.features[:, :-1]
    return counts, sums / (counts[..., None] + 1)


def _mean_biases(means: Floats) -> Floats:
    """−s/2 · ‖m‖², (F, K)."""
    return np.asarray(-CLASS_MEAN_LOGIT_SCALE / 2 * (means**2).sum(-1), dtype=np.float32)


def fit_weights(
    rows: LabeledRows,
    start: Floats | None,
    previous: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[Floats, HeadHyperparameters]:
    """Choose ridge and temperature, then fit all rows.

    Args:
        rows: n ≥ 1 labeled rows.
        start: (K, r) float32 weights to start from, or None.
        previous: the choices of a head that knew nearly all of these rows, to be kept; or None.
        rng: deals folds.

    Returns:
        (K, r) float32 weights, their last column −1e4 for a label that cannot be predicted; and
        the choices.
    """
    projected_rows, basis = _project_rows(rows)
    projected_start = None if start is None else _project_onto_basis(start, basis)
    hyperparameters, start_weights = _choose_hyperparameters(
        projected_rows, projected_start, previous, rng
    )
    problems = projected_rows.build_problems(
        np.ones((1, len(rows.features)), np.float32), (hyperparameters.ridge,)
    )
    weights = _unproject(solve_problems(problems, start_weights)[0, 0], rows.text_weights, basis)
    weights[problems.excluded_labels[0]] = 0
    weights[problems.excluded_labels[0], -1] = IMPOSSIBLE_LOGIT
    return weights, hyperparameters


def _project_rows(rows: LabeledRows) -> tuple[LabeledRows, Floats | None]:
    """The rows in a basis of their own span, where that is much smaller than the space.

    The loss sees weights only through the rows, so what is learnt lies in their span.
    """
    count, width = rows.features.shape
    if 2 * count >= width:
        return rows, None
    basis = np.linalg.qr(rows.features[:, :-1].T)[0]  # (r − 1, n)
    text = None if rows.text_weights is None else _project_onto_basis(rows.text_weights, basis)
    return replace(
        rows, features=_project_onto_basis(rows.features, basis), text_weights=text
    ), basis


def _project_onto_basis(table: Floats, basis: Floats | None) -> Floats:
    """(·, r) → (·, n + 1), the last column kept."""
    if basis is None:
        return table
    return np.concatenate([table[:, :-1] @ basis, table[:, -1:]], axis=1)


def _unproject(weights: Floats, text: Floats | None, basis: Floats | None) -> Floats:
    """(K, n + 1) → (K, r): outside the span the weights stay at their anchors."""
    if basis is None:
        return weights
    span_weights = np.concatenate([weights[:, :-1] @ basis.T, weights[:, -1:]], axis=1)
    if text is None:
        return span_weights
    orthogonal_part = text[:, :-1] - (text[:, :-1] @ basis) @ basis.T
    return np.concatenate([span_weights[:, :-1] + orthogonal_part, span_weights[:, -1:]], axis=1)


def _choose_hyperparameters(
    rows: LabeledRows,
    start: Floats | None,
    previous: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[HeadHyperparameters, Floats | None]:
    """Ridge and temperature, and weights to start the last fit from."""
    count = len(rows.features)
    default_temperature = (
        CLASS_MEAN_TEMPERATURE if rows.text_weights is None else TEXT_ANCHOR_TEMPERATURE
    )
    ridges, source = _ridges_to_compare(rows, previous)
    if count < MIN_CALIBRATION_ROWS:
        return HeadHyperparameters(ridges[0], default_temperature, source), start
    if count > MAX_SUBSET_ROWS:
        return _choose_on_subset(rows, start, previous, rng)
    held_out_sets = _held_out_by_ridge(rows, ridges, rng)
    best_index, measured_temperature = select_best_candidate(held_out_sets)
    temperature = shrink_temperature(
        measured_temperature, len(held_out_sets[best_index].targets), default_temperature
    )
    return HeadHyperparameters(ridges[best_index], temperature, source, "out-of-fold"), start


def _choose_on_subset(
    rows: LabeledRows,
    start: Floats | None,
    previous: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[HeadHyperparameters, Floats | None]:
    """The same for many rows: the ridge on a subset, the temperature on rows held out."""
    if previous is not None:
        return replace(previous, ridge_from="previous", temperature_from="previous"), start
    order = rng.permutation(len(rows.features))
    ridges, source = _ridges_to_compare(rows, previous)
    best_index = 0
    if len(ridges) > 1:
        best_index, _ = select_best_candidate(
            _held_out_by_ridge(rows.subset(order[:MAX_SUBSET_ROWS]), ridges, rng)
        )
    held_out_rows = order[: min(MAX_SUBSET_ROWS, len(order) // 5)]
    train_mask = np.ones((1, len(order)), dtype=np.float32)
    train_mask[:, held_out_rows] = 0
    problems = rows.build_problems(train_mask, ridges[best_index : best_index + 1])
    weights = solve_problems(problems, start, tolerance=COARSE_TOLERANCE)
    logits = rows.features[held_out_rows] @ weights[0, 0].T
    excluded_labels = np.repeat(problems.excluded_labels, len(held_out_rows), axis=0)
    _, temperature = select_best_candidate(
        [_answerable_logits(logits, rows.subset(held_out_rows), excluded_labels)]
    )
    return HeadHyperparameters(ridges[best_index], temperature, source, "held-out"), weights[0, 0]


def _ridges_to_compare(
    rows: LabeledRows, previous: HeadHyperparameters | None
) -> tuple[tuple[float, ...], str]:
    """The ridges to compare, the first being the one to take without comparison."""
    if previous is not None:
        return (previous.ridge,), "previous"
    if not _can_compare_ridges(rows):
        return (_default_ridge(rows),), "default"
    return RIDGE_CANDIDATES, "cross-validation"


def _default_ridge(rows: LabeledRows) -> float:
    """Class means grow with the labels and need little pull; names are trusted 1 / (1 + n̄)."""
    if rows.text_weights is None:
        return CLASS_MEAN_RIDGE
    return TEXT_ANCHOR_RIDGE / (1 + float(np.nan_to_num(rows.targets).sum(0).mean()))


def _can_compare_ridges(rows: LabeledRows) -> bool:
    """Whether every label was given (``multiple``: and denied) often enough to compare ridges.

    A label without any example cannot be predicted and does not count, unless it has a name: no
    comparison would notice that a weak pull makes the model forget it.
    """
    positive_counts = np.nan_to_num(rows.targets).sum(0)
    has_enough = positive_counts >= MIN_EXAMPLES_PER_LABEL
    if rows.multiple:
        has_enough &= np.nan_to_num(1 - rows.targets).sum(0) >= MIN_EXAMPLES_PER_LABEL
    return bool(
        has_enough.all() if rows.text_weights is not None else has_enough[positive_counts > 0].all()
    )


def _held_out_by_ridge(
    rows: LabeledRows, ridges: tuple[float, ...], rng: np.random.Generator
) -> list[HeldOutLogits]:
    """For each ridge, every row as answered by a model that did not see it."""
    count = len(rows.features)
    fold_of_row = assign_folds(rows.targets, 5 if count < FIVE_FOLD_ROW_LIMIT else 3, rng)
    masks = (fold_of_row != np.arange(fold_of_row.max() + 1)[:, None]).astype(np.float32)
    problems = rows.build_problems(masks, ridges)
    weights = solve_problems(problems, tolerance=COARSE_TOLERANCE)  # (R, F, K, r)
    logits = np.einsum("nr,pfkr->pfnk", rows.features, weights, optimize=True)
    own_fold_logits = logits[:, fold_of_row, np.arange(count)]  # (R, n, K)
    return [
        _answerable_logits(table, rows, problems.excluded_labels[fold_of_row])
        for table in own_fold_logits
    ]


def _answerable_logits(logits: Floats, rows: LabeledRows, excluded_labels: Bools) -> HeldOutLogits:
    """Leave out what the model could not have known: labels that it had no example of."""
    if rows.multiple:
        return HeldOutLogits(
            logits, np.where(excluded_labels, np.nan, rows.targets).astype(np.float32), True
        )
    truth = np.nan_to_num(rows.targets)
    masked_logits = np.where(
        excluded_labels | np.isnan(rows.targets), np.float32(IMPOSSIBLE_LOGIT), logits
    )
    is_answerable = (truth * excluded_labels).sum(1) == 0
    return HeldOutLogits(masked_logits[is_answerable], truth[is_answerable], False)
