"""Choose a labeling job from the answers to a few questions.

Whole images are classified if that is enough. Objects are marked if their position or number
matters, or if a small part of the image decides the label. A click is faster than a bounding box
and is enough unless the size of the object matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.errors import UsageError

JobAnswers = Mapping[str, str]
YES_NO_ANSWERS = {"yes": "", "no": ""}


class LabelingJob(StrEnum):
    """A labeling job; its value is the name on the command line."""

    BINARY = "binary"
    SINGLE_CHOICE = "one-of-many"
    MULTIPLE_CHOICE = "several-of-many"
    BOXES = "boxes"
    POINTS = "points"

    @property
    def is_region_job(self) -> bool:
        """Whether objects are marked in the images, instead of labeling whole images."""
        return self in (LabelingJob.BOXES, LabelingJob.POINTS)


@dataclass(frozen=True)
class JobQuestion:
    """One question.

    Attributes:
        name: name of the option that answers it.
        text: question for the user.
        answers: answer → explanation, which may be empty.
        is_relevant: returns whether it can still change the job, given the answers so far.
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
        "What is the task?",
        {
            "sort": "classify whole images, such as ripe or unripe",
            "find": "find or count objects in the images, such as every berry",
        },
        lambda answers: True,
    ),
    JobQuestion(
        "place",
        "Does the position or the number of objects matter, too?",
        YES_NO_ANSWERS,
        _needs_image_labels,
    ),
    JobQuestion(
        "small",
        "Does a small part of a busy image decide the label, such as one beetle on a bush?",
        YES_NO_ANSWERS,
        _needs_image_labels,
    ),
    JobQuestion(
        "mark",
        "How are objects marked?",
        {
            "click": "with a click on the center: faster, and enough to find and count them",
            "box": "with a bounding box, if their size matters",
        },
        _needs_regions,
    ),
    JobQuestion(
        "several",
        "Can an image have several labels?",
        YES_NO_ANSWERS,
        _needs_image_labels,
    ),
)
JOB_INSTRUCTIONS = {
    LabelingJob.BINARY: "Give each image one of the two labels: press its key, or click on it.",
    LabelingJob.SINGLE_CHOICE: "Give each image one label: press its key, or click on it.",
    LabelingJob.MULTIPLE_CHOICE: "Give each image all labels that apply, or none.",
    LabelingJob.BOXES: "Draw a box around each object.",
    LabelingJob.POINTS: "Click on the center of each object.",
}
REGION_JOB_REASON = "Each object is marked, so that the model learns positions and numbers."
EMPTY_IMAGE_INSTRUCTION = (
    "If an image contains no object, submit it without a region. The model learns from it, too."
)


def next_question(answers: JobAnswers) -> JobQuestion | None:
    """Return the next unanswered question that can change the job; None if there is none.

    Args:
        answers: question name → answer.

    Example:
        >>> next_question({"goal": "find"}).name
        'mark'
    """
    return next(
        (q for q in JOB_QUESTIONS if q.name not in answers and q.is_relevant(answers)), None
    )


def validate_answers(answers: JobAnswers) -> None:
    """Check that the answers are consistent.

    Raises:
        UsageError: an answer has no effect, given the others.
    """
    for name in answers:
        if not _can_be_asked(name, answers, {}):
            other_options = ", ".join(f"--{n} {value}" for n, value in answers.items() if n != name)
            raise UsageError(f"--{name} has no effect with {other_options}: leave one of them out.")


def choose_job(answers: JobAnswers, labels: int) -> LabelingJob:
    """Choose the labeling job.

    Args:
        answers: answers to all questions that :func:`next_question` returned.
        labels: number of labels.

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
    """Return sentences with the reason for a job and the instructions for annotators."""
    return [
        *_explain_choice(job, answers),
        JOB_INSTRUCTIONS[job],
        *([EMPTY_IMAGE_INSTRUCTION] if job.is_region_job else []),
    ]


def _explain_choice(job: LabelingJob, answers: JobAnswers) -> list[str]:
    if answers.get("small") == "yes":
        return [
            "A small part of the image decides the label. A classifier of whole images would "
            "mostly learn from the background, so the objects are marked."
        ]
    if answers.get("place") == "yes":
        return ["Position or number matters, which a label of the whole image does not contain."]
    return [
        REGION_JOB_REASON
        if job.is_region_job
        else "Labels of whole images are enough, and the fastest to annotate."
    ]


def _can_be_asked(name: str, answers: JobAnswers, previous_answers: JobAnswers) -> bool:
    """Return whether some answers to the open questions lead to a question."""
    question = next_question(previous_answers)
    if question is None or question.name == name:
        return question is not None
    candidate_answers = [answers[question.name]] if question.name in answers else question.answers
    return any(
        _can_be_asked(name, answers, {**previous_answers, question.name: candidate})
        for candidate in candidate_answers
    )
