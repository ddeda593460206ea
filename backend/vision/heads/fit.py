"""Select hyperparameters and fit the weights of a head."""

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
"""Candidates for cross-validation, for features of unit mean squared norm."""
TEXT_ANCHOR_RIDGE, CLASS_MEAN_RIDGE = 2.0, 0.05
"""Ridge with too few labels for cross-validation, see :func:`_default_ridge`."""
CLASS_MEAN_LOGIT_SCALE = 20.0
"""Inverse of the assumed variance of each class along one feature."""
TEXT_ANCHOR_TEMPERATURE, CLASS_MEAN_TEMPERATURE = 1.0, 1.5
"""Default temperature with few labels; heads anchored at class means are overconfident."""
MIN_EXAMPLES_PER_LABEL = 5
"""Minimum examples of each label for cross-validating the ridge (reference/learning.md)."""
MIN_CALIBRATION_ROWS = 10
"""Minimum rows for fitting the temperature."""
MAX_SUBSET_ROWS = 1000
"""Maximum rows for cross-validation. With more rows, the ridge is cross-validated on a subset of
this size, and the temperature is fitted on at most as many held-out rows."""
FIVE_FOLD_ROW_LIMIT = 300
"""Number of rows below which there are five folds instead of three."""


@dataclass(frozen=True)
class HeadHyperparameters:
    """The hyperparameters of a head and how they were chosen.

    Attributes:
        ridge: L2 penalty on the distance of the weights from their anchors.
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
    """Training data of a head and the anchors of its weights.

    Attributes:
        features: (n, r) float32; the last column is 1.
        targets: (n, K) float32, 0 to 1, NaN for labels that the annotator was not offered.
        multiple: multi-label: K sigmoids instead of one softmax.
        text_weights: (K, r) float32 anchors from label names; None to anchor at class means.
    """

    features: Floats
    targets: Floats
    multiple: bool
    text_weights: Floats | None

    def subset(self, rows: Indices) -> LabeledRows:
        """Return the rows at the given indices."""
        return replace(self, features=self.features[rows], targets=self.targets[rows])

    def build_problems(self, masks: Floats, ridges: tuple[float, ...]) -> LogisticProblems:
        """Build the problems for all folds and ridges.

        Args:
            masks: (F, n) float32, 1 for the training rows of each fold.
            ridges: ridge values.
        """
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
    """Return the weights of a nearest-mean classifier: (F, K, r) float32.

    They are the anchors if there are no text weights.
    This is linear discriminant analysis with covariance I / s, s = ``CLASS_MEAN_LOGIT_SCALE``:
    w_k = s · m_k and b_k = −s/2 · ‖m_k‖². Means are shrunk towards the origin by one pseudo-image.
    With ``multiple``, each label is discriminated from its absence, and the bias includes the
    log-odds of its frequency.

    Args:
        rows: n labeled rows.
        masks: (F, n) float32, 1 for the training rows of each fold.
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
    """Return weighted counts (F, K) and shrunk means (F, K, r − 1) of each label."""
    weights = masks[:, :, None] * shares  # (F, n, K)
    counts = weights.sum(1)
    sums = weights.transpose(0, 2, 1) @ rows.features[:, :-1]
    return counts, sums / (counts[..., None] + 1)


def _mean_biases(means: Floats) -> Floats:
    """Return −s/2 · ‖m‖², (F, K)."""
    return np.asarray(-CLASS_MEAN_LOGIT_SCALE / 2 * (means**2).sum(-1), dtype=np.float32)


