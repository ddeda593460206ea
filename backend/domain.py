"""The words that every room shares: controls, tasks, answers, predictions.

Frozen values without behaviour of their own. Coordinates never appear here yet: classification
answers are sets of label names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Answer = frozenset[str]
"""What a control was answered with: the chosen label names; empty means "none of them"."""


@dataclass(frozen=True)
class Label:
    """One class of a control.

    Attributes:
        name: what regions carry (the ``alias`` where the config gives one, else the ``value``).
        words: other words for it, from ``predicted_values``; used for text prompts.
        hint: a sentence that describes it, from ``hint``; used for text prompts.
    """

    name: str
    words: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class Control:
    """One tag of the labeling config that Prelabel serves.

    Attributes:
        name: the tag's name, ``from_name`` of its regions.
        to_name: the image tag it belongs to.
        image_key: the field of the task's data that holds the image's address.
        labels: its classes in the order of the config.
        multiple: several labels may be right at once.
        threshold: confidence below which a label is left out of the result, 0 to 1.
    """

    name: str
    to_name: str
    image_key: str
    labels: tuple[Label, ...]
    multiple: bool = False
    threshold: float = 0.0

    @property
    def label_names(self) -> tuple[str, ...]:
        """The label names in the order of the config."""
        return tuple(label.name for label in self.labels)


@dataclass(frozen=True)
class Task:
    """One task of Label Studio, as far as Prelabel needs it.

    Attributes:
        id: Label Studio's number.
        images: image address as stored in the task, by ``image_key``.
        open: nobody has finished it: it still wants a pre-annotation.
        answers: by control name, what a person answered; a control nobody was asked is absent.
        asked: by control name, labels that existed when the answer was given.
    """

    id: int
    images: Mapping[str, str]
    open: bool = True
    answers: Mapping[str, Answer] | None = None
    asked: Mapping[str, frozenset[str]] | None = None


@dataclass(frozen=True)
class ImageSize:
    """Width and height in pixels of the upright image."""

    width: int
    height: int


@dataclass(frozen=True)
class Choice:
    """A model's answer to one control of one task.

    Attributes:
        control: the control's name.
        labels: label → confidence, 0 to 1, of those the model would choose, best first.
        size: the image's size, for the region.
    """

    control: str
    labels: Mapping[str, float]
    size: ImageSize


@dataclass(frozen=True)
class Prediction:
    """All a model says about one task.

    Attributes:
        task: the task's number.
        choices: one entry per control that could be answered; empty where the image is unreadable.
        score: Label Studio sorts by it, ascending: low is asked first. 0 to 1.
    """

    task: int
    choices: tuple[Choice, ...]
    score: float
