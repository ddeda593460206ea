"""Test whether recent labels contradict a model that was trained on earlier ones.

The model was not trained on the recent labels, so its probabilities give the likelihood of each.
Labels of hard images, which active learning selects, contradict the model more often; the
probabilities account for that. The test statistic is the likelihood ratio of "a share of the
answers is wrong" against "none is wrong" (Neyman and Pearson 1933), and its null distribution is
sampled from the probabilities. They are first calibrated on earlier labels, with the versions that
were live then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles, Indices

ALTERNATIVE_ERROR_SHARE = 0.3
"""Share of wrong answers under the alternative, for which the test has the most power."""
NULL_DRAW_COUNT = 2000
TEMPERATURE_GRID = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Candidate temperatures; 1 leaves the probabilities as they are."""
RANDOM_ANSWER_GRID = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25)
"""Candidate shares of answers that people give at random."""
DEFAULT_CALIBRATION = (1.3, 0.03)
"""Temperature and share of random answers without data."""
MIN_OVERDISPERSION_IMAGES = 30
"""Number of images from which overdispersion is estimated."""
MAX_OVERDISPERSION = 4.0
MIN_PROBABILITY = 1e-9
"""Lower limit of the probability of a label that has training examples."""


@dataclass(frozen=True)
class AnsweredQuestions:
    """Answers, with the probabilities of a model that was not trained on them, by question.

    A single-choice control is one question per image, with a column for each label. A
    multiple-choice control is one question per label, with the columns no and yes.

    Attributes:
        probabilities: (n, K), rows sum to 1; 0 for labels without a training example.
        answer_columns: (n,) column of the given answer; its probability is above 0.
        image_ids: (n,) task id of each question.
    """

    probabilities: Doubles
    answer_columns: Indices
    image_ids: Indices

    @classmethod
    def from_single_labels(
        cls, probabilities: npt.ArrayLike, answers: npt.ArrayLike, image_ids: npt.ArrayLike
    ) -> AnsweredQuestions:
        """Return the questions of a single-choice control.

        Answers with a label that had no training example are left out.

        Args:
            probabilities: (n, K), rows sum to 1.
            answers: (n,) column of the annotated label.
            image_ids: (n,) task ids.
        """
        table, columns = np.asarray(probabilities, np.float64), np.asarray(answers, np.intp)
        known = table[np.arange(len(table)), columns] > 0
        return cls(table[known], columns[known], np.asarray(image_ids, np.intp)[known])

    @classmethod
    def from_multi_labels(
        cls, probabilities: npt.ArrayLike, answers: npt.ArrayLike, image_ids: npt.ArrayLike
    ) -> AnsweredQuestions:
        """Return the questions of a multiple-choice control.

        Args:
            probabilities: (n, K), 0 to 1 each; 0 for labels without a training example.
            answers: (n, K), 1 chosen, 0 not chosen, NaN not offered.
            image_ids: (n,) task ids.
        """
        table, chosen = np.asarray(probabilities, np.float64), np.asarray(answers, np.float64)
        is_asked = ~np.isnan(chosen) & (table > 0)
        tasks = np.broadcast_to(np.asarray(image_ids, np.intp)[:, None], table.shape)
        yes = np.clip(table[is_asked], MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        columns = (chosen[is_asked] > 0.5).astype(np.intp)
        return cls(np.stack([1 - yes, yes], axis=1), columns, tasks[is_asked])

    @classmethod
    def concatenate(cls, parts: Sequence[AnsweredQuestions]) -> AnsweredQuestions:
        """Concatenate questions with the same labels."""
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.answer_columns for part in parts]),
            np.concatenate([part.image_ids for part in parts]),
        )

    @property
    def images(self) -> int:
        """Number of images."""
        return len(np.unique(self.image_ids))