def fit_weights(
    rows: LabeledRows,
    start: Floats | None,
    reused: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[Floats, HeadHyperparameters]:
    """Choose ridge and temperature, then fit the weights to all rows.

    Args:
        rows: n ≥ 1 labeled rows.
        start: (K, r) float32 initial weights, or None.
        reused: hyperparameters to reuse from a head trained on nearly the same rows, or None.
        rng: random generator for folds and subsets.

    Returns:
        (K, r) float32 weights, with a bias (last column) of −1e4 for labels that cannot be
        predicted; and the hyperparameters.
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
    """Project the features onto their span if n is less than half of r; return its basis.

    By the representer theorem, the difference between fitted weights and anchors is in this span.
    """
    count, width = rows.features.shape
    if 2 * count >= width:
        return rows, None
    basis = np.linalg.qr(rows.features[:, :-1].T)[0]  # (r − 1, n)
    text = None if rows.text_weights is None else _project_onto_basis(rows.text_weights, basis)
    features = _project_onto_basis(rows.features, basis)
    return replace(rows, features=features, text_weights=text), basis


def _project_onto_basis(matrix: Floats, basis: Floats | None) -> Floats:
    """Convert (·, r) to (·, n + 1); the last column is unchanged."""
    if basis is None:
        return matrix
    return np.concatenate([matrix[:, :-1] @ basis, matrix[:, -1:]], axis=1)


def _unproject(weights: Floats, text: Floats | None, basis: Floats | None) -> Floats:
    """Convert weights (K, n + 1) to (K, r); outside the span they equal the anchors."""
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
    """Return hyperparameters, and initial weights for the final fit."""
    count = len(rows.features)
    default = CLASS_MEAN_TEMPERATURE if rows.text_weights is None else TEXT_ANCHOR_TEMPERATURE
    ridges, source = _candidate_ridges(rows, reused)
    if count < MIN_CALIBRATION_ROWS:
        return HeadHyperparameters(ridges[0], default, source), start
    if count > MAX_SUBSET_ROWS:
        return _choose_on_subset(rows, start, reused, rng)
    held_out = _held_out_by_ridge(rows, ridges, rng)
    best, fitted = select_best_candidate(held_out)
    temperature = shrink_temperature(fitted, len(held_out[best].targets), default)
    return HeadHyperparameters(ridges[best], temperature, source, "out-of-fold"), start


def _choose_on_subset(
    rows: LabeledRows,
    start: Floats | None,
    reused: HeadHyperparameters | None,
    rng: np.random.Generator,
) -> tuple[HeadHyperparameters, Floats | None]:
    """Choose the ridge on a subset and the temperature on held-out rows, for many rows."""
    if reused is not None:
        return replace(reused, ridge_from="previous", temperature_from="previous"), start
    order = rng.permutation(len(rows.features))
    ridges, source = _candidate_ridges(rows, reused)
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
        _predictable_logits(logits, rows.subset(held_out), excluded_labels)
    )
    return HeadHyperparameters(ridges[best], temperature, source, "held-out"), weights


def _candidate_ridges(
    rows: LabeledRows, reused: HeadHyperparameters | None
) -> tuple[tuple[float, ...], str]:
    """Return the candidate ridges, the default first, and the value of ``ridge_from``."""
    if reused is not None:
        return (reused.ridge,), "previous"
    if not _can_cross_validate(rows):
        return (_default_ridge(rows),), "default"
    return RIDGE_CANDIDATES, "cross-validation"


def _default_ridge(rows: LabeledRows) -> float:
    """Return the default ridge; with text anchors it falls with the mean label count."""
    if rows.text_weights is None:
        return CLASS_MEAN_RIDGE
    return TEXT_ANCHOR_RIDGE / (1 + float(np.nan_to_num(rows.targets).sum(0).mean()))


def _can_cross_validate(rows: LabeledRows) -> bool:
    """Return whether all labels have enough positive rows, and negative rows if ``multiple``.

    Labels without examples are ignored if they have no text anchor, since they cannot be predicted.
    With text anchors they prevent cross-validation: it cannot detect that a low ridge degrades
    labels that are absent from the held-out rows.
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
    """Return the out-of-fold logits of all rows for each ridge."""
    count = len(rows.features)
    fold_of_row = assign_folds(rows.targets, 5 if count < FIVE_FOLD_ROW_LIMIT else 3, rng)
    masks = (fold_of_row != np.arange(fold_of_row.max() + 1)[:, None]).astype(np.float32)
    problems = rows.build_problems(masks, ridges)
    weights = solve_problems(problems, tolerance=COARSE_TOLERANCE)  # (R, F, K, r)
    logits = np.einsum("nr,pfkr->pfnk", rows.features, weights, optimize=True)
    out_of_fold_logits = logits[:, fold_of_row, np.arange(count)]  # (R, n, K)
    return [
        _predictable_logits(ridge_logits, rows, problems.excluded_labels[fold_of_row])
        for ridge_logits in out_of_fold_logits
    ]


def _predictable_logits(logits: Floats, rows: LabeledRows, excluded_labels: Bools) -> HeldOutLogits:
    """Mask labels without training examples, and drop rows whose target is such a label."""
    if rows.multiple:
        known_targets = np.where(excluded_labels, np.nan, rows.targets).astype(np.float32)
        return HeldOutLogits(logits, known_targets, True)
    truth = np.nan_to_num(rows.targets)
    impossible = excluded_labels | np.isnan(rows.targets)
    masked_logits = np.where(impossible, np.float32(IMPOSSIBLE_LOGIT), logits)
    is_predictable = (truth * excluded_labels).sum(1) == 0
    return HeldOutLogits(masked_logits[is_predictable], truth[is_predictable], False)
