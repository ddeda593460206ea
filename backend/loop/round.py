"""One round: observe, decide, train, evaluate, promote, push, point.

Level-triggered: a round compares what Label Studio holds with what the newest version saw and
acts on the difference. What woke it carries nothing; a round that dies is simply done again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from backend.callbacks import StateCallback
from backend.errors import ConfigError, OverBudget, PrelabelError
from backend.loop import card as cards
from backend.loop.label_table import changes, label_table
from backend.loop.observe import Observation, Pulse, observe, take_pulse
from backend.loop.publish import push as pushing
from backend.loop.publish.publish import Presented, Presenter
from backend.loop.publish.queue_order import refresh
from backend.loop.publish.thumbnails import Showcase
from backend.loop.train_version import Maker
from backend.runtime.resources import Resources
from backend.store.acceptance import Acceptances
from backend.store.projects import ProjectRecord
from backend.store.versions import Card

log = logging.getLogger("prelabel")
MARKED_WITHIN = timedelta(minutes=1)
"""So long Label Studio may take from an annotation to the mark of its task."""


@dataclass(frozen=True)
class Ask:
    """Why a round is wanted.

    Attributes:
        forced: Start Training, or the command line: do not wait for more labels.
        quiet: nobody labeled for a while: do not wait for more labels either.
        hints: events since the last full look, which may be as many changed labels.
        full: look at everything, whatever the pulse says.
        held: somebody cancelled the last round: do not train unless forced.
    """

    forced: bool = False
    quiet: bool = False
    hints: int = 0
    full: bool = False
    held: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a round found and did; the project as ``/api/projects`` shows it.

    Attributes:
        title: the project's.
        version: the live version.
        tasks: how many tasks.
        labels: how many of them a person answered.
        audit: the live version's figure on the audit slice.
        controls: the served controls.
        left_out: what is not used, counted by reason.
        versions: all version names, newest first.
        trained: the version that this round made; empty when none.
        waiting: new or changed labels that no version has seen yet.
        estimate: accuracy by cross-validation while the audit slice is small.
        outlook: what more labels are expected to bring.
        accepting: from which confidence on answers need no person.
        accepted: tasks that were answered so.
        held: the newest version and why it is not live; empty where it is, or once was. Without
            a version: why none is trained.
        cleanup: retired versions may have predictions left.
    """

    title: str
    version: str
    tasks: int
    labels: int
    audit: Mapping[str, Any]
    controls: list[dict[str, Any]]
    left_out: Mapping[str, int]
    versions: list[str]
    trained: str = ""
    waiting: int = 0
    estimate: Mapping[str, Any] = field(default_factory=dict)
    outlook: Mapping[str, Any] = field(default_factory=dict)
    accepting: Mapping[str, Any] = field(default_factory=dict)
    accepted: int = 0
    held: Mapping[str, str] = field(default_factory=dict)
    cleanup: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Memory:
    """What a process remembers of a project, to answer the next wake-up cheaply.

    Attributes:
        pulse: as the lists showed it.
        live: the live version then.
        outcome: of that look.
        presented: what Label Studio shows of the live version, and in which order.
        since: the moment up to which changes are known, ISO 8601.
        touched: tasks that people labeled, or whose labels they changed, since the look.
        skipped: tasks that people skipped since the look.
        answered: those among both that were open and not skipped before.
        ours: tasks that we changed since then, and when; a later change is somebody else's.
        waits: training waits for next month's money.
        counts: annotations and skips at the last wake-up.
    """

    pulse: Pulse
    live: str
    outcome: Outcome
    presented: Presented
    since: str
    waits: bool = False
    touched: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    ours: dict[int, str] = field(default_factory=dict)
    counts: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = (self.pulse.annotations, self.pulse.skipped)

    def heard(self, ask: Ask, pulse: Pulse) -> Ask:
        """Why a round is wanted, now that the counts are known.

        Where Label Studio's events do not arrive nothing else tells that somebody is labeling.
        """
        before, self.counts = self.counts, (pulse.annotations, pulse.skipped)
        return replace(ask, quiet=ask.quiet and self.counts == before)

    def notice(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """People labeled or skipped some tasks.

        Args:
            rows: tasks of the list that changed lately; those known already do no harm.
        """
        for row in rows:
            if self._is_touched(row):
                self.touched.add(row["id"])
                self.answered |= {row["id"]} & self._open
            elif self._is_skipped(row):
                self.skipped.add(row["id"])
                self.answered.add(row["id"])

    def knows(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Whether nobody labeled or skipped a task that was not noticed."""
        known = self.touched | self.skipped
        return all(
            row["id"] in known for row in rows if self._is_touched(row) or self._is_skipped(row)
        )

    def disregard(self, rows: Iterable[Mapping[str, Any]], touched: set[int]) -> None:
        """We touched some tasks: that is not for us to look at.

        Args:
            rows: all tasks that changed after ``since``.
            touched: those among them that we touched.
        """
        changed = list(rows)
        self.ours |= {r["id"]: str(r["updated_at"]) for r in changed if r["id"] in touched}
        if not any(self.foreign(row) for row in changed):
            self.since = max((str(row["updated_at"]) for row in changed), default=self.since)

    def foreign(self, row: Mapping[str, Any]) -> bool:
        """Whether somebody else was the last to change a task."""
        return self.ours.get(row["id"]) != str(row["updated_at"])

    @property
    def _open(self) -> set[int]:
        """Tasks that nobody had labeled when the queue was last brought up to date."""
        return self.presented.order.open

    def _is_touched(self, row: Mapping[str, Any]) -> bool:
        """Whether a person labeled an open task, or changed one that was labeled before."""
        edited = str(row["updated_at"]) > self.since and self.foreign(row)
        labeled = row["is_labeled"] and row["total_annotations"]
        return bool(labeled) and (row["id"] in self._open or edited)

    def _is_skipped(self, row: Mapping[str, Any]) -> bool:
        """Whether somebody skipped an open task that nobody had skipped before."""
        before = self.presented.order.skipped
        return _skipped(row) and row["id"] in self._open and row["id"] not in before


class Round:
    """Runs rounds of one project.

    Args:
        resources: of this process.
        record: the project.
        report: told the state's name, the progress, 0 to 1, and details of it.
        memory: of the last full look by this process.
        cancelled: asked often while training; true ends the round.
    """

    def __init__(
        self,
        resources: Resources,
        record: ProjectRecord,
        report: StateCallback,
        memory: Memory | None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._resources = resources
        self._settings = resources.settings
        self._record = record
        self._report = report
        self._cancelled = cancelled
        self._versions = resources.versions(record)
        self._clock = cards.Stopwatch()
        self.memory: Memory | None = memory

    def run(self, ask: Ask) -> Outcome:
        """One turn of the loop.

        Raises:
            PrelabelError: it cannot go on; the live version stays as it was.
        """
        self._report("observing", 0.0, "")
        self._connection = self._resources.connection(self._record)
        pulse = take_pulse(self._connection)
        ask = self.memory.heard(ask, pulse) if self.memory else ask
        if self.memory and self._nothing_to_do(self.memory, pulse, ask):
            return self._still(self.memory, pulse)
        self._versions.sweep()
        seen = observe(self._connection, self._resources.folder(self._record), pulse)
        self._resources.projects.rename(self._record.id, pulse.title)
        self._check_controls(seen)
        self._clock.lap("observe")
        maker = Maker(self._resources, self._record, self._report, self._cancelled, self._clock)
        trained = maker.make_if_wanted(
            seen, now=ask.forced or ask.quiet, held=ask.held and not ask.forced
        )
        live = self._versions.live() or ""
        presenter = Presenter(self._resources, self._record, self._connection, self._report)
        presented = presenter.present(seen, live)
        moved = {} if trained == live else self._reorder(presented, live)
        self._clock.lap("push")
        self._share()
        outcome = self._outcome(seen, live, trained, presented.unread)
        if maker.waits:
            outcome = replace(outcome, held={"version": "", "reason": maker.waits})
        self.memory = Memory(
            seen.pulse, live, outcome, presented, seen.pulse.changed, waits=bool(maker.waits)
        )
        if moved:
            client, number = self._connection.client, self._record.number
            self.memory.disregard(client.changed(number, self.memory.since), set(moved))
        return outcome

    def _reorder(self, presented: Presented, live: str) -> dict[int, float]:
        """Predictions that are not new stand where they stood before: the front is brought up."""
        return refresh(presented.order, self._connection, live) if presented.any else {}

    def _share(self) -> None:
        """The endpoint elsewhere gets the live version; the next round tries again if not."""
        try:
            self._resources.compute.share()
        except PrelabelError as error:
            log.warning("project %s: %s", self._record.id, error)

    # -- deciding ---------------------------------------------------------------------------

    def _nothing_to_do(self, memory: Memory, pulse: Pulse, ask: Ask) -> bool:
        """Whether the pulse shows that a full look would find nothing worth a round."""
        if ask.full or ask.forced or memory.live != (self._versions.live() or ""):
            return False
        before = memory.pulse
        if (pulse.config, pulse.tasks) != (before.config, before.tasks):
            return False
        more = pulse.annotations - before.annotations
        counted = more or pulse.skipped != before.skipped
        if not (counted or ask.hints or memory.touched) and pulse.changed <= memory.since:
            wanted = memory.outcome.waiting and ask.quiet and not ask.held
            return not wanted or (memory.waits and self._is_over_budget())
        new = memory.outcome.waiting + max(1, ask.hints, more)
        return more >= 0 and not ask.quiet and new < self._settings.retrain_after

    def _is_over_budget(self) -> bool:
        """Whether training still waits for money, as it did at the last full look."""
        try:
            self._resources.compute.check()
        except OverBudget:
            return True
        return False

    def _still(self, memory: Memory, pulse: Pulse) -> Outcome:
        """The last outcome, with the labels that came since counted as waiting.

        Their neighbours are asked for later: the front of the queue is brought up to date.
        """
        last = memory.outcome
        if memory.presented.any:
            pushing.point(self._connection, last.version, pulse)
        given = pulse.annotations - memory.pulse.annotations
        if pulse.changed > memory.since or given > len(memory.answered):
            self._catch_up(memory, last.version)
        skipped = pulse.skipped - memory.pulse.skipped
        new = max(0, given - skipped)
        return replace(
            last,
            trained="",
            cleanup=False,
            waiting=last.waiting + max(new, len(memory.touched)),
            labels=last.labels + new,
        )

    def _catch_up(self, memory: Memory, live: str) -> None:
        """Learn which tasks people labeled or skipped, and let the queue know."""
        client, number = self._connection.client, self._record.number
        memory.notice(client.changed(number, _before(memory.since)))
        if memory.presented.any:
            order = memory.presented.order
            refresh(order, self._connection, live, memory.touched, memory.skipped)
            Showcase(self._resources, self._record).show_queue(order)
        after = list(client.changed(number, _before(memory.since)))
        if memory.knows(after):  # what came meanwhile is for the next look
            memory.since = max((str(row["updated_at"]) for row in after), default=memory.since)

    def _check_controls(self, seen: Observation) -> None:
        for name, reason in seen.config.left_out.items():
            log.info("project %s: control %s is not served: %s", self._record.id, name, reason)
        if not seen.config.controls:
            reasons = "; ".join(f"{n}: {r}" for n, r in seen.config.left_out.items())
            raise ConfigError(
                "The labeling config of the project has no control that Prelabel serves "
                f"({reasons or 'it has none for an Image'}): add Choices, RectangleLabels or "
                "KeyPointLabels for an Image."
            )

    def _held(self, newest: Card | None, live: str) -> dict[str, str]:
        """The newest version, where the gate keeps it from going live."""
        if newest is None or newest.version == live or newest.promotion.get("promoted", True):
            return {}
        return {"version": newest.version, "reason": str(newest.promotion["reason"])}

    def _outcome(self, seen: Observation, live: str, trained: str, unread: Counter[str]) -> Outcome:
        card = self._versions.card(live)
        newest = self._versions.newest()
        labels = label_table(seen)
        waiting = changes(self._versions.labels(newest.version), labels) if newest else 0
        return Outcome(
            title=seen.pulse.title,
            version=live,
            tasks=len(seen.tasks),
            labels=len(seen.labeled),
            audit=card.audit,
            controls=[cards.shown(control, card) for control in seen.config.controls],
            left_out=dict(seen.left_out + unread),
            versions=self._versions.names(),
            trained=trained,
            waiting=waiting,
            estimate=card.estimate,
            outlook=card.outlook,
            accepting=Acceptances(self._resources.folder(self._record)).read().told(card.accepting),
            accepted=sum(task.accepted for task in seen.tasks),
            held=self._held(newest, live),
            cleanup=True,
            seconds=self._clock.seconds(),
        )


def _before(moment: str) -> str:
    """A little before a moment of Label Studio's, ISO 8601.

    Label Studio dates a task when its annotation comes, and marks it as labeled or skipped a moment
    later without a new date: what changed shortly before is worth another look.
    """
    if not moment:
        return moment
    return (datetime.fromisoformat(moment) - MARKED_WITHIN).isoformat().replace("+00:00", "Z")


def _skipped(row: Mapping[str, Any]) -> bool:
    """Whether somebody skipped a task of the list that has no answer, or too few.

    A project that ignores skipped tasks marks them as labeled.
    """
    answered = row["is_labeled"] and row["total_annotations"]
    return bool(row["cancelled_annotations"]) and not answered
