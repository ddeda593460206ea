"""Records of a version card: figures, forecasts, and decisions, stored as JSON files.

:mod:`backend.json_records` converts them to JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.estimate import IntervalEstimate
from backend.json_records import (
    JsonObject,
    from_json,
    json_field,
    unknown_keys,
    value_from_json,
)

LINEAR_HEAD_KIND = "linear head"
"""What a control card calls a trained head."""
SINGLE_LABEL_NOTE = (
    "Only one label seen so far: confidence means little until a second label has an example."
)
FIGURE_TYPES: Mapping[str, Any] = {
    "labels": dict[str, JsonObject],
    "confusion": dict[str, dict[str, int]],
    "counting": JsonObject,
    "sizes": dict[str, float],
}
"""Types of a control's metrics that are read from version cards."""
TAG_BY_KIND = {"choices": "Choices", "boxes": "RectangleLabels", "points": "KeyPointLabels"}


@dataclass(frozen=True)
class SplitSizes:
    """Number of labeled tasks for training and in the audit set."""

    train: int = 0
    audit: int = 0


@dataclass(frozen=True)
class ModelSource:
    """The encoder or the base detector that a version was trained with.

    Attributes:
        setting: value of PRELABEL_ENCODER or PRELABEL_DETECTOR that loads the same model; may be
            empty.
        id: hash of its weights and preprocessing.
        name: name of the encoder.
    """

    setting: str = json_field("", optional=True)
    id: str = json_field("", optional=True)
    name: str = json_field("", optional=True)


@dataclass(frozen=True)
class Promotion:
    """The quality gate's decision, with its reason and the test statistics."""

    promoted: bool
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelNeed:
    """Additional examples that a label needs to reach the next accuracy goal.

    Attributes:
        label: name of the label.
        more: lower end of the estimated number.
        most: upper end; None when it is beyond the forecast.
        words: the range as text, such as ``about 20 to 60``; empty on old cards.
    """

    label: str
    more: int = 0
    most: int | None = json_field(None, optional=True)
    words: str = json_field("", optional=True)

    @property
    def count_text(self) -> str:
        """The range as text."""
        return self.words or f"about {self.more}"


@dataclass(frozen=True)
class CurvePrediction:
    """Predicted accuracy for a number of labels, with its interval."""

    labels: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """Forecast of the accuracy with more labels.

    Attributes:
        sentence: the forecast as text; may be empty.
        labels: labels that need more examples, lowest recall first.
        stop: the next 100 labels are not expected to improve the accuracy.
        agreement: Cohen's kappa with the live version on all images; None if unknown.
        curve: points from the current number of labels on; empty without a forecast.
        source: ``audit set`` or ``cross-validation``.
    """

    sentence: str = ""
    labels: tuple[LabelNeed, ...] = ()
    stop: bool = False
    agreement: float | None = None
    curve: tuple[CurvePrediction, ...] = ()
    source: str = json_field("audit set", key="from")

    @property
    def is_audited(self) -> bool:
        """Whether the forecast is based on the audit set instead of cross-validation."""
        return self.source != "cross-validation"


@dataclass(frozen=True)
class AutoAcceptSection:
    """The confidence threshold for accepting predictions without review.

    Attributes:
        error: maximum error rate of accepted predictions.
        level: the threshold; None if the maximum error rate could not be proven.
        reason: explanation for people.
        missing: number of audit images that still have to be labeled before a test.
        proven: proven upper bound of the error rate; None if unproven.
        images: number of audit images above the threshold.
        audit: number of labeled audit images.
        chance: significance level (alpha) spent on the test; None on old cards.
    """

    error: float = 0.0
    level: float | None = None
    reason: str = ""
    missing: int | None = None
    proven: float | None = None
    images: int = 0
    audit: int = 0
    chance: float | None = json_field(None, optional=True)


