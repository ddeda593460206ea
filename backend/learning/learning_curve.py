"""The learning curve: forecast the accuracy with more labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backend.arrays import Doubles
from backend.estimate import IntervalEstimate

MIN_CURVE_POINTS = 3
MAX_EXTRAPOLATION_FACTOR = 3
"""The curve is extrapolated to this multiple of the current labels (reference/learning.md)."""
CURVE_DRAW_COUNT = 200
STOP_HORIZON_LABELS = 100
"""Number of further labels whose gain decides whether labeling can stop."""
MIN_REQUESTED_EXAMPLES = 5
"""Smallest number of examples requested for a label."""
MAX_FLAT_DRAW_SHARE = 0.975
"""Share of flat fits (b = 0) above which no curve is returned, because the error grows."""
MIN_USEFUL_GAIN = 0.005
"""Minimum gain in accuracy for which the next ``STOP_HORIZON_LABELS`` are worth labeling."""
MIN_VERSION_KAPPA = 0.95
"""Minimum Cohen's kappa of two successive versions whose predictions count as stable."""
EXPONENT_GRID = np.linspace(0.1, 1.0, 19)


@dataclass(frozen=True)
class CurvePoint:
    """The error rate of one version.

    Attributes:
        label_count: number of training labels, at least 1.
        error: error rate, 0 to 1.
        answer_count: number of images it was measured on.
    """

    label_count: int
    error: float
    answer_count: int


@dataclass(frozen=True)
class LabelMisses:
    """How often one label is missed.

    Attributes:
        missed: number of evaluated examples that were not predicted.
        example_count: number of evaluated examples, at least 1.
        training_examples: number of examples in the training set.
        max_more: upper limit of further examples: the images without a label; None for objects,
            of which an image may have several.
    """

    missed: int
    example_count: int
    training_examples: int
    max_more: int | None = None

    @property
    def error(self) -> float:
        """Share of the evaluated examples that were missed."""
        return self.missed / self.example_count

    def sample_error(self, count: int, rng: np.random.Generator) -> Doubles:
        """Draw ``count`` error rates from Jeffreys' posterior."""
        return rng.beta(self.missed + 0.5, self.example_count - self.missed + 0.5, size=count)


@dataclass(frozen=True)
class LearningCurve:
    """The power law error(labels) = a + b · labels^(−c), fitted to resampled points.

    Attributes:
        fits: (draws, 3) a ≥ 0, b ≥ 0, 0 < c ≤ 1.
        label_count: current number of training labels.
    """

    fits: Doubles
    label_count: int

    @property
    def max_labels(self) -> int:
        """Number of labels up to which the curve may be extrapolated."""
        return MAX_EXTRAPOLATION_FACTOR * self.label_count

    def predict_error(self, label_count: float) -> tuple[float, float, float]:
        """Return the expected error for a number of labels: median, 5 % and 95 % quantile."""
        low, median, high = np.quantile(self._errors(label_count), [0.05, 0.5, 0.95])
        return float(median), float(low), float(high)

    def label_multiplier(self, target_shares: Doubles) -> Doubles:
        """Return the factor by which the labels must grow to reach a share of the current error.

        Args:
            target_shares: (draws,) above 0, one for each fit.

        Returns:
            (draws,) at least 1; infinite if no number of labels is enough.
        """
        targets = self._errors(self.label_count) * target_shares
        multipliers = np.maximum(self._required_labels(targets) / self.label_count, 1.0)
        return np.asarray(np.where(target_shares >= 1, 1.0, multipliers))

    def labels_needed(self, target_error: float) -> tuple[int, int | None] | None:
        """Return how many more labels reduce the error to a target: 5 % and 95 % quantile.

        Returns:
            None if the median exceeds ``max_labels``; the upper end is None if only it does.
        """
        required = np.maximum(self._required_labels(target_error), 1e-9)
        low, median, high = np.quantile(required, [0.05, 0.5, 0.95], method="nearest")
        if median > self.max_labels:
            return None
        fewest, most = (
            max(0, round(float(count) - self.label_count)) if count <= self.max_labels else None
            for count in (low, high)
        )
        return fewest or 0, most

    def can_reach(self, target_accuracy: float, more_labels: int) -> bool:
        """Return whether the 95 % quantile of the accuracy reaches a target, in whole percent.

        Args:
            target_accuracy: 0 to 1.
            more_labels: limit of further labels, besides ``max_labels``.
        """
        limit = min(self.max_labels, self.label_count + more_labels)
        return round(1 - self.predict_error(limit)[1], 2) >= target_accuracy

    def expected_gain(self, more_labels: int) -> Doubles:
        """Return the reduction of the error with more labels, (draws,)."""
        _, b, c = self.fits.T
        return np.asarray(b * (self.label_count**-c - (self.label_count + more_labels) ** -c))

    def _errors(self, label_count: float) -> Doubles:
        a, b, c = self.fits.T
        return np.asarray(a + b * label_count**-c)

    def _required_labels(self, target_error: Doubles | float) -> Doubles:
        a, b, c = self.fits.T
        reducible = np.maximum(target_error - a, 0)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.where(reducible > 0, (b / reducible) ** (1 / c), np.inf)


