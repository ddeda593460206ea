"""How good the model will be with more labels: the learning curve, drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backend.arrays import Doubles

MIN_CURVE_POINTS = 3
"""Points a curve needs at least."""
MAX_EXTRAPOLATION_FACTOR = 3
"""How many times today's labels the curve is drawn on at most (reference/learning.md)."""
CURVE_DRAW_COUNT = 200
STOP_HORIZON_LABELS = 100
"""Labels that a stop hint looks ahead."""
MIN_REQUESTED_EXAMPLES = 5
"""Examples of a label that are asked for at least, where any are."""
MAX_FLAT_DRAW_SHARE = 0.975
"""Share of the draws without any progress from which on the figures are held to get worse."""
MIN_USEFUL_GAIN = 0.005
"""Gain of the next MORE labels from which on they are worth it."""
MIN_VERSION_KAPPA = 0.95
"""Kappa of two successive versions from which on they say the same."""
EXPONENT_GRID = np.linspace(0.1, 1.0, 19)


@dataclass(frozen=True)
class CurvePoint:
    """One version's figure.

    Attributes:
        label_count: it was trained on, at least 1.
        error: share of wrong answers, 0 to 1.
        answer_count: answers that rests on.
    """

    label_count: int
    error: float
    answer_count: int


@dataclass(frozen=True)
class LabelMisses:
    """What was missed of one label.

    Attributes:
        missed: of its examples that were judged, those that were not found.
        example_count: its examples that were judged, at least 1.
        training_examples: that the model learned from.
    """

    missed: int
    example_count: int
    training_examples: int

    @property
    def error(self) -> float:
        """The share that was missed."""
        return self.missed / self.example_count

    def sample_error(self, count: int, rng: np.random.Generator) -> Doubles:
        """The share as it may be in truth, (count,), drawn from Jeffreys' posterior."""
        return rng.beta(self.missed + 0.5, self.example_count - self.missed + 0.5, size=count)


@dataclass(frozen=True)
class LearningCurve:
    """error(labels) = a + b · labels^(−c), as often as it was fitted to points drawn anew.

    Attributes:
        fits: (draws, 3) a ≥ 0, b ≥ 0, 0 < c ≤ 1.
        label_count: today's.
    """

    fits: Doubles
    label_count: int

    def predict_error(self, label_count: float) -> tuple[float, float, float]:
        """Expected error with so many labels, and the band that holds 90 % of the fits.

        Args:
            label_count: up to REACH times today's.
        """
        a, b, c = self.fits.T
        low, median_error, high = np.quantile(a + b * label_count**-c, [0.05, 0.5, 0.95])
        return float(median_error), float(low), float(high)

    def label_multiplier(self, target_shares: Doubles) -> Doubles:
        """How many times today's labels bring the error down to a share of today's.

        Args:
            target_shares: (draws,) above 0, one for each fit.

        Returns:
            (draws,) at least 1; infinite where no number of labels does.
        """
        a, b, c = self.fits.T
        current_error = a + b * self.label_count**-c
        reducible_error = np.maximum(current_error * target_shares - a, 0)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            multipliers = np.where(
                reducible_error > 0, (b / reducible_error) ** (1 / c) / self.label_count, np.inf
            )
        return np.asarray(np.where(target_shares >= 1, 1.0, np.maximum(multipliers, 1.0)))

    def labels_needed(self, target_error: float) -> tuple[int, int | None] | None:
        """How many more labels bring the error down to a value: fewest and most, by the band.

        Returns:
            None where that is out of sight, beyond REACH times today's labels; most is None where
            only its end is.
        """
        a, b, c = self.fits.T
        reducible_error = np.maximum(target_error - a, 0)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            required_labels = np.where(
                reducible_error > 0, (b / reducible_error) ** (1 / c), np.inf
            )
        low, median_labels, high = np.quantile(
            np.maximum(required_labels, 1e-9), [0.05, 0.5, 0.95], method="nearest"
        )
        max_labels = MAX_EXTRAPOLATION_FACTOR * self.label_count
        if median_labels > max_labels:
            return None
        additional_labels = [
            max(0, round(float(value) - self.label_count)) if value <= max_labels else None
            for value in (low, high)
        ]
        return additional_labels[0] or 0, additional_labels[1]


