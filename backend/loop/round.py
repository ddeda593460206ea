"""One round: observe, train, evaluate, promote, and publish predictions.

Rounds are level-triggered: whatever triggered a round, it compares the labels in Label Studio with
those of the newest version and acts on the difference. A failed round is repeated.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from backend.callbacks import StateCallback
from backend.errors import (
    ConfigError,
    LabelStudioError,
    LongRoundError,
    OverBudgetError,
    PrelabelError,
    RoundCancelledError,
    StoreError,
)
from backend.label_studio.labeling_config import read_config
from backend.label_studio.tabs import ProjectTabs, labeling_path
from backend.learning.audit import is_audit
from backend.loop import card as cards
from backend.loop.observe import (
    Observation,
    ProjectFingerprint,
    count_changes,
    fetch_fingerprint,
    label_table,
    observe,
)
from backend.loop.publish.publish import Publisher, PublishResult
from backend.loop.publish.queue_order import count_examples, refresh_queue
from backend.loop.publish.queue_settings import follow_version, recent_reset
from backend.loop.publish.thumbnails import ThumbnailPublisher
from backend.loop.rename_label import apply_label_answers
from backend.loop.repair import repair_files
from backend.loop.round_memory import RoundMemory, subtract_update_delay
from backend.loop.train_version import VersionTrainer
from backend.records import ControlStatus, HeldVersion, RoundOutcome, RoundRequest
from backend.runtime.project_session import ProjectSession
from backend.store.acceptance import AcceptanceStore
from backend.store.label_tab import save_labeling_path
from backend.store.queue_front import QueueFront
from backend.store.versions import VersionCard

log = logging.getLogger("prelabel")
FRONT_SIZE = 50
"""Number of tasks that get predictions of a quick version, which serves until the full one."""


def _ignore_progress(state: str, progress: float, detail: str) -> None:
    """Ignore the progress of short work during a training, which reports its own."""


class Round:
    """A round of a project.

    Args:
        session: the project's session.
        report: receives the progress.
        memory: state of the last full round in this process.
        cancelled: polled during training; the round is cancelled when it returns True.
    """

    def __init__(
        self,
        session: ProjectSession,
        report: StateCallback,
        memory: RoundMemory | None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = session.settings
        self._session = session
        self._report = report
        self._cancelled = cancelled
        self._versions = session.versions
        self._stopwatch = cards.Stopwatch()
        self.memory: RoundMemory | None = memory

    def run(self, request: RoundRequest) -> RoundOutcome:
        """Run the round.

        Raises:
            PrelabelError: the round failed; the live version stays.
        """
        with self._session.publish_lock():
            outcome, request, observation = self._observe(request)
        if observation is None:
            return outcome
        self._served_annotations = observation.fingerprint.annotation_count
        trainer = VersionTrainer(
            self._session,
            self._report,
            self._cancelled,
            self._stopwatch,
            request.quick,
            self._serve_new_labels,
        )
        try:
            new_version = trainer.train_if_needed(
                observation,
                force=request.forced or request.long_quiet,
                is_pause=request.quiet,
                on_hold=request.held and not request.forced,
            )
        except (LongRoundError, RoundCancelledError):
            raise
        except PrelabelError:
            self._publish_rest(observation)
            raise
        with self._session.publish_lock():
            outcome = self._publish(observation, new_version, trainer.budget_message)
        if self.memory is not None:
            self.memory.awaits_pause = trainer.awaits_pause
        return outcome

    def _publish_rest(self, observation: Observation) -> None:
        """Publish a live quick version for all open tasks, because its full training failed."""
        card = self._versions.live_card()
        if card is not None and card.is_quick:
            with self._session.publish_lock():
                Publisher(self._session, self._report).publish(observation, card.version)

    def publish_live(self) -> None:
        """Publish the live version, without a training; another process may train meanwhile.

        Raises:
            PrelabelError: it failed; the next round publishes it.
        """
        self._report("observing", 0.0, "")
        self._connection = self._session.connection
        with self._session.publish_lock():
            fingerprint = fetch_fingerprint(self._connection)
            observation = observe(self._connection, self._session.folder, fingerprint)
            live_version = self._versions.live() or ""
            publish_result = Publisher(self._session, self._report).publish(
                observation, live_version
            )
            self._update_queue(publish_result, live_version)
        self._upload_live_version()

    def _observe(
        self, request: RoundRequest
    ) -> tuple[RoundOutcome, RoundRequest, Observation | None]:
        """Read the project.

        Returns:
            the outcome if the round ends here; the adjusted request; and the observation, None if
            the round ends here.
        """
        self._report("observing", 0.0, "")
        self._connection = self._session.connection
        if apply_label_answers(self._session, self._report):
            # no version knows the new name; it is also requested for the case that this round fails
            request = replace(request, forced=True)
        fingerprint = fetch_fingerprint(self._connection)
        request = self.memory.adjust_request(request, fingerprint) if self.memory else request
        if self.memory and self._can_skip(self.memory, fingerprint, request):
            return self._reuse_outcome(self.memory, fingerprint), request, None
        repair_files(self._session)
        self._update_tabs()
        observation = observe(self._connection, self._session.folder, fingerprint)
        self._session.resources.projects.set_title(self._session.id, fingerprint.title)
        self._check_controls(observation)
        self._record_queue_labels(task.id for task in observation.labeled)
        self._stopwatch.lap("observe")
        return RoundOutcome(), request, observation

    def _publish(
        self, observation: Observation, new_version: str, budget_message: str
    ) -> RoundOutcome:
        """Publish the live version, and return the outcome of the round.

        Args:
            observation: the observation.
            new_version: the version that was trained; empty if none was.
            budget_message: message that the monthly budget is spent; empty otherwise.
        """
        live_version = self._versions.live() or ""
        publisher = Publisher(self._session, self._report)
        newest = self._versions.newest()
        is_full_due = bool(new_version) and newest is not None and newest.is_quick
        publish_result = publisher.publish(
            observation, live_version, limit=FRONT_SIZE if is_full_due else None
        )
        rescored = (
            {} if new_version == live_version else self._update_queue(publish_result, live_version)
        )
        self._stopwatch.lap("push")
        self._upload_live_version()
        outcome = self._build_outcome(
            observation, live_version, new_version, publish_result.unreadable_counts
        )
        if budget_message:
            outcome = replace(outcome, held=HeldVersion(reason=budget_message))
        outcome = replace(outcome, full_training_due=is_full_due)
        self.memory = RoundMemory(
            observation.fingerprint,
            live_version,
            outcome,
            publish_result,
            observation.fingerprint.last_change,
            over_budget=bool(budget_message),
        )
        if rescored:
            client, project_number = self._connection.client, self._session.number
            self.memory.ignore_own_changes(
                client.iter_changed_tasks(project_number, self.memory.known_until), set(rescored)
            )
        return outcome

    def _serve_new_labels(self) -> None:
        """Train and publish a quick version if enough labels arrived during a long training.

        The training goes on afterwards, so a failure is only logged.
        """
        try:
            fingerprint = fetch_fingerprint(self._connection)
            added_annotations = fingerprint.annotation_count - self._served_annotations
            if added_annotations < self._settings.retrain_after:
                return
            self._served_annotations = fingerprint.annotation_count
            observation = observe(self._connection, self._session.folder, fingerprint)
            trainer = VersionTrainer(
                self._session, _ignore_progress, self._cancelled, cards.Stopwatch()
            )
            if trainer.train_quick_version(observation):
                publisher = Publisher(self._session, _ignore_progress)
                with self._session.publish_lock():
                    live_version = self._versions.live() or ""
                    publisher.publish(observation, live_version, limit=FRONT_SIZE)
        except RoundCancelledError:
            return  # the training stops as well
        except PrelabelError as error:
            log.warning("project %s: new labels wait: %s", self._session.id, error)
        except Exception:  # for example, the training uses all memory of the GPU
            log.exception("project %s: new labels wait", self._session.id)

    def _update_tabs(self) -> None:
        """Keep the tab in the order of the queue, and repair tabs that hide the Data Manager."""
        tabs = ProjectTabs(self._connection.client, self._session.number)
        try:
            path = labeling_path(tabs.ensure_label_next())
            save_labeling_path(self._session.folder, path)
        except LabelStudioError as error:  # labels are learned without it
            log.warning("project %s: the Data Manager's tabs: %s", self._session.id, error)

    def _update_queue(self, publish_result: PublishResult, live_version: str) -> dict[int, float]:
        """Reorder the front of the queue; unchanged predictions keep their score."""
        return (
            refresh_queue(publish_result.order, self._connection, live_version)
            if publish_result.has_predictions
            else {}
        )

    def _upload_live_version(self) -> None:
        """Upload the live version to a remote endpoint; the next round retries a failure."""
        try:
            self._session.resources.compute.sync_endpoint()
        except PrelabelError as error:
            log.warning("project %s: %s", self._session.id, error)

    # -- skipping unneeded work -------------------------------------------------------------

    def _can_skip(
        self, memory: RoundMemory, fingerprint: ProjectFingerprint, request: RoundRequest
    ) -> bool:
        """Return whether a full round is unnecessary, based on the fingerprint."""
        if memory.outcome.full_training_due:
            return False
        if request.full or request.forced or memory.live_version != (self._versions.live() or ""):
            return False
        previous = memory.fingerprint
        if (fingerprint.config_hash, fingerprint.task_count) != (
            previous.config_hash,
            previous.task_count,
        ):
            return False
        added_annotations = fingerprint.annotation_count - previous.annotation_count
        has_new_counts = added_annotations or fingerprint.skip_count != previous.skip_count
        if (
            not (has_new_counts or request.hints or memory.annotated_tasks)
            and fingerprint.last_change <= memory.known_until
        ):
            is_pause = request.long_quiet or (request.quiet and not memory.awaits_pause)
            should_train = memory.outcome.waiting and is_pause and not request.held
            return not should_train or (memory.over_budget and self._is_over_budget())
        waiting_count = memory.outcome.waiting + max(1, request.hints, added_annotations)
        return (
            added_annotations >= 0
            and not request.quiet
            and waiting_count < self._settings.retrain_after
        )

    def _is_over_budget(self) -> bool:
        """Return whether the monthly budget is spent."""
        try:
            self._session.resources.compute.check_budget()
        except OverBudgetError:
            return True
        return False

    def _reuse_outcome(self, memory: RoundMemory, fingerprint: ProjectFingerprint) -> RoundOutcome:
        """Return the last outcome with new labels counted as waiting, and reorder the queue.

        Images that are similar to newly labeled ones move back in the queue.
        """
        previous = memory.outcome
        if memory.publish_result.has_predictions:
            is_trained = self._session.versions.card(previous.version).labels.train > 0
            follow_version(
                self._connection,
                self._session.folder,
                previous.version,
                fingerprint,
                is_trained=is_trained,
                keeps_settings=read_config(fingerprint.config_xml).keeps_settings,
            )
        new_annotations = fingerprint.annotation_count - memory.fingerprint.annotation_count
        if fingerprint.last_change > memory.known_until or new_annotations > len(
            memory.newly_answered
        ):
            self._record_new_labels(memory, previous.version)
        new_skips = fingerprint.skip_count - memory.fingerprint.skip_count
        new_labels = max(0, new_annotations - new_skips)
        newly_labeled = memory.newly_answered & memory.annotated_tasks
        identity = self._connection.record.audit_identity
        return replace(
            previous,
            trained="",
            cleanup=False,
            full_training_due=False,
            waiting=previous.waiting + max(new_labels, len(memory.annotated_tasks)),
            labels=previous.labels + new_labels,
            audit_labels=previous.audit_labels
            + sum(is_audit(identity, task) for task in newly_labeled),
            settings_reset=recent_reset(self._session.folder),
        )

    def _record_new_labels(self, memory: RoundMemory, live_version: str) -> None:
        """Fetch the tasks that people labeled or skipped, and reorder the queue."""
        client, project_number = self._connection.client, self._session.number
        memory.record_changes(
            client.iter_changed_tasks(project_number, subtract_update_delay(memory.known_until))
        )
        self._record_queue_labels(memory.annotated_tasks)
        if memory.publish_result.has_predictions:
            order = memory.publish_result.order
            refresh_queue(
                order, self._connection, live_version, memory.annotated_tasks, memory.skipped_tasks
            )
            ThumbnailPublisher(self._session).publish_queue(order)
        latest_rows = list(
            client.iter_changed_tasks(project_number, subtract_update_delay(memory.known_until))
        )
        if memory.is_up_to_date(latest_rows):  # later changes are read in the next round
            memory.known_until = max(
                (str(row["updated_at"]) for row in latest_rows), default=memory.known_until
            )

    def _record_queue_labels(self, labeled: Iterable[int]) -> None:
        """Record which labels were given because the model was uncertain, before the queue moves.

        It only decides on a remark on the dashboard, so a failure does not stop the round.
        """
        try:
            QueueFront(self._session.folder).record_labeled(labeled)
        except StoreError as error:
            log.warning("project %s: %s", self._session.id, error)

    def _check_controls(self, observation: Observation) -> None:
        for name, reason in observation.config.unserved.items():
            log.info("project %s: control %s is not served: %s", self._session.id, name, reason)
        if not observation.config.controls:
            reasons = "; ".join(f"{n}: {r}" for n, r in observation.config.unserved.items())
            raise ConfigError(
                "The labeling config of the project has no control that Prelabel serves "
                f"({reasons or 'it has none for an Image'}): add Choices, RectangleLabels or "
                "KeyPointLabels for an Image."
            )

    def _held_version(self, newest: VersionCard | None, live_version: str) -> HeldVersion | None:
        """Return the newest version and the reason if the quality gate held it back."""
        if newest is None or newest.version == live_version or not newest.is_held:
            return None
        return HeldVersion(newest.version, newest.promotion_reason)

    def _build_outcome(
        self,
        observation: Observation,
        live_version: str,
        new_version: str,
        unreadable: Counter[str],
    ) -> RoundOutcome:
        card = self._versions.card(live_version)
        newest = self._versions.newest()
        labels = label_table(observation)
        waiting = count_changes(self._versions.labels(newest.version), labels) if newest else 0
        examples = count_examples(observation)
        return RoundOutcome(
            title=observation.fingerprint.title,
            version=live_version,
            tasks=len(observation.tasks),
            labels=len(observation.labeled),
            audit=card.audit,
            controls=tuple(
                ControlStatus.of_control(
                    control, replace(card.control(control.name), examples=examples[control.name])
                )
                for control in observation.config.controls
            ),
            left_out=dict(observation.left_out + unreadable),
            versions=tuple(self._versions.names()),
            unanswered=tuple(task.id for task in observation.tasks if task.unanswered),
            settings_reset=recent_reset(self._session.folder),
            removed_labels=observation.removed_labels,
            audit_labels=sum(map(observation.is_audit, observation.labeled)),
            trained=new_version,
            waiting=waiting,
            estimate=card.estimate,
            outlook=card.displayed_outlook,
            accepting=AcceptanceStore(self._session.folder).read().describe(card.accepting),
            accepted=sum(task.auto_accepted for task in observation.tasks),
            held=self._held_version(newest, live_version),
            cleanup=True,
            seconds=self._stopwatch.seconds(),
        )