def fit_learning_curve(
    points: Sequence[CurvePoint], rng: np.random.Generator
) -> LearningCurve | None:
    """Fit a power law, which most learning curves follow (Viering and Loog 2021, arXiv 2103.10948).

    Weighted least squares, with weights from the binomial variance of each point. The points are
    resampled from Jeffreys' posterior, so that an error of 0 on few images stays uncertain. If more
    labels did not help so far, the curve is flat (b = 0) and its band shows the possible gain.
    Points measured on the same images are correlated: the band of the level is slightly too narrow
    and that of the slope too wide, which is conservative for a forecast.

    Args:
        points: points of versions, in any order; of points with the same number of labels the last
            one is used.
        rng: random generator.

    Returns:
        None with fewer than ``MIN_CURVE_POINTS``, or if the error grows significantly with the
        labels.
    """
    usable = {p.label_count: p for p in points if p.label_count > 0 and p.answer_count > 0}
    rows = [(count, p.answer_count, p.error) for count, p in sorted(usable.items())]
    if len(rows) < MIN_CURVE_POINTS:
        return None
    label_counts, answer_counts, error = np.array(rows, dtype=float).T
    weights = answer_counts / np.maximum(error * (1 - error), 1 / (answer_counts + 2))
    wrong_counts = answer_counts * np.clip(error, 0, 1)
    error_draws = rng.beta(
        wrong_counts + 0.5,
        answer_counts - wrong_counts + 0.5,
        size=(CURVE_DRAW_COUNT, len(rows)),
    )
    fits = _fit_power_law(label_counts, error_draws, weights)
    if np.mean(fits[:, 1] <= 0) > MAX_FLAT_DRAW_SHARE:
        return None
    return LearningCurve(fits, int(label_counts[-1]))


def describe_forecast(
    curve: LearningCurve | None,
    measured: IntervalEstimate,
    target_accuracy: float,
    open_images: int,
) -> str:
    """Return a sentence on the expected accuracy with more labels; empty without a forecast.

    It agrees with the measured figure, which is displayed beside it: the curve smooths the figures
    of all versions, so its current value differs from the last of them.

    Args:
        curve: the project's learning curve.
        measured: current accuracy or F1, with a value.
        target_accuracy: accuracy to reach, 0 to 1.
        open_images: number of images without a label, an upper limit of the labels to come.
    """
    metric, accuracy = "F1" if measured.metric == "F1" else "accuracy", measured.value or 0.0
    if open_images < 1:
        return ""
    if round(accuracy, 2) >= target_accuracy:
        basis = "estimated" if "cross-validation" in measured.metric else "measured"
        return (
            f"The {basis} {metric} has reached the goal of {target_accuracy:.0%}. More labels "
            "narrow its interval."
        )
    if curve is None:
        return ""
    needed = curve.labels_needed(1 - target_accuracy)
    if needed and (label_range := _limit_range(*needed, open_images)):
        gain_text = f"the {metric} from {accuracy:.0%} to {target_accuracy:.0%}"
        return f"{label_range.capitalize()} more labels are expected to bring {gain_text}."
    more_labels = min(STOP_HORIZON_LABELS, curve.max_labels - curve.label_count, open_images)
    median_error, low, high = curve.predict_error(curve.label_count + more_labels)
    can_reach = round(measured.high, 2) >= target_accuracy or (
        curve.can_reach(target_accuracy, open_images)
    )
    limit_text = "" if can_reach else f"{target_accuracy:.0%} is not within reach; "
    labels_text = f"{more_labels} more label{'s are' if more_labels != 1 else ' is'}"
    if round(1 - median_error, 2) <= round(accuracy, 2):
        return (
            f"{limit_text}{labels_text} not expected to raise the {metric} of {accuracy:.0%} "
            "noticeably."
        )
    return (
        f"{limit_text}{labels_text} expected to bring the {metric} to {1 - median_error:.0%} "
        f"({1 - high:.0%} to {1 - low:.0%})."
    )


def _limit_range(low: int, high: int | None, limit: int) -> str:
    """Return a range of labels as text; empty if it says nothing or exceeds the limit."""
    if low > limit:
        return ""
    limited_high = high if high is not None and high <= limit else None
    if low < 1:
        return f"up to {limited_high}" if limited_high else ""
    return format_range(low, limited_high)


