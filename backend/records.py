"""Records of versions, rounds and projects: the content of JSON files and HTTP answers.

``backend.json_records`` converts them to JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from backend.domain import Control
from backend.estimate import IntervalEstimate
from backend.json_records import (
    JsonObject,
    from_json,
    json_field,
    unknown_keys,
    value_from_json,
)

FIGURE_TYPES: Mapping[str, Any] = {
    "labels": dict[str, JsonObject],
    "confusion": dict[str, dict[str, int]],
    "counting": JsonObject,
    "sizes": dict[str, float],
}
"""Types of a control's metrics that are read from version cards."""
TAG_BY_KIND = {"choices": "Choices", "boxes": "RectangleLabels", "points": "KeyPointLabels"}


# -- a version ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitSizes:
    """Number of labeled tasks for training and in the audit set."""

    train: int = 0
    audit: int = 0


@dataclass(frozen=True)
class ModelSource:
    """The encoder or the base detector that a version was trained with.

    Attributes:
        setting: a setting that loads the same model again; empty without one.
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
    """More examples that a label needs to reach the next accuracy goal.

    Attributes:
        label: name of the label.
        more: lower end of the expected number.
        most: upper end.
        words: the number in words; empty on old cards.
    """

    label: str
    more: int = 0
    most: int | None = json_field(None, optional=True)
    words: str = json_field("", optional=True)

    @property
    def count_text(self) -> str:
        """The number of examples in words."""
        return self.words or f"about {self.more}"


@dataclass(frozen=True)
class CurvePrediction:
    """Predicted accuracy at a number of labels, with its interval."""

    labels: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """Forecast of what more labels bring.

    Attributes:
        sentence: the forecast in words; may be empty.
        labels: the labels that need more examples, the most urgent first.
        stop: the next hundred labels are not expected to help.
        agreement: Cohen's kappa with the live version on all images; None when unknown.
        curve: predictions from today's number of labels on; empty without a forecast.
        source: ``audit slice`` or ``cross-validation``.
    """

    sentence: str = ""
    labels: tuple[LabelNeed, ...] = ()
    stop: bool = False
    agreement: float | None = None
    curve: tuple[CurvePrediction, ...] = ()
    source: str = json_field("audit slice", key="from")

    @property
    def is_audited(self) -> bool:
        """Whether the forecast rests on the audit set, not on cross-validation."""
        return self.source != "cross-validation"


@dataclass(frozen=True)
class AutoAcceptSection:
    """The confidence threshold for accepting predictions without review.

    Attributes:
        error: allowed share of wrong answers.
        level: the threshold; None when the bound could not be proven.
        reason: explanation in a sentence.
        missing: labeled audit images that are still needed.
        proven: upper bound of the share of wrong answers; None when unproven.
        images: audit images above the threshold.
        audit: labeled audit images.
        chance: significance level spent on the test; None on old cards.
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
    """A version's auto-accept threshold with the results of spot checks.

    Attributes:
        suspended: auto-accept is suspended because of errors that people found.
        checked: number of spot-checked answers.
    """

    suspended: bool = False
    checked: int = 0


@dataclass(frozen=True)
class LabelFigures:
    """Precision and recall of one label; None when not measured."""

    precision: IntervalEstimate | None = None
    recall: IntervalEstimate | None = None


@dataclass(frozen=True)
class ControlCard:
    """What a version records of one control.

    Attributes:
        kind: the model that predicts it, in words.
        examples: training examples by label.
        audit: accuracy or F1 on the audit set.
        figures: all other metrics, as JSON.
        shown: confidence threshold of regions.
        advice: how to get predictions before anything is learned.
        made_from: dependencies of the detector's training; equal ones give an equal detector.
    """

    kind: str = "none yet"
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
    def confusion(self) -> Mapping[str, Mapping[str, int]]:
        """Counts by true and predicted label; empty for boxes and points."""
        return self._figure("confusion")

    @property
    def counting(self) -> IntervalEstimate | None:
        """Relative counting error of boxes and points."""
        row = self._figure("counting")
        return from_json(IntervalEstimate, row) if row else None

    @property
    def object_sizes(self) -> Mapping[str, float]:
        """Object size by label, of points, as a share of the longer edge."""
        return self._figure("sizes")

    def _figure(self, name: str) -> Mapping[str, Any]:
        return (self.figures or {}).get(name) or {}