@dataclass(frozen=True)
class ProbabilityCalibration:
    """Calibration of a model's probabilities on images that it was not trained on.

    Attributes:
        temperature: temperature of the probabilities, at least 1.
        random_answer_share: share of answers that people give at random, 0 to 1.
        overdispersion: variance of an image's score relative to that of independent questions, at
            least 1, because the errors in one image are correlated.
    """

    temperature: float = DEFAULT_CALIBRATION[0]
    random_answer_share: float = DEFAULT_CALIBRATION[1]
    overdispersion: float = 1.0

    @classmethod
    def fit(cls, past_answers: AnsweredQuestions) -> ProbabilityCalibration:
        """Return the calibration with the highest posterior on a grid.

        The prior is weak and centred at ``DEFAULT_CALIBRATION``.

        Args:
            past_answers: earlier labels, with the probabilities of the version that was live then.
        """
        candidates = (cls(t, share) for t in TEMPERATURE_GRID for share in RANDOM_ANSWER_GRID)
        best = max(candidates, key=lambda candidate: candidate._log_posterior(past_answers))
        if past_answers.images < MIN_OVERDISPERSION_IMAGES:
            return best
        return replace(best, overdispersion=best._estimate_overdispersion(past_answers))

    def apply(self, probabilities: Doubles) -> Doubles:
        """Return calibrated probabilities, (n, K); labels without a training example stay 0."""
        known = probabilities > 0
        tempered = np.maximum(probabilities, MIN_PROBABILITY) ** (1 / self.temperature) * known
        shares = tempered / np.maximum(tempered.sum(axis=1, keepdims=True), MIN_PROBABILITY)
        uniform = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
        random_share = self.random_answer_share
        return np.asarray((1 - random_share) * shares + random_share * uniform)

    def _log_posterior(self, past_answers: AnsweredQuestions) -> float:
        prior = (
            -2 * np.log(self.temperature / DEFAULT_CALIBRATION[0]) ** 2
            - 0.5 * np.log(self.random_answer_share / DEFAULT_CALIBRATION[1]) ** 2
        )
        probabilities = self.apply(past_answers.probabilities)
        given = probabilities[np.arange(len(probabilities)), past_answers.answer_columns]
        return float(prior + np.log(np.maximum(given, MIN_PROBABILITY)).sum())

    def _estimate_overdispersion(self, past_answers: AnsweredQuestions) -> float:
        probabilities = self.apply(past_answers.probabilities)
        scores = _log_likelihood_ratios(probabilities)
        expected = (probabilities * scores).sum(axis=1)
        deviations = scores[np.arange(len(scores)), past_answers.answer_columns] - expected
        variance = ((probabilities * scores**2).sum(axis=1) - expected**2).sum()
        _, image_rows = np.unique(past_answers.image_ids, return_inverse=True)
        image_deviations = np.bincount(image_rows, weights=deviations)
        ratio = float((image_deviations**2).sum() / max(variance, MIN_PROBABILITY))
        return float(np.clip(ratio, 1.0, MAX_OVERDISPERSION))


@dataclass(frozen=True)
class ContradictionResult:
    """Result of a test of recent labels.

    Attributes:
        images: number of labeled images.
        contradicted: number of images whose labels differ from the model's most likely answer.
        expected: expected value of ``contradicted`` if the labels are correct.
        p_value: probability of at least this much contradiction if the labels are correct.
    """

    images: int
    contradicted: int
    expected: float
    p_value: float


def measure_contradiction(
    answers: AnsweredQuestions,
    calibration: ProbabilityCalibration,
    rng: np.random.Generator,
    draws: int = NULL_DRAW_COUNT,
) -> ContradictionResult:
    """Test whether answers contradict a model more often than its probabilities predict.

    Args:
        answers: recent answers.
        calibration: calibration of the probabilities.
        rng: samples the null distribution.
        draws: size of the null distribution; the smallest p-value is 1 / (draws + 1).

    Example:
        >>> confident = np.tile([0.97, 0.01, 0.01, 0.01], (20, 1))
        >>> few, many = ([1] * wrong + [0] * (20 - wrong) for wrong in (1, 8))
        >>> def p_value(labels):
        ...     answers = AnsweredQuestions.from_single_labels(confident, labels, range(20))
        ...     rng = np.random.default_rng(0)
        ...     return measure_contradiction(answers, ProbabilityCalibration(), rng).p_value
        >>> p_value(few) > 0.05, p_value(many) < 0.01
        (True, True)
    """
    if not len(answers.answer_columns):
        return ContradictionResult(0, 0, 0.0, 1.0)
    probabilities = calibration.apply(answers.probabilities)
    scores = _log_likelihood_ratios(probabilities)
    observed = float(scores[np.arange(len(scores)), answers.answer_columns].sum())
    expected = float((probabilities * scores).sum())
    critical = expected + (observed - expected) / np.sqrt(calibration.overdispersion)
    null_scores = np.zeros(draws)
    for row, cumulative in zip(scores, probabilities.cumsum(axis=1), strict=True):
        columns = np.searchsorted(cumulative, rng.random(draws) * cumulative[-1], side="right")
        null_scores += row[np.minimum(columns, len(row) - 1)]
    is_contradicted = probabilities.argmax(axis=1) != answers.answer_columns
    return ContradictionResult(
        images=answers.images,
        contradicted=len(np.unique(answers.image_ids[is_contradicted])),
        expected=_expected_contradictions(probabilities, answers.image_ids),
        p_value=(1 + int((null_scores >= critical - 1e-9).sum())) / (1 + draws),
    )


def _log_likelihood_ratios(probabilities: Doubles) -> Doubles:
    """Return the log-likelihood ratio of each possible answer, (n, K).

    Under the alternative, a share of ``ALTERNATIVE_ERROR_SHARE`` of the answers is replaced by a
    random other label.
    """
    other_count = np.maximum((probabilities > 0).sum(axis=1, keepdims=True) - 1, 1)
    wrong = ALTERNATIVE_ERROR_SHARE * (1 - probabilities) / other_count
    alternative = (1 - ALTERNATIVE_ERROR_SHARE) * probabilities + wrong
    ratios = np.log(alternative / np.maximum(probabilities, MIN_PROBABILITY))
    return np.where(probabilities > 0, ratios, 0.0)


def _expected_contradictions(probabilities: Doubles, image_ids: Indices) -> float:
    """Return the expected number of images with at least one contradicted answer."""
    _, image_rows = np.unique(image_ids, return_inverse=True)
    log_agreement = np.log(np.maximum(probabilities.max(axis=1), MIN_PROBABILITY))
    return float((1 - np.exp(np.bincount(image_rows, weights=log_agreement))).sum())
