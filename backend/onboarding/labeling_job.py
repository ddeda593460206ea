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

Answers = Mapping[str, str]
YES_NO = {"yes": "", "no": ""}


class Job(StrEnum):
    """What a project asks of people; the value is what the command line calls it."""

    BINARY = "binary"
    ONE = "one-of-many"
    SEVERAL = "several-of-many"
    BOXES = "boxes"
    POINTS = "points"

    @property
    def marks(self) -> bool:
        """Things are marked in the images; otherwise each image as a whole gets labels."""
        return self in (Job.BOXES, Job.POINTS)


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: of the option that answers it.
        text: as people read it.
        answers: what may be answered, each with what it means.
        wanted: whether it can still change the job, by the answers so far.
    """

    name: str
    text: str
    answers: Mapping[str, str]
    wanted: Callable[[Answers], bool]


def _marks(answers: Answers) -> bool:
    return answers.get("goal") == "find" or "yes" in (answers.get("place"), answers.get("small"))


def _sorts(answers: Answers) -> bool:
    return answers.get("goal") == "sort" and not _marks(answers)


QUESTIONS = (
    Question(
        "goal",
        "What shall be done with the images?",
        {
            "sort": "each image as a whole goes into a bucket, such as ripe or unripe",
            "find": "things in the images are found or counted, such as every berry",
        },
        lambda answers: True,
    ),
    Question(
        "place",
        "Does it also matter where in the image something is, or how many there are?",
        YES_NO,
        _sorts,
    ),
    Question(
        "small",
        "Is what decides only a small part of a busy picture, such as one beetle on a bush?",
        YES_NO,
        _sorts,
    ),
    Question(
        "mark",
        "How shall people mark a thing?",
        {
            "click": "a click on its middle: quicker, enough to find and to count",
            "box": "a box around it: where its size or extent is needed",
        },
        _marks,
    ),
    Question("several", "Can several labels be right for the same image?", YES_NO, _sorts),
)
HOW = {
    Job.BINARY: "Give each image one of two labels: a key each.",
    Job.ONE: "Give each image one label: a key each.",
    Job.SEVERAL: "Give each image all labels that are right, or none.",
    Job.BOXES: "Draw a box around each thing.",
    Job.POINTS: "Click on the middle of each thing.",
}
WHY_MARKS = "Things are marked one by one, so that a model learns where and how many they are."
EMPTY = "Submit an image without any of them as it is: that teaches that there is none."


def next_question(answers: Answers) -> Question | None:
    """The first question that is open and can still change the job; None when there is none.

    Args:
        answers: so far, by the question's name.

    Example:
        >>> next_question({"goal": "find"}).name
        'mark'
    """
    return next((q for q in QUESTIONS if q.name not in answers and q.wanted(answers)), None)


def check(answers: Answers) -> None:
    """Make sure that the given answers fit together.

    Raises:
        UsageError: an answer is given to what is not asked after the others.
    """
    for name in answers:
        if not _asked(name, answers, {}):
            given = ", ".join(f"--{n} {value}" for n, value in answers.items() if n != name)
            raise UsageError(f"--{name} changes nothing beside {given}: leave one of them out.")


def job_of(answers: Answers, labels: int) -> Job:
    """The job.

    Args:
        answers: to every question that :func:`next_question` asked.
        labels: how many.

    Example:
        >>> job_of({"goal": "sort", "place": "no", "small": "yes", "mark": "click"}, 2).value
        'points'
    """
    if _marks(answers):
        return Job.BOXES if answers.get("mark") == "box" else Job.POINTS
    if answers.get("several") == "yes":
        return Job.SEVERAL
    return Job.BINARY if labels <= 2 else Job.ONE


def explain(job: Job, answers: Answers) -> list[str]:
    """Why this job, and what people do: sentences in plain words."""
    return [*_why(job, answers), HOW[job], *([EMPTY] if job.marks else [])]


def _why(job: Job, answers: Answers) -> list[str]:
    if answers.get("small") == "yes":
        return [
            "What decides is a small part of the picture. A model that looks at whole images "
            "would mostly see the surroundings, so people show it the thing itself."
        ]
    if answers.get("place") == "yes":
        return ["Place or number matters: a label for the whole image would not tell it."]
    return [
        WHY_MARKS
        if job.marks
        else "Labels for whole images are enough; they are the quickest to give."
    ]


def _asked(name: str, answers: Answers, before: Answers) -> bool:
    """Whether a question comes up, for some answer to those that are open."""
    question = next_question(before)
    if question is None or question.name == name:
        return question is not None
    given = [answers[question.name]] if question.name in answers else question.answers
    return any(_asked(name, answers, {**before, question.name: one}) for one in given)
