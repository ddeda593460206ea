"""Fit the weights of a head to labeled rows, and choose ridge and temperature."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from backend.arrays import Bools, Floats, Indices
from backend.vision.heads.calibration import (
    HeldOutLogits,
    assign_folds,
    fit_temperature,
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
"""Ridges that are compared, for features of unit mean square length."""
TEXT_ANCHOR_RIDGE, CLASS_MEAN_RIDGE = 2.0, 0.05
"""Ridge while there are too few labels for a comparison, see :func:`_default_ridge`."""
CLASS_MEAN_LOGIT_SCALE = 20.0
"""Logits per unit along a class mean: 1 / the assumed variance of a class in one direction."""
TEXT_ANCHOR_TEMPERATURE, CLASS_MEAN_TEMPERATURE = 1.0, 1.5
"""Default temperature for few labels; heads on the means of few images are overconfident."""
MIN_EXAMPLES_PER_LABEL = 5
"""Examples of each label from which ridges are compared (reference/learning.md)."""
MIN_CALIBRATION_ROWS = 10
"""Rows from which rows are held out for calibration."""
MAX_SUBSET_ROWS = 1000
"""Maximum rows for comparing ridges, and maximum held-out rows beyond that."""
FIVE_FOLD_ROW_LIMIT = 300
"""Rows below which there are five folds; from there on three."""


@dataclass(frozen=True)
class HeadHyperparameters:
    """The hyperparameters of a fit, and how they were chosen.

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
    """Labeled rows, and the anchors of the weights.

    Attributes:
        features: (n, r) float32, the last column 1.
        targets: (n, K) float32, 0 to 1, NaN for a label that the annotator was not offered.
        multiple: K sigmoids instead of one softmax.
        text_weights: (K, r) float32 weights from the label names; None anchors at class means.
    """

    features: Floats
    targets: Floats
    multiple: bool
    text_weights: Floats | None

    def subset(self, rows: Indices) -> LabeledRows:
        """Return some of the rows."""
        return replace(self, features=self.features[rows], targets=self.targets[rows])

    def build_problems(self, masks: Floats, ridges: tuple[float, ...]) -> LogisticProblems:
        """Build the problems of folds, (F, n) float32 with 1 for a training row."""
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
    """Return the weights of a nearest-mean classifier, the anchor without text: (F, K, r) float32.

    Labels are Gaussians of equal, round spread (linear discriminant analysis with covariance I / s,
    s = ``CLASS_MEAN_LOGIT_SCALE``): w_k = s · m_k and b_k = −s/2 · ‖m_k‖². Means are shrunk to the
    centre of the pool as by one more image there. With ``multiple`` a label is compared with its
    absence, with the log-odds of its frequency.

    Args:
        rows: n labeled rows.
        masks: (F, n) float32, 1 for a row that counts.
    """
    positive_counts, means = _label_means(rows, masks, np.nan_to_num(rows.targets))
    bias = _mean_biases(means)
    if rows.multiple:
        negative_counts, negative_means = _label_means(rows, masks, np.nan_to_num(1 - rows.targets))
        log_odds = np.log((positive_counts + 1) / (negative_counts + 1))
        bias = bias - _mean_biases(negative_means) + log_odds
        means = means - negative_means
    weights = [CLASS_MEAN_LOGIT_SCALE * means, bias[..., None]]
    return np.concatenate(weights, axis=-1, dtype=np.float32)


