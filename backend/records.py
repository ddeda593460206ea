"""Records of rounds and projects, stored as JSON files and sent in HTTP responses.

:mod:`backend.json_records` converts them to JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Self

from backend.card_records import TAG_BY_KIND, AutoAcceptStatus, ControlCard, Outlook
from backend.domain import Control
from backend.estimate import IntervalEstimate
from backend.json_records import (
    json_field,
)

USED_LABELS_TEXT = "uses all of them, those of audit images only to measure the accuracy."

# -- a round --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundRequest:
    """Why a round is requested.

    Attributes:
        forced: requested by Start Training or the command line; train after any change.
        quiet: no label arrived for ``PRELABEL_RETRAIN_QUIET`` seconds; train after any change,
            unless it takes minutes and little is new.
        long_quiet: no label arrived for minutes; train after any change.
        hints: number of events since the last full round; each may be a changed label.
        full: compare all labels even if nothing seems to have changed.
        held: the last round was cancelled; do not train unless forced.
        quick: it runs on a worker for quick work, which trains no detector.
    """

    forced: bool = False
    quiet: bool = False
    long_quiet: bool = False
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
        audit_labels: number of labeled audit images; the live version may be measured on fewer.
        full_training_due: a quick version was trained, and its full training follows at once.
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
    audit_labels: int = json_field(0, optional=True)
    full_training_due: bool = json_field(False, optional=True)


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
        return f"No new labels: {newest} {USED_LABELS_TEXT}"


# -- a project ------------------------------------------------------------------------------


TRAINING_STATES = ("training", "evaluating")
"""States of a round in which it trains or evaluates a version that is not live yet."""


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
        removed_at: when a project that was deleted in Label Studio is removed from lists; empty for
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
    removed_at: str = json_field("", key="leaves_at", optional=True)