@dataclass(frozen=True)
class ComputeCost:
    """Where a training ran and its cost.

    Attributes:
        where: ``local`` or ``modal``.
        device: its name, such as ``L4``; empty when unknown.
        seconds: device time.
        dollars: estimate by list prices; 0 for local training.
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


# -- a round --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundRequest:
    """Why a round is requested.

    Attributes:
        forced: Start Training or the command line: train without waiting for more labels.
        quiet: nobody has labeled for a while: train without waiting for more labels.
        hints: number of events since the last full round, each of which may be a changed label.
        full: compare all labels even where nothing seems to have changed.
        held: the last round was cancelled: do not train unless forced.
    """

    forced: bool = False
    quiet: bool = False
    hints: int = 0
    full: bool = False
    held: bool = False


@dataclass(frozen=True)
class HeldVersion:
    """Why the newest version is not live; with an empty version why none is trained."""

    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ControlStatus(ControlCard):
    """A control of the labeling config with the live version's record of it.

    Attributes:
        to_name: name of the image tag.
        type: the tag, such as ``Choices``.
        choice: ``single`` or ``multiple``; empty for boxes and points.
        smart: its smart tool requests suggestions; None for choices.
    """

    name: str = ""
    to_name: str = json_field("", optional=True)
    type: str = ""
    choice: str = json_field("", optional=True)
    labels: tuple[str, ...] = ()
    smart: bool | None = json_field(None, optional=True)

    @classmethod
    def of_control(cls, control: Control, card: ControlCard) -> Self:
        """Combine a control with its card."""
        is_choices = control.kind == "choices"
        recorded = replace(card, made_from=None)
        return cls(
            **{item.name: getattr(recorded, item.name) for item in fields(recorded)},
            name=control.name,
            to_name=control.to_name,
            type=TAG_BY_KIND[control.kind],
            choice=("multiple" if control.multiple else "single") if is_choices else "",
            labels=control.label_names,
            smart=None if is_choices else control.smart,
        )


@dataclass(frozen=True)
class ProjectFigures:
    """What a round's outcome and a project's status have in common.

    Attributes:
        title: the project's title.
        tasks: number of tasks.
        labels: number of tasks with an annotation.
        waiting: new or changed labels that no version was trained on.
        audit: the live version's accuracy or F1 on the audit set.
        controls: the served controls.
        left_out: unused tasks, regions and images, counted by reason.
        estimate: accuracy by cross-validation while the audit set is small.
        outlook: forecast of what more labels bring.
        accepting: auto-accept status; None when it is off.
        held: why the newest version is not live, or why none is trained; None otherwise.
        accepted: number of auto-accepted tasks.
        versions: all version names, newest first.
    """

    title: str = ""
    tasks: int = 0
    labels: int = 0
    waiting: int = 0
    audit: IntervalEstimate = IntervalEstimate()
    controls: tuple[ControlStatus, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    estimate: IntervalEstimate | None = json_field(None, none_as_empty=True)
    outlook: Outlook | None = json_field(None, none_as_empty=True)
    accepting: AutoAcceptStatus | None = json_field(None, none_as_empty=True)
    held: HeldVersion | None = json_field(None, none_as_empty=True)
    accepted: int = 0
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoundOutcome(ProjectFigures):
    """The result of a round.

    Attributes:
        version: the live version.
        trained: the version trained in this round; empty when none was.
        cleanup: retired versions may have predictions left in Label Studio.
        seconds: duration by step, and ``total``.
    """

    version: str = ""
    trained: str = ""
    cleanup: bool = json_field(False, optional=True)
    seconds: Mapping[str, float] = field(default_factory=dict)


# -- a project ------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundStatus:
    """The current state of a project's round.

    Attributes:
        state: ``idle``, ``observing``, ``training``, ``evaluating``, ``pushing`` or ``failed``.
        progress: of this state, 0 to 1.
        detail: progress message; may be None.
        error: why the last round failed; None when it did not.
    """

    state: str = "idle"
    progress: float = 0.0
    detail: str | None = None
    error: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether a round is in progress."""
        return self.state not in ("idle", "failed")


@dataclass(frozen=True)
class CaptureCounts:
    """Captured images that wait to become tasks, and those that did."""

    waiting: int = 0
    returned: int = 0


@dataclass(frozen=True)
class ProjectStatus(ProjectFigures):
    """A project as ``/api/projects`` returns it; ``id`` is a number where the id is one."""

    id: int | str = ""
    server: str = ""
    number: int = 0
    version: str | None = None
    round: RoundStatus = RoundStatus()
    captured: CaptureCounts = CaptureCounts()