@dataclass(frozen=True)
class AutoAcceptStatus(AutoAcceptSection):
    """The auto-accept threshold of a version, with the results of spot checks.

    Attributes:
        suspended: auto-accept is suspended because spot checks found too many errors.
        checked: number of spot-checked answers.
    """

    suspended: bool = False
    checked: int = 0


@dataclass(frozen=True)
class LabelFigures:
    """Precision and recall of one label; None if not measured."""

    precision: IntervalEstimate | None = None
    recall: IntervalEstimate | None = None


NO_MODEL_KIND = "none yet"
"""``kind`` of a control whose labels no model predicts yet."""


@dataclass(frozen=True)
class ControlCard:
    """The section of a version card on one control.

    Attributes:
        kind: type of its model, such as ``linear head``.
        examples: training examples by label.
        audit: accuracy or F1 on the audit set.
        figures: all other metrics, as JSON.
        shown: confidence from which regions are published.
        advice: how to get predictions for labels that the detector cannot detect yet.
        made_from: inputs of the training besides labels and weights; while they are unchanged,
            the detector is reused.
    """

    kind: str = NO_MODEL_KIND
    examples: Mapping[str, int] = json_field({}, optional=True)
    audit: IntervalEstimate | None = json_field(None, optional=True)
    figures: JsonObject | None = json_field(None, optional=True)
    shown: float | None = json_field(None, optional=True)
    advice: str = json_field("", optional=True)
    made_from: Any = json_field(None, optional=True)

    def label_figures(self, label: str) -> LabelFigures:
        """Return precision and recall of a label."""
        row = self._figure("labels").get(label) or {}
        return from_json(LabelFigures, row.get("intervals") or row)

    def check_figures(self) -> None:
        """Check the shape of all metrics that this class returns.

        Raises:
            TypeError: one has the wrong shape.
        """
        for name, hint in FIGURE_TYPES.items():
            value_from_json(hint, self._figure(name))
        for label in self._figure("labels"):
            self.label_figures(label)
        _ = self.counting

    @property
    def note(self) -> str:
        """What limits the confidence of its predictions; empty otherwise."""
        seen_count = sum(count > 0 for count in self.examples.values())
        is_single = self.kind == LINEAR_HEAD_KIND and seen_count == 1 < len(self.examples)
        return SINGLE_LABEL_NOTE if is_single else ""

    @property
    def confusion(self) -> Mapping[str, Mapping[str, int]]:
        """Counts by true and predicted label; empty for boxes and points."""
        return self._figure("confusion")

    @property
    def counting(self) -> IntervalEstimate | None:
        """Relative counting error; boxes and points only."""
        row = self._figure("counting")
        return from_json(IntervalEstimate, row) if row else None

    @property
    def object_sizes(self) -> Mapping[str, float]:
        """Object size by label, 0 to 1 of the image's longer edge; points only."""
        return self._figure("sizes")

    def _figure(self, name: str) -> Mapping[str, Any]:
        return (self.figures or {}).get(name) or {}


@dataclass(frozen=True)
class ComputeCost:
    """Where a training ran and its cost.

    Attributes:
        where: ``local`` or ``modal``.
        device: name of the device, such as ``L4``; empty if unknown.
        seconds: device time.
        dollars: cost estimated from list prices; 0 for local training.
    """

    where: str = "local"
    device: str = ""
    seconds: float = 0.0
    dollars: float = 0.0

    def __add__(self, other: ComputeCost) -> ComputeCost:
        """Return the sum, with the name of the remote device if there is one."""
        device_source = self if self.where != "local" or not other.device else other
        seconds, dollars = self.seconds + other.seconds, self.dollars + other.dollars
        return ComputeCost(
            device_source.where, device_source.device, round(seconds, 3), round(dollars, 6)
        )


@dataclass(frozen=True)
class PromotionEvent:
    """A promotion or roll-back, with the version that was live before; ``at`` is UTC."""

    at: str = ""
    version: str = ""
    previous: str | None = json_field(None, key="from")
    by: str = ""
    reason: str = ""
    unknown: JsonObject = unknown_keys()