def rank_weakest_labels(
    curve: LearningCurve | None,
    misses_by_label: Mapping[str, LabelMisses],
    target_recall: float,
    rng: np.random.Generator,
    limit: int = 3,
) -> list[tuple[str, int, int | None]]:
    """Return the labels that need more examples, and how many: 5 % and 95 % quantile.

    A label's error is assumed to fall with its examples like the project's error with all labels.
    Both are resampled, the label's error from Jeffreys' posterior. A label without further images
    is left out.

    Args:
        curve: the project's learning curve; without one the result is empty.
        misses_by_label: label → its misses.
        target_recall: recall to reach, 0 to 1.
        rng: random generator.
        limit: maximum number of labels.

    Returns:
        (label, low, high) additional examples, lowest recall first; high is None beyond
        ``MAX_EXTRAPOLATION_FACTOR`` times the current examples.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> curve = LearningCurve(np.tile([0.0, 1.0, 0.5], (200, 1)), label_count=100)
        >>> misses = {"wilting": LabelMisses(200, 1000, 40), "fine": LabelMisses(1, 99, 9)}
        >>> rank_weakest_labels(curve, misses, 0.85, rng)
        [('wilting', 19, 47)]
    """
    target_error = 1 - target_recall
    if curve is None:
        return []
    weak = [
        item
        for item in misses_by_label.items()
        if item[1].error > target_error and item[1].max_more != 0
    ]
    requests = []
    for name, misses in sorted(weak, key=lambda item: -item[1].error)[:limit]:
        shares = target_error / misses.sample_error(len(curve.fits), rng)
        factors = np.quantile(curve.label_multiplier(shares), [0.05, 0.95], method="nearest")
        low, high = (
            max(MIN_REQUESTED_EXAMPLES, round((factor - 1) * misses.training_examples))
            for factor in np.minimum(factors, MAX_EXTRAPOLATION_FACTOR).tolist()
        )
        limit = high if misses.max_more is None else misses.max_more
        is_bounded = factors[1] <= MAX_EXTRAPOLATION_FACTOR and high <= limit
        requests.append((name, min(low, limit), high if is_bounded else None))
    return requests


def format_range(minimum: int, maximum: int | None) -> str:
    """Return a range of numbers as text.

    Example:
        >>> format_range(20, 60), format_range(20, None), format_range(20, 20)
        ('about 20 to 60', 'at least 20', 'about 20')
    """
    if maximum is None:
        return f"at least {minimum}"
    return f"about {minimum} to {maximum}" if maximum > minimum else f"about {minimum}"


def should_stop_labeling(curve: LearningCurve | None, version_kappa: float | None) -> bool:
    """Return whether the next ``STOP_HORIZON_LABELS`` labels are not worth labeling.

    Args:
        curve: the project's learning curve.
        version_kappa: Cohen's kappa of the last two versions on the same images; None if unknown.
    """
    if curve is None or (version_kappa is not None and version_kappa < MIN_VERSION_KAPPA):
        return False
    if curve.label_count + STOP_HORIZON_LABELS > curve.max_labels:
        return False
    return bool(np.quantile(curve.expected_gain(STOP_HORIZON_LABELS), 0.95) < MIN_USEFUL_GAIN)


def cohen_kappa(first_answers: Sequence[str], second_answers: Sequence[str]) -> float | None:
    """Return Cohen's kappa, the agreement of two raters beyond chance; None without answers.

    Example:
        >>> cohen_kappa(["a", "b", "a", "b"], ["a", "b", "a", "a"])
        0.5
    """
    if not first_answers:
        return None
    count = len(first_answers)
    observed = sum(a == b for a, b in zip(first_answers, second_answers, strict=True)) / count
    first, second = Counter(first_answers), Counter(second_answers)
    chance = sum(first[answer] * second[answer] for answer in first) / count**2
    return 1.0 if chance == 1 else round((observed - chance) / (1 - chance), 4)


def _fit_power_law(label_counts: Doubles, errors: Doubles, weights: Doubles) -> Doubles:
    """Return the least-squares fit of each draw: a, b ≥ 0 in closed form, c on a grid.

    Args:
        label_counts: (n,) x values.
        errors: (draws, n) y values.
        weights: (n,) weights.

    Returns:
        (draws, 3) a, b, c.
    """
    weights = weights / weights.sum()
    mean_errors = errors @ weights
    best_fits, lowest_loss = np.zeros((len(errors), 3)), np.full(len(errors), np.inf)
    for c in EXPONENT_GRID:
        power = label_counts**-c
        mean_power = float(power @ weights)
        deviation = power - mean_power
        variance = max(float(deviation**2 @ weights), 1e-12)
        slope = (errors - mean_errors[:, None]) @ (deviation * weights) / variance
        b = np.clip(slope, 0, mean_errors / mean_power)  # so that a is not negative
        a = mean_errors - b * mean_power
        loss = (errors - a[:, None] - b[:, None] * power) ** 2 @ weights
        is_better = loss < lowest_loss
        lowest_loss = np.where(is_better, loss, lowest_loss)
        best_fits[is_better] = np.stack([a, b, np.full(len(b), c)], axis=1)[is_better]
    return best_fits
