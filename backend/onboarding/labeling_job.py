"""A few questions → the job: what people mark, and what a model learns from it.

Images as a whole go into buckets where that answers the question. Things are marked where their
place or number matters, or where what decides is so small that it drowns in the picture. A click on
the middle is quicker than a box, and enough unless the extent is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.errors import UsageError

JobAnswers = Mapping[str, str]
YES_NO_ANSWERS = {"yes": "", "no": ""}


class LabelingJob(StrEnum):
    """What a project asks of people; the value is what the command line calls it."""

    BINARY = "binary"
    SINGLE_CHOICE = "one-of-many"
    MULTIPLE_CHOICE = "several-of-many"
    BOXES = "boxes"
    POINTS = "points"

    @property
    def is_region_job(self) -> bool:
        """Things are marked in the images; otherwise each image as a whole gets labels."""
        return self in (LabelingJob.BOXES, LabelingJob.POINTS)


@dataclass(frozen=True)
class JobQuestion:
    """One question.

    Attributes:
        name: of the option that answers it.
        text: as people read it.
        answers: what may be answered, each with what it means.
        is_relevant: whether it can still change the job, by the answers so far.
    """

    name: str
    text: str
    answers: Mapping[str, str]
    is_relevant: Callable[[JobAnswers], bool]


def _needs_regions(answers: JobAnswers) -> bool:
    return answers.get("goal") == "find" or "yes" in (answers.get("place"), answers.get("small"))


def _needs_image_labels(answers: JobAnswers) -> bool:
    return answers.get("goal") == "sort" and not _needs_regions(answers)


JOB_QUESTIONS = (
    JobQuestion(
        "goal",
        "What shall be done with the images?",
        {
            "sort": "each image as a whole goes into a bucket, such as ripe or unripe",
            "find": "things in the images are found or counted, such as every berry",
        },
        lambda answers: True,
    ),
    JobQuestion(
        "place",
        "Does it also matter where in the image something is, or how many there are?",
        YES_NO_ANSWERS,
        _needs_image_labels,
    ),
    JobQuestion(
        "small",
        "Is what decides only a small part of a busy picture, such as one beetle on a bush?",
        YES_NO_ANSWERS,
        _needs_image_labels,
    ),
    JobQuestion(
        "mark",
        "How shall people mark a thing?",
        {
            "click": "a click on its middle: quicker, enough to find and to count",
            "box": "a box around it: where its size or extent is needed",
        },
        _needs_regions,
    ),
    JobQuestion(
        "several",
        "Can several labels be right for the same image?",
        YES_NO_ANSWERS,
        _needs_image_labels,
    ),
)
JOB_INSTRUCTIONS = {
    LabelingJob.BINARY: "Give each image one of two labels: a key each.",
    LabelingJob.SINGLE_CHOICE: "Give each image one label: a key each.",
    LabelingJob.MULTIPLE_CHOICE: "Give each image all labels that are right, or none.",
    LabelingJob.BOXES: "Draw a box around each thing.",
    LabelingJob.POINTS: "Click on the middle of each thing.",
}
REGION_JOB_REASON = (
    "Things are marked one by one, so that a model learns where and how many they are."
)
EMPTY_IMAGE_INSTRUCTION = (
    "Submit an image without any of them as it is: that teaches that there is none."
)


def next_question(answers: JobAnswers) -> JobQuestion | None:
    """The first question that is open and can still change the job; None when there is none.

    Args:
        answers: so far, by the question's name.

    Example:
        >>> next_question({"goal": "find"}).name
        'mark'
    """
    return next(
        (q for q in JOB_QUESTIONS if q.name not in answers and q.is_relevant(answers)), None
    )


def validate_answers(answers: JobAnswers) -> None:
    """Make sure that the given answers fit together.

    Raises:
        UsageError: an answer is given to what is not asked after the others.
    """
    for name in answers:
        if not _can_be_asked(name, answers, {}):
            other_options = ", ".join(f"--{n} {value}" for n, value in answers.items() if n != name)
            raise UsageError(
                f"--{name} changes nothing beside {other_options}: leave one of them out."
            )


def choose_job(answers: JobAnswers, labels: int) -> LabelingJob:
    """The job.

    Args:
        answers: to every question that :func:`next_question` asked.
        labels: how many.

    Example:
        >>> choose_job({"goal": "sort", "place": "no", "small": "yes", "mark": "click"}, 2).value
        'points'
    """
    if _needs_regions(answers):
        return LabelingJob.BOXES if answers.get("mark") == "box" else LabelingJob.POINTS
    if answers.get("several") == "yes":
        return LabelingJob.MULTIPLE_CHOICE
    return LabelingJob.BINARY if labels <= 2 else LabelingJob.SINGLE_CHOICE


def explain_job(job: LabelingJob, answers: JobAnswers) -> list[str]:
    """Why this job, and what people do: sentences in plain words."""
    return [
        *_explain_choice(job, answers),
        JOB_INSTRUCTIONS[job],
        *([EMPTY_IMAGE_INSTRUCTION] if job.is_region_job else []),
    ]


def _explain_choice(job: LabelingJob, answers: JobAnswers) -> list[str]:
    if answers.get("small") == "yes":
        return [
            "What decides is a small part of the picture. A model that looks at whole images "
            "would mostly see the surroundings, so people show it the thing itself."
        ]
    if answers.get("place") == "yes":
        return ["Place or number matters: a label for the whole image would not tell it."]
    return [
        REGION_JOB_REASON
        if job.is_region_job
        else "Labels for whole images are enough; they are the quickest to give."
    ]


def _can_be_asked(name: str, answers: JobAnswers, previous_answers: JobAnswers) -> bool:
    """Whether a question comes up, for some answer to those that are open."""
    question = next_question(previous_answers)
    if question is None or question.name == name:
        return question is not None
    candidate_answers = [answers[question.name]] if question.name in answers else question.answers
    return any(
        _can_be_asked(name, answers, {**previous_answers, question.name: candidate})
        for candidate in candidate_answers
    )
