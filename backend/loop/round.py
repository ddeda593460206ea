"""One round: observe, decide, train, evaluate, promote, push, point.

Level-triggered: a round compares what Label Studio holds with what the newest version saw and
acts on the difference. What woke it carries nothing; a round that dies is simply done again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from backend.domain import Control, Task
from backend.errors import ConfigError
from backend.learning.selection import scores
from backend.loop import cards
from backend.loop import push as pushing
from backend.loop.embedding import NO_IMAGES, Embedded
from backend.loop.fit import Fit
from backend.loop.labels import changes, label_table
from backend.loop.looking import Looked, look
from backend.loop.model import Model, save_model
from backend.loop.observe import Observation, Pulse, observe, take_pulse
from backend.loop.predicting import (
    confidences,
    place_uncertainties,
    predictions,
    sources,
    task_uncertainty,
    unreadable,
    without_model,
)
from backend.loop.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.versions import Card, Labels, identity_of
from backend.vision.encoder import Encoder

log = logging.getLogger("prelabel")
Report = Callable[[str, float, str], None]
RECIPE = 2
"""Counts up when the way a head is made changes, so that the next start makes it anew."""


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
    cleanup: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Memory:
    """What a process remembers of a project, to answer the next wake-up cheaply.

    Attributes:
        pulse: as the lists showed it.
        live: the live version then.
        outcome: of that look.
        pushed: there is a prediction of the live version: Label Studio can follow it.
    """

    pulse: Pulse
    live: str
    outcome: Outcome
    pushed: bool


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
        report: Report,
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
        if self.memory and self._nothing_to_do(self.memory, pulse, ask):
            return self._still(self.memory, pulse)
        self._versions.sweep()
        seen = observe(self._connection, self._resources.folder(self._record), pulse)
        self._resources.projects.rename(self._record.id, pulse.title)
        self._check_controls(seen)
        self._clock.lap("observe")
        trained = self._train_if_wanted(seen, ask)
        live = self._versions.live() or ""
        pushed, left = self._push(seen, live)
        outcome = self._outcome(seen, live, trained, left)
        self.memory = Memory(seen.pulse, live, outcome, pushed)
        return outcome

    # -- deciding ---------------------------------------------------------------------------

    def _nothing_to_do(self, memory: Memory, pulse: Pulse, ask: Ask) -> bool:
        """Whether the pulse shows that a full look would find nothing worth a round."""
        if ask.full or ask.forced or memory.live != (self._versions.live() or ""):
            return False
        if pulse == memory.pulse:
            return not (memory.outcome.waiting and ask.quiet)
        same = (pulse.config, pulse.tasks) == (memory.pulse.config, memory.pulse.tasks)
        fewer = pulse.annotations < memory.pulse.annotations
        new = memory.outcome.waiting + max(
            1, ask.hints, pulse.annotations - memory.pulse.annotations
        )
        enough = ask.quiet or new >= self._settings.retrain_after
        return same and not fewer and not enough

    def _still(self, memory: Memory, pulse: Pulse) -> Outcome:
        """The last outcome, with the labels that came since counted as waiting."""
        last = memory.outcome
        if memory.pushed:
            pushing.point(self._connection, last.version, pulse)
        new = max(0, pulse.annotations - memory.pulse.annotations)
        changed = int(pulse != memory.pulse)
        return replace(
            last,
            trained="",
            cleanup=False,
            waiting=last.waiting + max(new, changed),
            labels=last.labels + new,
        )

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

    def _train_if_wanted(self, seen: Observation, ask: Ask) -> str:
        """Train when something changed that is worth it; the new version's name or nothing."""
        encoder = self._encoder(seen)
        labels = label_table(seen)
        identity = self._identity(seen, labels, encoder)
        newest = self._versions.newest()
        if newest is not None and (newest.identity == identity or (ask.held and not ask.forced)):
            return ""
        if newest is not None and self._same_shape(seen, encoder, newest):
            changed = changes(self._versions.labels(newest.version), labels)
            few = 0 < changed < self._settings.retrain_after
            if few and not (ask.forced or ask.quiet):
                return ""
        return self._make_version(seen, encoder, labels, identity)

    def _encoder(self, seen: Observation) -> Encoder | None:
        """The encoder, where choices are asked for: nothing else needs it."""
        wanted = any(control.kind == "choices" for control in seen.config.controls)
        return self._resources.encoder() if wanted else None

    def _detector_id(self, seen: Observation) -> str:
        """What detectors start from, where boxes or points are asked for."""
        wanted = any(control.kind != "choices" for control in seen.config.controls)
        return self._resources.base().id if wanted else ""

    def _same_shape(self, seen: Observation, encoder: Encoder | None, newest: Card) -> bool:
        shape = {control.name: list(control.label_names) for control in seen.config.controls}
        known = {name: list(card["examples"]) for name, card in newest.controls.items()}
        ids = (encoder.id if encoder else "", self._detector_id(seen))
        return shape == known and ids == (
            newest.encoder.get("id", ""),
            newest.detector.get("id", ""),
        )

    def _identity(self, seen: Observation, labels: Labels, encoder: Encoder | None) -> str:
        controls = [
            [
                *(c.name, c.image_key, c.kind, c.multiple),
                [[x.name, x.words, x.hint, x.extent] for x in c.labels],
            ]
            for c in seen.config.controls
        ]
        made_with = [
            encoder.id if encoder else "",
            self._detector_id(seen),
            self._settings.detector_size,
        ]
        return identity_of(
            [RECIPE, seen.identity, controls, labels, made_with, self._settings.seed]
        )

    # -- training ---------------------------------------------------------------------------

    def _make_version(
        self, seen: Observation, encoder: Encoder | None, labels: Labels, identity: str
    ) -> str:
        self._report("training", 0.0, "")
        embedded = self._embed(seen, encoder, "training")
        self._clock.lap("embed")
        fit = Fit(
            *(self._resources, self._record, seen, encoder, embedded),
            *(self._report, self._cancelled),
        )
        model = fit.model()
        self._clock.lap("train")
        figure, details = fit.judge(model)
        self._clock.lap("evaluate")
        number, name = self._versions.next_name(identity)
        card = Card(
            version=name,
            identity=identity,
            number=number,
            parent=self._versions.live(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            labels=cards.split(seen),
            audit=figure.json(),
            controls=details,
            encoder=self._encoder_card(encoder),
            seconds=self._clock.seconds(),
            seed=self._settings.seed,
            packages=cards.packages(),
            promotion={"promoted": True, "reason": cards.reason(seen, number)},
            detector=self._detector_card(seen),
        )
        self._versions.save(card, labels, lambda folder: save_model(model, folder))
        self._versions.promote(name, by="the loop", reason=card.promotion["reason"])
        log.info("project %s: version %s is live (%s)", self._record.id, name, cards.told(card))
        return name

    def _encoder_card(self, encoder: Encoder | None) -> dict[str, str]:
        """With a spelling that leads to this very encoder again, also where ``auto`` chose it."""
        if encoder is None:
            return {}
        setting = self._settings.encoder
        setting = encoder.name if setting == "auto" else setting
        return {"setting": setting, "id": encoder.id, "name": encoder.name}

    def _detector_card(self, seen: Observation) -> dict[str, str]:
        id = self._detector_id(seen)
        return {"setting": self._resources.base().setting, "id": id} if id else {}

    def _embed(self, seen: Observation, encoder: Encoder | None, state: str) -> Embedded:
        if encoder is None:
            return NO_IMAGES
        choices = [control for control in seen.config.controls if control.kind == "choices"]
        embedder = self._resources.embedder(self._record, encoder)
        return embedder.embed(
            sources(seen.tasks, choices),
            lambda done, of: self._report(state, done / of if of else 1.0, ""),
        )

    # -- pushing ----------------------------------------------------------------------------

    def _push(self, seen: Observation, live: str) -> tuple[bool, Counter[str]]:
        """Every open task has one prediction of the live version, and the queue follows it.

        Returns:
            whether there is any prediction, and the images that could not be read, by reason.
        """
        self._report("pushing", 0.0, "")
        setting = self._versions.card(live).encoder.get("setting", "")
        encoder = self._resources.encoder(setting) if setting else None
        embedded = self._embed(seen, encoder, "pushing")
        open_tasks = [task for task in seen.tasks if task.open]
        there, wanted = pushing.missing(self._connection, live, (task.id for task in open_tasks))
        if wanted:
            self._push_missing(seen, live, open_tasks, wanted, embedded)
        pushed = bool(there or wanted)
        if pushed:
            pushing.point(self._connection, live, seen.pulse)
        self._clock.lap("push")
        failed = {**self._resources.pictures(self._record).failed, **embedded.failed}
        return pushed, unreadable(seen.tasks, seen.config.controls, failed)

    def _push_missing(
        self,
        seen: Observation,
        live: str,
        open_tasks: list[Task],
        wanted: set[int],
        embedded: Embedded,
    ) -> None:
        model = self._resources.model(self._record, live)
        controls = seen.config.controls
        new = [task for task in open_tasks if task.id in wanted]
        beliefs = confidences(model, controls, open_tasks, embedded)
        looked = self._look(model, controls, new)
        unsure = task_uncertainty(controls, beliefs)
        for task, value in place_uncertainties(seen.identity, looked).items():
            unsure[task] = max(unsure.get(task, 0.0), value)
        if not unsure:
            unsure = without_model(seen.identity, open_tasks, {**embedded.failed, **looked.failed})
        unknown = [task.id for task in open_tasks if task.id not in unsure]
        labeled = seen.labeled
        audited = sum(seen.is_audit(task) for task in labeled)
        order = scores(seen.identity, unsure, unknown, len(labeled), audited)
        made = predictions(model, controls, new, beliefs, order, embedded, looked)
        pushing.push(
            self._connection,
            live,
            made,
            seen.controls,
            lambda done, of: self._report("pushing", done / of, ""),
        )

    def _look(self, model: Model, controls: Sequence[Control], tasks: Sequence[Task]) -> Looked:
        if not model.finders:
            return Looked()
        pictures = self._resources.pictures(self._record)
        looked = look(
            *(model, controls, tasks, pictures),
            lambda done, of: self._report("pushing", done / of, f"image {done} of {of}"),
        )
        self._resources.picture_files.trim()
        return looked

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
            cleanup=True,
            seconds=self._clock.seconds(),
        )