def fit_learning_curve(
    points: Sequence[CurvePoint], rng: np.random.Generator
) -> LearningCurve | None:
    """The power law that most learning curves follow (Viering and Loog 2021, arXiv 2103.10948).

    Least squares, weighted by the binomial variance of each point; for the band the points are
    drawn anew, each from Jeffreys' posterior of its share, so that no error in few answers is no
    certainty. Where more labels have brought nothing so far the curve is flat, b = 0, and its band
    says what they may bring all the same. Points that were judged on the same images rise
    and fall together, which makes the band of the level a little too narrow and that of the slope
    too wide: it errs on the careful side where it is asked what more labels bring.

    Args:
        points: of versions, in any order; of equal labels the last one counts.
        rng: draws.

    Returns:
        None with fewer than FEWEST points, or where errors grow with the labels by more than
        chance: no learning curve describes that.
    """
    sorted_points = sorted(
        {p.label_count: p for p in points if p.label_count > 0 and p.answer_count > 0}.values(),
        key=_label_count,
    )
    if len(sorted_points) < MIN_CURVE_POINTS:
        return None
    label_counts = np.array([p.label_count for p in sorted_points], dtype=float)
    answer_counts = np.array([p.answer_count for p in sorted_points], dtype=float)
    error = np.array([p.error for p in sorted_points])
    weights = answer_counts / np.maximum(error * (1 - error), 1 / (answer_counts + 2))
    wrong_counts = answer_counts * np.clip(error, 0, 1)
    error_draws = rng.beta(
        wrong_counts + 0.5,
        answer_counts - wrong_counts + 0.5,
        size=(CURVE_DRAW_COUNT, len(sorted_points)),
    )
    fits = _fit_power_law(label_counts, error_draws, weights)
    if np.mean(fits[:, 1] <= 0) > MAX_FLAT_DRAW_SHARE:
        return None
    return LearningCurve(fits, int(label_counts[-1]))


def describe_forecast(curve: LearningCurve | None, target_accuracy: float) -> str:
    """What more labels are expected to bring, in a sentence; empty where nobody can say.

    Args:
        curve: of the project.
        target_accuracy: accuracy that is wanted, 0 to 1.
    """
    if curve is None:
        return ""
    accuracy = 1 - curve.predict_error(curve.label_count)[0]
    future_labels = min(
        curve.label_count + STOP_HORIZON_LABELS, MAX_EXTRAPOLATION_FACTOR * curve.label_count
    )
    if accuracy >= target_accuracy:
        return ""
    additional_labels = curve.labels_needed(1 - target_accuracy)
    if additional_labels:
        label_range = format_range(*additional_labels)
        gain_text = f"the accuracy from {accuracy:.0%} to {target_accuracy:.0%}"
        return f"{label_range.capitalize()} more labels are expected to bring {gain_text}."
    median_error, low, high = curve.predict_error(future_labels)
    return (
        f"{target_accuracy:.0%} is out of sight; {future_labels - curve.label_count} more labels are expected to bring "
        f"{1 - median_error:.0%} ({1 - high:.0%} to {1 - low:.0%})."
    )


def rank_weakest_labels(
    curve: LearningCurve | None,
    misses_by_label: Mapping[str, LabelMisses],
    target_recall: float,
    rng: np.random.Generator,
    limit: int = 3,
) -> list[tuple[str, int, int | None]]:
    """Which labels need more examples, and how many: fewest and most, by the band.

    A label's error is held to fall as that of the whole project does when its examples become so
    many times as many; both are drawn anew, the label's own from Jeffreys' posterior of its share.

    Args:
        curve: of the project; without one nobody can say.
        misses_by_label: by label, what was missed of it.
        target_recall: share of its examples that should be found, 0 to 1.
        rng: draws.
        limit: how many labels are told at most.

    Returns:
        (label, fewest, most) more examples, the neediest label first; most is None where its end
        is out of sight, beyond REACH times today's examples.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> curve = LearningCurve(np.tile([0.0, 1.0, 0.5], (200, 1)), labels=100)
        >>> rank_weakest_labels(curve, {"wilting": LabelMisses(200, 1000, 40), "fine": LabelMisses(1, 99, 9)}, 0.85, rng)
        [('wilting', 19, 47)]
    """
    target_error = 1 - target_recall
    weak_labels = {
        name: label_misses
        for name, label_misses in misses_by_label.items()
        if label_misses.error > target_error
    }
    if curve is None:
        return []
    requests = []
    for name in sorted(weak_labels, key=lambda name: -weak_labels[name].error)[:limit]:
        label_misses = weak_labels[name]
        multipliers = curve.label_multiplier(
            target_error / label_misses.sample_error(len(curve.fits), rng)
        )
        multiplier_range = np.quantile(multipliers, [0.05, 0.95], method="nearest")
        low, high = (
            max(
                MIN_REQUESTED_EXAMPLES,
                round((min(t, MAX_EXTRAPOLATION_FACTOR) - 1) * label_misses.training_examples),
            )
            for t in multiplier_range
        )
        requests.append(
            (name, low, high if multiplier_range[1] <= MAX_EXTRAPOLATION_FACTOR else None)
        )
    return requests


