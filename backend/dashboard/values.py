"""What a page shows, as typed values: the templates see nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.estimate import IntervalEstimate
from backend.records import Outlook, ProjectStatus, PromotionEvent
from backend.store.versions import VersionCard


@dataclass(frozen=True)
class ProjectSummary:
    """A project on the overview, and at the head of its page.

    Attributes:
        status: with the live version's figures.
        link: the project's URL in Label Studio; empty when the server's URL cannot be linked.
    """

    status: ProjectStatus
    link: str

    @property
    def title(self) -> str:
        """Its title in Label Studio, or its number."""
        return self.status.title or f"Project {self.status.number}"

    @property
    def estimate(self) -> IntervalEstimate:
        """Accuracy by cross-validation."""
        return self.status.estimate or IntervalEstimate()

    @property
    def control_types(self) -> list[str]:
        """Types of its controls, such as ``Choices``."""
        return [control.type for control in self.status.controls]

    @property
    def waiting_reason(self) -> str:
        """Why no version is trained although there are new labels; empty otherwise."""
        held = self.status.held
        return held.reason if held and not held.version else ""

    def task_link(self, number: int) -> str:
        """Return the URL of a task in Label Studio; empty when it cannot be linked."""
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
    precision: IntervalEstimate
    recall: IntervalEstimate
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
        labels: one row each.
        confusion: of choices; None where nothing is known.
        counting: of boxes and points: the counting error.
        advice: what would help before anything is learned.
    """

    name: str
    type: str
    kind: str
    labels: Sequence[LabelRow]
    confusion: ConfusionMatrix | None = None
    counting: IntervalEstimate | None = None
    advice: str = ""


@dataclass(frozen=True)
class VersionRow:
    """A version.

    Attributes:
        card: its record.
        live: it is the live version.
        was_live: it is or was live.
    """

    card: VersionCard
    live: bool
    was_live: bool

    @property
    def estimate(self) -> IntervalEstimate:
        """Accuracy by cross-validation."""
        return self.card.estimate or IntervalEstimate()


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
class ProjectPage:
    """Everything that a project's page shows."""

    summary: ProjectSummary
    outlook: Outlook
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
