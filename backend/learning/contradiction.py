"""Do the labels that came lately contradict what a model learned before them?

A model that never saw them says how likely each answer was. Hard images, which active learning asks
for, contradict it more than easy ones, and its belief says by how much: what counts is not how many
answers differ, but whether they are what comes out where some answers are given at random. The test
is the likelihood ratio of "WRONG of them are" against "none is" (Neyman and Pearson 1933), its null
distribution drawn from the belief itself. How far a belief can be trusted is learned from earlier
labels, believed in the same way: by the version that was live when they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles, Indices

ALTERNATIVE_ERROR_SHARE = 0.3
"""Share of wrong answers that the test is best at noticing."""
NULL_DRAW_COUNT = 2000
TEMPERATURE_GRID = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Temperatures that a belief may need: at 1 it is as certain as it ought to be."""
RANDOM_ANSWER_GRID = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25)
"""Shares of answers that people may give at random, whatever the model believes."""
DEFAULT_CALIBRATION = (1.3, 0.03)
"""Temperature and slips where nothing is known yet."""
MIN_OVERDISPERSION_IMAGES = 30
"""Images from which on their spread is believed."""
MAX_OVERDISPERSION = 4.0
"""Variance of an image's cells at most, in units of independent ones."""
MIN_PROBABILITY = 1e-9
"""Belief at least in a label that there are examples of."""


@dataclass(frozen=True)
class AnsweredQuestions:
    """Answers and what a model that had not seen them believed: one row a question.

    One of many: one question an image, with a column a label. Several of many: a question for each
    label, with the columns no and yes.

    Attributes:
        probabilities: (n, K) confidence, rows sum to 1; 0 for what the model had no example of.
        answer_columns: (n,) column that a person answered with; its belief is above 0.
        image_ids: (n,) which questions belong to the same image.
    """

    probabilities: Doubles
    answer_columns: Indices
    image_ids: Indices

    @classmethod
    def from_single_labels(
        cls, probabilities: npt.ArrayLike, answers: npt.ArrayLike, image_ids: npt.ArrayLike
    ) -> AnsweredQuestions:
        """Of answers with one label each; those that the model had no example of are left out.

        Args:
            probabilities: (n, K) confidence; rows sum to 1.
            answers: (n,) column of the label that a person gave.
            image_ids: (n,) task numbers.
        """
        probability_array, answer_array = (
            np.asarray(probabilities, dtype=np.float64),
            np.asarray(answers, dtype=np.intp),
        )
        has_example = probability_array[np.arange(len(probability_array)), answer_array] > 0
        return cls(
            probability_array[has_example],
            answer_array[has_example],
            np.asarray(image_ids, dtype=np.intp)[has_example],
        )

    @classmethod
    def from_multi_labels(
        cls, probabilities: npt.ArrayLike, answers: npt.ArrayLike, image_ids: npt.ArrayLike
    ) -> AnsweredQuestions:
        """Of answers with several labels.

        Args:
            probabilities: (n, K) confidence, 0 to 1 each; 0 of labels that the model had no example of.
            answers: (n, K) 1 chosen, 0 not, NaN nobody was asked.
            image_ids: (n,) task numbers.
        """
        probability_array, answer_array = (
            np.asarray(probabilities, dtype=np.float64),
            np.asarray(answers, dtype=np.float64),
        )
        is_asked = ~np.isnan(answer_array) & (probability_array > 0)
        image_rows = np.asarray(image_ids, dtype=np.intp)[:, None] + np.zeros(
            probability_array.shape, dtype=np.intp
        )
        yes_probability = np.clip(probability_array[is_asked], MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return cls(
            np.stack([1 - yes_probability, yes_probability], axis=1),
            (answer_array[is_asked] > 0.5).astype(np.intp),
            image_rows[is_asked],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[AnsweredQuestions]) -> AnsweredQuestions:
        """Several together; all of the same labels."""
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.answer_columns for part in parts]),
            np.concatenate([part.image_ids for part in parts]),
        )

    @property
    def images(self) -> int:
        """How many."""
        return len(np.unique(self.image_ids))


@dataclass(frozen=True)
class ProbabilityCalibration:
    """How far a belief about labels to come can be trusted.

    Attributes:
        temperature: by which it is softened, at least 1.
        random_answer_share: share of answers that are given at random, 0 to 1.
        overdispersion: by how much the questions of one image are wrong together: variance of an image's
            score, in units of that of independent questions, at least 1.
    """

    temperature: float = DEFAULT_CALIBRATION[0]
    random_answer_share: float = DEFAULT_CALIBRATION[1]
    overdispersion: float = 1.0

    @classmethod
    def fit(cls, past_answers: AnsweredQuestions) -> ProbabilityCalibration:
        """From earlier labels, judged by what was live when they came; the most likely of a grid.

        A weak prior around USUAL decides while they are few.
        """
        grid = [(t, e) for t in TEMPERATURE_GRID for e in RANDOM_ANSWER_GRID]
        temperature, random_answer_share = max(
            grid, key=lambda pair: _log_posterior(past_answers, *pair)
        )
        calibration = cls(temperature, random_answer_share)
        if past_answers.images < MIN_OVERDISPERSION_IMAGES:
            return calibration
        return cls(
            temperature, random_answer_share, _estimate_overdispersion(past_answers, calibration)
        )