def _label_means(rows: LabeledRows, masks: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Return the count (F, K) and mean (F, K, r − 1) of each label."""
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
    reused: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[Floats, HeadHyperparameters]:
    """Choose ridge and temperature, then fit all rows.

    Args:
        rows: n ≥ 1 labeled rows.
        start: (K, r) float32 initial weights, or None.
        reused: hyperparameters of a head trained on nearly all of these rows; None to choose them.
        rng: assigns folds.

    Returns:
        (K, r) float32 weights, their last column −1e4 for a label that cannot be predicted; and the
        hyperparameters.
    """
    projected_rows, basis = _project_rows(rows)
    start = None if start is None else _project_onto_basis(start, basis)
    chosen, start = _choose_hyperparameters(projected_rows, start, reused, rng)
    all_rows = np.ones((1, len(rows.features)), np.float32)
    problems = projected_rows.build_problems(all_rows, (chosen.ridge,))
    weights = _unproject(solve_problems(problems, start)[0, 0], rows.text_weights, basis)
    weights[problems.excluded_labels[0]] = 0
    weights[problems.excluded_labels[0], -1] = IMPOSSIBLE_LOGIT
    return weights, chosen


def _project_rows(rows: LabeledRows) -> tuple[LabeledRows, Floats | None]:
    """Project the rows onto a basis of their span, if that is much smaller than the space.

    The loss depends on the weights only through the rows, so the fitted change lies in their span.
    """
    count, width = rows.features.shape
    if 2 * count >= width:
        return rows, None
    basis = np.linalg.qr(rows.features[:, :-1].T)[0]  # (r − 1, n)
    text = None if rows.text_weights is None else _project_onto_basis(rows.text_weights, basis)
    features = _project_onto_basis(rows.features, basis)
    return replace(rows, features=features, text_weights=text), basis


def _project_onto_basis(table: Floats, basis: Floats | None) -> Floats:
    """(·, r) → (·, n + 1), the last column unchanged."""
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
    reused: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[HeadHyperparameters, Floats | None]:
    """Return ridge and temperature, and initial weights for the final fit."""
    count = len(rows.features)
    default = CLASS_MEAN_TEMPERATURE if rows.text_weights is None else TEXT_ANCHOR_TEMPERATURE
    ridges, source = _ridges_to_compare(rows, reused)
    if count < MIN_CALIBRATION_ROWS:
        return HeadHyperparameters(ridges[0], default, source), start
    if count > MAX_SUBSET_ROWS:
        return _choose_on_subset(rows, start, reused, rng)
    held_out = _held_out_by_ridge(rows, ridges, rng)
    best, measured = select_best_candidate(held_out)
    temperature = shrink_temperature(measured, len(held_out[best].targets), default)
    return HeadHyperparameters(ridges[best], temperature, source, "out-of-fold"), start


def _choose_on_subset(
    rows: LabeledRows,
    start: Floats | None,
    reused: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[HeadHyperparameters, Floats | None]:
    """Choose for many rows: the ridge on a subset, the temperature on held-out rows."""
    if reused is not None:
        return replace(reused, ridge_from="previous", temperature_from="previous"), start
    order = rng.permutation(len(rows.features))
    ridges, source = _ridges_to_compare(rows, reused)
    best = 0
    if len(ridges) > 1:
        subset = rows.subset(order[:MAX_SUBSET_ROWS])
        best, _ = select_best_candidate(_held_out_by_ridge(subset, ridges, rng))
    held_out = order[: min(MAX_SUBSET_ROWS, len(order) // 5)]
    train_mask = np.ones((1, len(order)), dtype=np.float32)
    train_mask[:, held_out] = 0
    problems = rows.build_problems(train_mask, (ridges[best],))
    weights = solve_problems(problems, start, tolerance=COARSE_TOLERANCE)[0, 0]
    excluded_labels = np.repeat(problems.excluded_labels, len(held_out), axis=0)
    logits = rows.features[held_out] @ weights.T
    temperature = fit_temperature(
        _answerable_logits(logits, rows.subset(held_out), excluded_labels)
    )
    return HeadHyperparameters(ridges[best], temperature, source, "held-out"), weights


def _ridges_to_compare(
    rows: LabeledRows, reused: HeadHyperparameters | None
) -> tuple[tuple[float, ...], str]:
    """Return the ridges to compare, the first being the default, and the source of the choice."""
    if reused is not None:
        return (reused.ridge,), "previous"
    if not _can_compare_ridges(rows):
        return (_default_ridge(rows),), "default"
    return RIDGE_CANDIDATES, "cross-validation"


def _default_ridge(rows: LabeledRows) -> float:
    """Return a low ridge for class means, and for text one that falls with the mean label count."""
    if rows.text_weights is None:
        return CLASS_MEAN_RIDGE
    return TEXT_ANCHOR_RIDGE / (1 + float(np.nan_to_num(rows.targets).sum(0).mean()))


def _can_compare_ridges(rows: LabeledRows) -> bool:
    """Return whether every label has enough examples, and with ``multiple`` counterexamples.

    A label without examples cannot be predicted and does not count, unless it has a text anchor: a
    comparison would not notice that a low ridge makes the model forget it.
    """
    positive_counts = np.nan_to_num(rows.targets).sum(0)
    has_enough = positive_counts >= MIN_EXAMPLES_PER_LABEL
    if rows.multiple:
        has_enough &= np.nan_to_num(1 - rows.targets).sum(0) >= MIN_EXAMPLES_PER_LABEL
    counted = has_enough[positive_counts > 0] if rows.text_weights is None else has_enough
    return bool(counted.all())


def _held_out_by_ridge(
    rows: LabeledRows, ridges: tuple[float, ...], rng: np.random.Generator
) -> list[HeldOutLogits]:
    """Return for each ridge the logits of every row by a model that was not trained on it."""
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
    """Exclude labels for which the model had no training example."""
    if rows.multiple:
        known_targets = np.where(excluded_labels, np.nan, rows.targets).astype(np.float32)
        return HeldOutLogits(logits, known_targets, True)
    truth = np.nan_to_num(rows.targets)
    impossible = excluded_labels | np.isnan(rows.targets)
    masked_logits = np.where(impossible, np.float32(IMPOSSIBLE_LOGIT), logits)
    is_answerable = (truth * excluded_labels).sum(1) == 0
    return HeldOutLogits(masked_logits[is_answerable], truth[is_answerable], False)
