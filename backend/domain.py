"""The shared types: controls, tasks, labels, regions and predictions.

Coordinates are fractions (0 to 1) of the upright image, with the origin in its top left corner.
Only the converters at the edges use percent and pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LabelSet = frozenset[str]
"""The labels chosen for an image; empty if none applies."""

ControlKind = Literal["choices", "boxes", "points"]
"""Image classification, bounding boxes, or object centres."""


@dataclass(frozen=True)
class Region:
    """An object in an image: a bounding box, or a point stored as a box of size 0.

    Attributes:
        label: name of its label.
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
        """Centre (x, y)."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


RegionOutcome = Literal["correct", "missed", "false"]
"""A detection of an annotated object, an object without a detection, or the reverse."""

Regions = tuple[Region, ...]
"""All objects of an image for one control; empty if it shows none."""


@dataclass(frozen=True)
class Label:
    """One label (class) of a control.

    Attributes:
        name: the ``alias`` in the config if there is one, else the ``value``.
        words: synonyms from ``predicted_values``, for text prompts.
        hint: description from ``hint``, for text prompts.
        extent: typical object size of a point, 0 to 1 of the image's longer edge; 0 if unknown.
    """

    name: str
    words: tuple[str, ...] = ()
    hint: str = ""
    extent: float = 0.0


@dataclass(frozen=True)
class VisibilityCondition:
    """A condition on the answer to a control of choices, from ``visibleWhen``.

    Attributes:
        control: name of the choices control; empty for any other one.
        labels: labels of which one must be chosen; empty if every label will do.
        negated: the condition holds while none is chosen.
    """

    control: str = ""
    labels: tuple[str, ...] = ()
    negated: bool = False


@dataclass(frozen=True)
class Control:
    """A control tag of the labeling config that Prelabel serves.

    Attributes:
        name: name of the tag, ``from_name`` in results.
        to_name: name of its image tag.
        image_key: field of the task data that holds the image URL.
        labels: its labels in the order of the config.
        kind: what is annotated.
        multiple: multi-label classification: several choices may apply to one image.
        threshold: minimum confidence of a label in the result, 0 to 1.
        precision: target precision of displayed predictions; None uses the setting.
        accept_error: maximum error rate of auto-accepted predictions; 0 turns auto-accept off;
            None uses the setting.
        smart: it is a smart tool, which requests predictions while a person draws.
        conditions: Label Studio shows the control only while all of them hold.
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
    conditions: tuple[VisibilityCondition, ...] = ()

    @property
    def is_choices(self) -> bool:
        """Whether the control classifies the whole image."""
        return self.kind == "choices"

    @property
    def is_points(self) -> bool:
        """Whether the control marks the centres of objects."""
        return self.kind == "points"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label names in the order of the config."""
        return tuple(label.name for label in self.labels)


@dataclass(frozen=True)
class Task:
    """A task of Label Studio.

    Attributes:
        id: id in Label Studio.
        images: image URLs as stored in the task, by ``image_key``.
        open: it is not labeled yet and needs a pre-annotation.
        choices: labels chosen by a person, by control; controls without an annotation are absent.
        regions: regions drawn by a person, by control; controls without an annotation are absent.
        available_labels: by control, the labels that the config had when the task was annotated.
        auto_accepted: its annotation is an auto-accepted prediction that no person changed; it is
            not used for training.
        capture_reason: why the endpoint captured the image; empty for other tasks.
        skipped: a person skipped it; Label Studio still counts it as open.
        unanswered: single-choice controls without a label in every annotation that was submitted.
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
    unanswered: frozenset[str] = frozenset()

    @property
    def labeled(self) -> bool:
        """Whether a person labeled at least one control."""
        return bool(self.choices) or bool(self.regions)


@dataclass(frozen=True)
class ImageSize:
    """Width and height of the upright image in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class ChoicePrediction:
    """The predicted labels of one choices control of a task.

    Attributes:
        control: name of the control.
        labels: predicted label → confidence, 0 to 1; highest first.
        size: size of the image.
    """

    control: str
    labels: Mapping[str, float]
    size: ImageSize


@dataclass(frozen=True)
class RegionPrediction:
    """The predicted regions of one box or point control of a task.

    Attributes:
        control: name of the control.
        regions: predicted regions, highest confidence first.
        confidence: confidence of each region, 0 to 1.
        size: size of the image.
    """

    control: str
    regions: Regions
    confidence: tuple[float, ...]
    size: ImageSize

    def label_counts(self) -> dict[str, int]:
        """Return the number of regions by label."""
        counts: dict[str, int] = {}
        for region in self.regions:
            counts[region.label] = counts.get(region.label, 0) + 1
        return counts


@dataclass(frozen=True)
class Prediction:
    """The predictions for a task.

    Attributes:
        task_id: id of the task.
        choices: one entry per predicted choices control.
        score: 0 to 1; Label Studio sorts by it in ascending order, so low scores come first.
        regions: one entry per predicted box or point control.
    """

    task_id: int
    choices: tuple[ChoicePrediction, ...]
    score: float
    regions: tuple[RegionPrediction, ...] = ()