def format_range(minimum: int, maximum: int | None) -> str:
    """A number that lies between two, in words.

    Example:
        >>> format_range(20, 60), format_range(20, None), format_range(20, 20)
        ('about 20 to 60', 'at least 20', 'about 20')
    """
    if maximum is None:
        return f"at least {minimum}"
    return f"about {minimum} to {maximum}" if maximum > minimum else f"about {minimum}"


def should_stop_labeling(curve: LearningCurve | None, version_kappa: float | None) -> bool:
    """Whether the next MORE labels are not expected to pay; never beyond REACH.

    Args:
        curve: of the project.
        version_kappa: kappa of the last two versions' answers to the same images; None: not known.
    """
    if curve is None or (version_kappa is not None and version_kappa < MIN_VERSION_KAPPA):
        return False
    if curve.label_count + STOP_HORIZON_LABELS > MAX_EXTRAPOLATION_FACTOR * curve.label_count:
        return False
    _, b, c = curve.fits.T
    gain = b * (curve.label_count**-c - (curve.label_count + STOP_HORIZON_LABELS) ** -c)
    return bool(np.quantile(gain, 0.95) < MIN_USEFUL_GAIN)


def cohen_kappa(first_answers: Sequence[str], second_answers: Sequence[str]) -> float | None:
    """Cohen's kappa: how far two raters agree beyond chance; None without answers.

    Example:
        >>> cohen_kappa(["a", "b", "a", "b"], ["a", "b", "a", "a"])
        0.5
    """
    if not first_answers:
        return None
    observed_agreement = float(
        np.mean([a == b for a, b in zip(first_answers, second_answers, strict=True)])
    )
    chance_agreement = (
        sum(
            first_answers.count(x) * second_answers.count(x)
            for x in set(first_answers) | set(second_answers)
        )
        / len(first_answers) ** 2
    )
    return (
        1.0
        if chance_agreement == 1
        else round((observed_agreement - chance_agreement) / (1 - chance_agreement), 4)
    )


def _label_count(point: CurvePoint) -> int:
    return point.label_count


def _fit_power_law(label_counts: Doubles, errors: Doubles, weights: Doubles) -> Doubles:
    """The best a, b ≥ 0 for each exponent of a grid, and the best of those.

    Args:
        label_counts: (n,).
        errors: (draws, n).
        weights: (n,).

    Returns:
        (draws, 3) a, b, c.
    """
    normalized_weights = weights / weights.sum()
    mean_errors = errors @ normalized_weights
    best_fits, lowest_loss = np.zeros((len(errors), 3)), np.full(len(errors), np.inf)
    for c in EXPONENT_GRID:
        power = label_counts**-c
        mean_power = float(power @ normalized_weights)
        power_variance = float((power - mean_power) ** 2 @ normalized_weights)
        slope = (
            (errors - mean_errors[:, None])
            @ ((power - mean_power) * normalized_weights)
            / max(power_variance, 1e-12)
        )
        b = np.clip(slope, 0, mean_errors / mean_power)  # then a is not negative
        a = mean_errors - b * mean_power
        loss = (errors - a[:, None] - b[:, None] * power) ** 2 @ normalized_weights
        is_better = loss < lowest_loss
        lowest_loss = np.where(is_better, loss, lowest_loss)
        best_fits[is_better] = np.stack([a, b, np.full(len(b), c)], axis=1)[is_better]
    return best_fits
