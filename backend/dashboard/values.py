"""What a page shows, as typed values: the templates see nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.store.versions import VersionCard


@dataclass(frozen=True)
class MetricView:
    """A share with its 95 % interval; see ``backend.learning.classification_metrics.Figure``.

    Attributes:
        n: images it rests on.
        value: 0 to 1; None where nothing is known.
        low: lower end of the interval.
        high: upper end of the interval.
        metric: what was counted.
    """

    n: int = 0
    value: float | None = None
    low: float = 0.0
    high: float = 1.0
    metric: str = "accuracy"

    @classmethod
    def from_card(cls, card_figure: Mapping[str, Any] | None) -> MetricView:
        """From a card; nothing known where there is none."""
        return (
            cls(**{k: card_figure[k] for k in ("n", "value", "low", "high", "metric")})
            if card_figure
            else cls()
        )


@dataclass(frozen=True)
class RoundStatus:
    """What the project's round does.

    Attributes:
        state: ``idle``, ``observing``, ``training``, ``evaluating``, ``pushing`` or ``failed``.
        progress: of that, 0 to 1.
        detail: of that, for people.
        error: why the last round failed; empty when it did not.
    """

    state: str
    progress: float
    detail: str
    error: str

    @property
    def running(self) -> bool:
        """Something is under way."""
        return self.state not in ("idle", "failed")


@dataclass(frozen=True)
class ProjectSummary:
    """A project on the overview, and at the head of its page.

    Attributes:
        id: of the project here.
        title: in Label Studio.
        link: to it in Label Studio; empty where its address is not one to link to.
        version: the live one; empty before the first.
        figure: of the live version on the audit slice.
        estimate: by cross-validation, while the audit slice is small.
        round: what is under way.
        tasks: images.
        labels: of them labeled by a person.
        waiting: labels that no version has seen.
        accepted: tasks that were answered without a person.
        accepting: from which confidence on that happens, or why it does not; empty where it is off.
        held: the newest version and why it is not live; without a version: why none is made.
            Empty where nothing hinders.
        types: of the controls, such as ``Choices``.
    """

    id: str
    title: str
    link: str
    version: str
    figure: MetricView
    estimate: MetricView
    round: RoundStatus
    tasks: int
    labels: int
    waiting: int
    accepted: int
    accepting: str = ""
    held: Mapping[str, str] = field(default_factory=dict)
    types: Sequence[str] = ()

    @property
    def waits(self) -> str:
        """Why no version is made although there are new labels; may be empty."""
        return str(self.held.get("reason", "")) if not self.held.get("version") else ""

    def task(self, number: int) -> str:
        """The address of a task in Label Studio; empty where there is none to link to."""
        return f"{self.link}/data?task={number}" if self.link else ""


@dataclass(frozen=True)
class LabelRow:
    """One label.

    Attributes:
        name: of the label.
        precision: share of right ones among those the model says it of.
        recall: share that it finds of those that are there.
        examples: learned from.
    """

    name: str
    precision: MetricView
    recall: MetricView
    examples: int


@dataclass(frozen=True)
class ConfusionMatrix:
    """Truth against answer on the audit slice.

    Attributes:
        names: of the rows (truth) and the columns (answer).
        rows: counts.
        mixed_up: (truth, answer, how often), the most frequent first.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[int]]
    mixed_up: Sequence[tuple[str, str, int]]

    def share(self, row: int, column: int) -> int:
        """How much of a row lies in a column, in tenths, for its colour."""
        row_total = sum(self.rows[row])
        return round(10 * self.rows[row][column] / row_total) if row_total else 0


@dataclass(frozen=True)
class ControlView:
    """One tag of the labeling config.

    Attributes:
        name: of the tag.
        type: ``Choices``, ``RectangleLabels`` or ``KeyPointLabels``.
        kind: what answers it.
        figure: on the audit slice.
        labels: one row each.
        confusion: of choices; None where nothing is known.
        counting: of boxes and points: the counting error.
        advice: what would help before anything is learned.
    """

    name: str
    type: str
    kind: str
    figure: MetricView
    labels: Sequence[LabelRow]
    confusion: ConfusionMatrix | None = None
    counting: MetricView | None = None
    advice: str = ""


@dataclass(frozen=True)
class VersionRow:
    """A version.

    Attributes:
        card: everything that is told of it.
        live: it is the live one.
        was_live: it was, or is.
        figure: on the audit slice.
        estimate: by cross-validation.
        reason: why it went live, or not.
    """

    card: VersionCard
    live: bool
    was_live: bool
    figure: MetricView
    estimate: MetricView
    reason: str

    @property
    def held(self) -> bool:
        """The gate keeps it from going live."""
        return not self.card.promotion.get("promoted", True)


@dataclass(frozen=True)
class QueueRow:
    """An image of the queue.

    Attributes:
        task: its number.
        why: in words.
        kind: the reason's name, for its sign.
        link: to the task; may be empty.
        picture: whether there is a small picture.
    """

    task: int
    why: str
    kind: str
    link: str
    picture: bool


@dataclass(frozen=True)
class LabelErrorRow:
    """A label that is probably wrong; see ``backend.learning.label_errors.Suspect``.

    Attributes:
        task: its number.
        given: what a person answered.
        suggested: what the model believes.
        why: ``wrong label``, ``overlooked``, ``badly placed`` or ``swapped label``.
        suspicion: 0 to 1.
        link: to the task; may be empty.
        picture: whether there is a small picture.
    """

    task: int
    given: str
    suggested: str
    why: str
    suspicion: float
    link: str
    picture: bool


@dataclass(frozen=True)
class CaptureRow:
    """An image that an application asked about.

    Attributes:
        id: of the request.
        why: ``uncertain``, ``rare`` or ``random``.
        at: when, UTC.
        version: that answered.
        answered: a person's answer came back with it.
        task: its number; 0 while it is none.
        link: to the task; may be empty.
        picture: whether there is a small picture.
    """

    id: str
    why: str
    at: str
    version: str
    answered: bool
    task: int
    link: str
    picture: bool


@dataclass(frozen=True)
class PromotionEvent:
    """A version went live.

    Attributes:
        at: UTC, ISO 8601.
        version: that did.
        before: that was live until then; may be empty.
        by: who did it.
        reason: why.
    """

    at: str
    version: str
    before: str
    by: str
    reason: str


@dataclass(frozen=True)
class LabelForecast:
    """What more labels are expected to bring.

    Attributes:
        sentence: in words; may be empty.
        needy: labels that need more examples, and how many, in words.
        stop: the next labels are not expected to pay.
        curve: (labels, value, low, high) from today's labels on.
        audited: it rests on the audit slice, not on cross-validation.
    """

    sentence: str = ""
    needy: Sequence[tuple[str, str]] = ()
    stop: bool = False
    curve: Sequence[tuple[int, float, float, float]] = ()
    audited: bool = True


@dataclass(frozen=True)
class ProjectPage:
    """Everything that a project's page shows."""

    summary: ProjectSummary
    outlook: LabelForecast
    controls: Sequence[ControlView]
    queue: Sequence[QueueRow]
    suspects: Sequence[LabelErrorRow]
    suspects_found: int
    captures: Sequence[CaptureRow]
    captures_waiting: int
    captures_returned: int
    versions: Sequence[VersionRow]
    history: Sequence[PromotionEvent]
    roll_back_to: str
    held: VersionRow | None
    left_out: Mapping[str, int]