@dataclass(frozen=True)
class ContradictionResult:
    """What a window of labels shows.

    Attributes:
        images: how many were answered.
        contradicted: answers that are not what the model believed most.
        expected: how many of these its belief makes likely.
        p_value: of so much contradiction or more where people answer as before, 0 to 1.
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
    """Whether answers contradict a belief by more than its own doubt explains.

    Args:
        answers: the answers, and what a model believed that did not see them.
        calibration: how far that belief can be trusted.
        rng: draws the null distribution.
        draws: how many; the chance is known to 1 / (draws + 1).

    Example:
        >>> sure = np.tile([0.97, 0.01, 0.01, 0.01], (20, 1))
        >>> few, many = ([1] * wrong + [0] * (20 - wrong) for wrong in (1, 8))
        >>> random = np.random.default_rng(0)
        >>> measure_contradiction(AnsweredQuestions.from_single_labels(sure, few, range(20)), ProbabilityCalibration(), random).p_value > 0.05
        True
        >>> measure_contradiction(AnsweredQuestions.from_single_labels(sure, many, range(20)), ProbabilityCalibration(), random).p_value < 0.01
        True
    """
    if not len(answers.answer_columns):
        return ContradictionResult(0, 0, 0.0, 1.0)
    probabilities = _calibrated_probabilities(
        answers.probabilities, calibration.temperature, calibration.random_answer_share
    )
    scores = _log_likelihood_ratios(probabilities)
    rows = np.arange(len(probabilities))
    observed_score = float(scores[rows, answers.answer_columns].sum())
    expected_score = float((probabilities * scores).sum())
    critical_score = expected_score + (observed_score - expected_score) / np.sqrt(
        calibration.overdispersion
    )
    null_scores = np.zeros(draws)
    for row, cumulative in zip(scores, probabilities.cumsum(axis=1), strict=True):
        drawn_columns = np.searchsorted(
            cumulative, rng.random(draws) * cumulative[-1], side="right"
        )
        null_scores += row[np.minimum(drawn_columns, len(row) - 1)]
    exceeding_count = int((null_scores >= critical_score - 1e-9).sum())
    return ContradictionResult(
        images=answers.images,
        contradicted=len(
            np.unique(answers.image_ids[probabilities.argmax(axis=1) != answers.answer_columns])
        ),
        expected=_expected_contradictions(probabilities, answers.image_ids),
        p_value=(1 + exceeding_count) / (1 + draws),
    )


def _calibrated_probabilities(
    probabilities: Doubles, temperature: float, random_answer_share: float
) -> Doubles:
    """(n, K), rows sum to 1; what had no example stays 0."""
    has_example = probabilities > 0
    tempered = np.where(
        has_example, np.maximum(probabilities, MIN_PROBABILITY) ** (1 / temperature), 0.0
    )
    shares = tempered / np.maximum(tempered.sum(axis=1, keepdims=True), MIN_PROBABILITY)
    example_count = np.maximum(has_example.sum(axis=1, keepdims=True), 1)
    return np.asarray(
        (1 - random_answer_share) * shares + random_answer_share * has_example / example_count
    )


def _log_likelihood_ratios(probabilities: Doubles) -> Doubles:
    """(n, K) log likelihood ratio of each answer: WRONG of them at random among the others."""
    other_count = np.maximum((probabilities > 0).sum(axis=1, keepdims=True) - 1, 1)
    alternative = (1 - ALTERNATIVE_ERROR_SHARE) * probabilities + ALTERNATIVE_ERROR_SHARE * (
        1 - probabilities
    ) / other_count
    return np.where(
        probabilities > 0, np.log(alternative / np.maximum(probabilities, MIN_PROBABILITY)), 0.0
    )


def _log_posterior(
    past_answers: AnsweredQuestions, temperature: float, random_answer_share: float
) -> float:
    prior = (
        -2 * np.log(temperature / DEFAULT_CALIBRATION[0]) ** 2
        - 0.5 * np.log(random_answer_share / DEFAULT_CALIBRATION[1]) ** 2
    )
    probabilities = _calibrated_probabilities(
        past_answers.probabilities, temperature, random_answer_share
    )
    answer_probabilities = probabilities[np.arange(len(probabilities)), past_answers.answer_columns]
    return float(prior + np.log(np.maximum(answer_probabilities, MIN_PROBABILITY)).sum())


def _estimate_overdispersion(
    past_answers: AnsweredQuestions, calibration: ProbabilityCalibration
) -> float:
    probabilities = _calibrated_probabilities(
        past_answers.probabilities, calibration.temperature, calibration.random_answer_share
    )
    scores = _log_likelihood_ratios(probabilities)
    expected_scores = (probabilities * scores).sum(axis=1)
    deviations = scores[np.arange(len(scores)), past_answers.answer_columns] - expected_scores
    independent_variance = (probabilities * scores**2).sum(axis=1) - expected_scores**2
    _, image_rows = np.unique(past_answers.image_ids, return_inverse=True)
    image_deviations = np.bincount(image_rows, weights=deviations)
    ratio = float((image_deviations**2).sum() / max(independent_variance.sum(), MIN_PROBABILITY))
    return float(np.clip(ratio, 1.0, MAX_OVERDISPERSION))


def _expected_contradictions(probabilities: Doubles, image_ids: Indices) -> float:
    """Images of which at least one question is answered against the belief."""
    _, image_rows = np.unique(image_ids, return_inverse=True)
    log_agreement = np.bincount(
        image_rows, weights=np.log(np.maximum(probabilities.max(axis=1), MIN_PROBABILITY))
    )
    return float((1 - np.exp(log_agreement)).sum())
