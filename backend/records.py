"""Records of versions, rounds and projects, stored as JSON files and sent in HTTP responses.

:mod:`backend.json_records` converts them to JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
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


# -- a round --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundRequest:
    """Why a round is requested.

    Attributes:
        forced: requested by Start Training or the command line; train after any change.
        quiet: no label arrived for ``PRELABEL_RETRAIN_QUIET`` seconds; train after any change.
        hints: number of events since the last full round; each may be a changed label.
        full: compare all labels even if nothing seems to have changed.
        held: the last round was cancelled; do not train unless forced.
        quick: it runs on a worker for quick work, which trains no detector.
    """

    forced: bool = False
    quiet: bool = False
    hints: int = 0
    full: bool = False
    held: bool = False
    quick: bool = False


@dataclass(frozen=True)
class HeldVersion:
    """Why the newest version is not live; if ``version`` is empty, why none was trained."""

    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class SettingsReset:
    """A choice in Label Studio's project settings that Prelabel set back.

    Attributes:
        at: when, ISO 8601 in UTC.
        sampling: the task sampling that was chosen; empty if it was not changed.
        model_version: the model version that was chosen; empty if it was not changed.
    """

    at: str = ""
    sampling: str = ""
    model_version: str = ""

    def is_after(self, time: datetime) -> bool:
        """Return whether it was set back after a time."""
        try:
            return datetime.fromisoformat(self.at) > time
        except (ValueError, TypeError):  # of a damaged file
            return False

    @property
    def sentence(self) -> str:
        """What was set back, and how to keep the own choice."""
        version = f"the model version {self.model_version}" if self.model_version else ""
        choices = " and ".join(filter(None, (self.sampling, version)))
        return (
            f"Label Studio's project settings were changed to {choices}. Prelabel set them back, so"
            " that the queue follows the model. To keep your choice, first add "
            'model_keep_settings="true" to the View tag of the labeling config.'
        )


@dataclass(frozen=True)
class ControlStatus(ControlCard):
    """A control of the labeling config, with its section of the live version's card.

    Attributes:
        to_name: name of the image tag.
        type: the tag, such as ``Choices``.
        choice: ``single`` or ``multiple``; empty for boxes and points.
        smart: it is a smart tool; None for choices.
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
class RemovedLabel:
    """A label that annotations use and that the labeling config no longer has.

    Attributes:
        control: name of its control.
        label: the label.
        annotations: number of annotations with it.
    """

    control: str
    label: str
    annotations: int = 0


@dataclass(frozen=True)
class ProjectFigures:
    """The fields that round outcomes and project statuses share.

    Attributes:
        title: the project's title.
        tasks: number of tasks.
        labels: number of tasks with an annotation.
        waiting: number of new or changed labels that no version was trained on.
        audit: the live version's accuracy or F1 on the audit set.
        controls: the served controls.
        left_out: unused tasks, regions and images, counted by reason.
        estimate: accuracy by cross-validation while the audit set is small.
        outlook: forecast of the accuracy with more labels.
        accepting: auto-accept status; None if it is off.
        held: why the newest version is not live, or why none was trained; None otherwise.
        accepted: number of auto-accepted tasks.
        versions: all version names, newest first.
        unanswered: tasks that were submitted without a label of a single-choice control.
        settings_reset: a person's choice of project settings that was set back; None otherwise.
        removed_labels: labels of annotations that the labeling config no longer has.
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
    unanswered: tuple[int, ...] = json_field((), optional=True)
    settings_reset: SettingsReset | None = json_field(None, optional=True)
    removed_labels: tuple[RemovedLabel, ...] = json_field((), optional=True)


@dataclass(frozen=True)
class RoundOutcome(ProjectFigures):
    """The result of a round.

    Attributes:
        version: the live version.
        trained: the version trained in this round; empty if none was.
        cleanup: retired versions may have predictions left in Label Studio.
        seconds: duration by step, and ``total``.
    """

    version: str = ""
    trained: str = ""
    cleanup: bool = json_field(False, optional=True)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def untrained_reason(self) -> str:
        """Why a requested training used no new label; empty if it did."""
        if not self.labels and self.unanswered:
            count = len(self.unanswered)
            images = "1 image was" if count == 1 else f"{count} images were"
            return f"There is no label to train on: {images} submitted without a choice."
        if not self.labels:
            return "Nothing is labeled yet: label a few images first."
        if self.trained:
            return ""
        if self.held and not self.held.version:
            return self.held.reason
        newest = self.held.version if self.held else (self.versions or (self.version,))[0]
        return f"No new labels: {newest} is trained on all of them."


# -- a project ------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundStatus:
    """The current state of a project's round.

    Attributes:
        state: ``idle``, ``observing``, ``training``, ``evaluating``, ``pushing`` or ``failed``.
        progress: progress of this state, 0 to 1.
        detail: progress message; may be None.
        error: why the last round failed; None if it did not.
        waiting: it waits for another project's round, which ``detail`` names.
        cancelling: its training was cancelled, and ends soon.
    """

    state: str = "idle"
    progress: float = 0.0
    detail: str | None = None
    error: str | None = None
    waiting: bool = json_field(False, optional=True)
    cancelling: bool = json_field(False, optional=True)

    @property
    def can_cancel(self) -> bool:
        """Whether a training runs that was not cancelled yet."""
        return self.state == "training" and not self.cancelling

    @property
    def is_running(self) -> bool:
        """Whether a round is in progress."""
        return self.state not in ("idle", "failed")


@dataclass(frozen=True)
class CaptureCounts:
    """Numbers of captured images that wait for import, and of imported ones."""

    waiting: int = 0
    returned: int = 0


@dataclass(frozen=True)
class PredictionProgress:
    """Progress of the predictions that Label Studio requested for several tasks.

    Attributes:
        answered: number of tasks that are predicted.
        requested: number of tasks in the requests.
    """

    answered: int = 0
    requested: int = 0

    @property
    def share(self) -> float:
        """The predicted share, 0 to 1."""
        return self.answered / self.requested if self.requested else 1.0

    @property
    def count_text(self) -> str:
        """The progress as text."""
        return f"{self.answered:,} of {self.requested:,} tasks"


@dataclass(frozen=True)
class ProjectStatus(ProjectFigures):
    """A project in the response of ``/api/projects``; a numeric ``id`` is an integer.

    Attributes:
        predicting: *Retrieve Predictions* in progress; None otherwise.
        new_in_round: number of labels since the current round began; they count in ``labels``.
        leaves_at: when a project that was deleted in Label Studio is not shown any more; empty for
            others.
    """

    id: int | str = ""
    server: str = ""
    number: int = 0
    version: str | None = None
    round: RoundStatus = RoundStatus()
    captured: CaptureCounts = CaptureCounts()
    predicting: PredictionProgress | None = json_field(None, optional=True)
    new_in_round: int = json_field(0, optional=True)
    leaves_at: str = json_field("", optional=True)
