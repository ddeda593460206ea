"""The words that every room shares: controls, tasks, answers, places, predictions.

Frozen values without behaviour of their own. Coordinates are 0 to 1 of the upright image, from its
top left corner; percent and pixels exist only where they come in and go out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LabelSet = frozenset[str]
"""What a control was answered with: the chosen label names; empty means "none of them"."""


ControlKind = Literal["choices", "boxes", "points"]
"""What a control is answered with: labels of the whole image, boxes, or centre points."""


@dataclass(frozen=True)
class Region:
    """An object of an image: a box, or a point, which is a box without extent.

    Attributes:
        label: its class.
        x0: left edge, 0 to 1 of the width.
        y0: upper edge, 0 to 1 of the height.
        x1: right edge, at least ``x0``.
        y1: lower edge, at least ``y0``.
    """

    label: str
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def center(self) -> tuple[float, float]:
        """Its middle, (x, y)."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


Regions = tuple[Region, ...]
"""All objects of an image that a control was asked for; empty means "there is none"."""


@dataclass(frozen=True)
class Label:
    """One class of a control.

    Attributes:
        name: what regions carry (the ``alias`` where the config gives one, else the ``value``).
        words: other words for it, from ``predicted_values``; used for text prompts.
        hint: a sentence that describes it, from ``hint``; used for text prompts.
        extent: of points: the object's usual size, 0 to 1 of the image's longer edge; 0: unknown.
    """

    name: str
    words: tuple[str, ...] = ()
    hint: str = ""
    extent: float = 0.0


@dataclass(frozen=True)
class Control:
    """One tag of the labeling config that Prelabel serves.

    Attributes:
        name: the tag's name, ``from_name`` of its regions.
        to_name: the image tag it belongs to.
        image_key: the field of the task's data that holds the image's address.
        labels: its classes in the order of the config.
        kind: what it is answered with.
        multiple: several labels may be right at once.
        threshold: confidence below which a label is left out of the result, 0 to 1.
        precision: share of right answers wanted of those that are shown; None: the setting's.
        accept_error: share of wrong answers allowed among those accepted without a person; 0:
            none are accepted; None: the setting's.
        smart: its smart tool asks for suggestions while somebody draws.
    """

    name: str
    to_name: str
    image_key: str
    labels: tuple[Label, ...]
    kind: ControlKind = "choices"
    multiple: bool = False
    threshold: float = 0.0
    precision: float | None = None
    accept_error: float | None = None
    smart: bool = False

    @property
    def is_choices(self) -> bool:
        """Whether the control classifies the whole image."""
        return self.kind == "choices"

    @property
    def is_points(self) -> bool:
        """Whether the control marks centre points."""
        return self.kind == "points"

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
        choices: by control of choices, what a person chose; a control nobody was asked is absent.
        regions: by control of boxes or points, what a person marked; absent where nobody looked.
        available_labels: by control name, labels that existed when the answer was given.
        auto_accepted: Prelabel itself answered it, and nobody changed that: it teaches nothing.
        capture_reason: why the endpoint kept it; empty where it did not come from there.
        skipped: somebody skipped it. Label Studio may serve it to others, and counts it as open.
    """

    id: int
    images: Mapping[str, str]
    open: bool = True
    choices: Mapping[str, LabelSet] | None = None
    regions: Mapping[str, Regions] | None = None
    available_labels: Mapping[str, frozenset[str]] | None = None
    auto_accepted: bool = False
    capture_reason: str = ""
    skipped: bool = False

    @property
    def labeled(self) -> bool:
        """A person answered at least one control."""
        return bool(self.choices) or bool(self.regions)


@dataclass(frozen=True)
class ImageSize:
    """Width and height in pixels of the upright image."""

    width: int
    height: int


@dataclass(frozen=True)
class ChoicePrediction:
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
class RegionPrediction:
    """What a model finds for one control of one task.

    Attributes:
        control: the control's name.
        regions: objects, most certain first.
        confidence: belief in each, 0 to 1.
        size: the image's size, for the regions.
    """

    control: str
    regions: Regions
    confidence: tuple[float, ...]
    size: ImageSize

    def label_counts(self) -> dict[str, int]:
        """How many of each label."""
        counts: dict[str, int] = {}
        for region in self.regions:
            counts[region.label] = counts.get(region.label, 0) + 1
        return counts


@dataclass(frozen=True)
class Prediction:
    """All a model says about one task.

    Attributes:
        task_id: the task's number.
        choices: one entry per control of choices that could be answered.
        score: Label Studio sorts by it, ascending: low is asked first. 0 to 1.
        regions: one entry per control of boxes or points that could be answered.
    """

    task_id: int
    choices: tuple[ChoicePrediction, ...]
    score: float
    regions: tuple[RegionPrediction, ...] = ()
