"""What was observed → a version: trained, judged, compared with the live one, kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from backend.callbacks import StateCallback
from backend.errors import OverBudget
from backend.inference.embed import NO_IMAGES, Embedded
from backend.inference.model import save_model
from backend.inference.predict import sources
from backend.loop import card as cards
from backend.loop.evaluate.assess import Assessor
from backend.loop.evaluate.drift_reference import reference_of
from backend.loop.fit import RECIPE, Fit
from backend.loop.label_table import changes, label_table
from backend.loop.observe import Observation
from backend.runtime.resources import Resources
from backend.store.drift_reference import save_reference
from backend.store.projects import ProjectRecord
from backend.store.versions import Card, Labels, identity_of
from backend.vision.encoders.base import Encoder

log = logging.getLogger("prelabel")
BY = "the loop"


class Maker:
    """Makes versions of one project.

    Args:
        resources: of this process.
        record: the project.
        report: told state, progress and details.
        cancelled: asked often while training.
        clock: of the round.

    Attributes:
        waits: why nothing was trained although it was worth it; empty where nothing hinders.
    """

    def __init__(
        self,
        resources: Resources,
        record: ProjectRecord,
        report: StateCallback,
        cancelled: Callable[[], bool],
        clock: cards.Stopwatch,
    ) -> None:
        self._resources = resources
        self._settings = resources.settings
        self._record = record
        self._report = report
        self._cancelled = cancelled
        self._clock = clock
        self._versions = resources.versions(record)
        self.waits = ""

    def make_if_wanted(self, seen: Observation, *, now: bool, held: bool) -> str:
        """Train when something changed that is worth it.

        Args:
            seen: what Label Studio holds.
            now: few changes are worth it as well.
            held: somebody cancelled the last round: nothing is.

        Returns:
            the new version's name, whether it went live or not; empty when there is none.

        Raises:
            PrelabelError: it cannot go on; the live version stays as it was.
        """
        self._finish()
        encoder = self._encoder(seen)
        labels = label_table(seen)
        identity = self._identity(seen, labels, encoder)
        newest = self._versions.newest()
        if newest is not None and (newest.identity == identity or held):
            return ""
        if newest is not None and not now and self._same_shape(seen, encoder, newest):
            changed = changes(self._versions.labels(newest.version), labels)
            if 0 < changed < self._settings.retrain_after:
                return ""
        if newest is not None and self._may_not_spend():
            return ""
        return self._make(seen, encoder, labels, identity)

    def _finish(self) -> None:
        """A version that passed goes live, where the disk was full or a crash came just then."""
        card = self._versions.finish(BY)
        if card is not None:
            id = self._record.id
            log.info("project %s: version %s is live (%s)", id, card.version, cards.told(card))

    def _may_not_spend(self) -> bool:
        """Whether this month's money is spent: what is live goes on predicting."""
        try:
            self._resources.compute.check()
        except OverBudget as error:
            log.warning("project %s: %s", self._record.id, error)
            self.waits = str(error)
        return bool(self.waits)

    def embed(self, seen: Observation, encoder: Encoder | None, state: str) -> Embedded:
        """The images of all choices, by an encoder; none without one."""
        if encoder is None:
            return NO_IMAGES
        choices = [control for control in seen.config.controls if control.kind == "choices"]
        embedder = self._resources.embedder(self._record, encoder)
        return embedder.embed(
            sources(seen.tasks, choices),
            lambda done, of: self._report(state, done / of if of else 1.0, ""),
        )

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
                *(c.name, c.image_key, c.kind, c.multiple, c.precision, c.accept_error),
                [[x.name, x.words, x.hint, x.extent] for x in c.labels],
            ]
            for c in seen.config.controls
        ]
        made_with = [
            encoder.id if encoder else "",
            self._detector_id(seen),
            self._settings.detector_size,
            self._settings.precision,
            self._settings.accept_error,
            self._resources.prompt_files() if self._detector_id(seen) else [],
        ]
        return identity_of(
            [RECIPE, seen.identity, controls, labels, made_with, self._settings.seed]
        )

    def _make(
        self, seen: Observation, encoder: Encoder | None, labels: Labels, identity: str
    ) -> str:
        self._report("training", 0.0, "")
        embedded = self.embed(seen, encoder, "training")
        self._clock.lap("embed")
        live = self._versions.live()
        fit = Fit(
            self._resources,
            self._record,
            seen,
            encoder,
            embedded,
            self._report,
            self._cancelled,
        )
        model = fit.model()
        self._clock.lap("train")
        self._report("evaluating", 0.0, "")
        found = Assessor(self._resources, self._record, seen, fit, model).assess()
        model = replace(model, thresholds=found.thresholds, controls=seen.config.controls)
        self._clock.lap("evaluate")
        number, name = self._versions.next_name(identity)
        card = Card(
            version=name,
            identity=identity,
            number=number,
            parent=fit.live.version if fit.live else live,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            labels=cards.split(seen),
            audit=found.figure.json(),
            controls=found.controls,
            encoder=self._encoder_card(encoder),
            seconds=self._clock.seconds(),
            seed=self._settings.seed,
            packages=cards.packages(),
            promotion={
                "promoted": found.verdict.promote,
                "reason": found.verdict.reason,
                "evidence": found.verdict.evidence,
            },
            detector=self._detector_card(seen),
            estimate=found.estimate.json() if found.estimate else {},
            outlook=found.outlook,
            accepting=found.accepting,
            compute=fit.spent.json(),
        )
        reference = reference_of(seen, fit, model, embedded)

        def fill(folder: Path) -> None:
            save_model(model, folder)
            save_reference(reference, folder)

        self._tell(self._versions.keep(card, labels, fill, BY))
        return name

    def _tell(self, card: Card) -> None:
        reason, id = card.promotion["reason"], self._record.id
        if card.promotion["promoted"]:
            log.info("project %s: version %s is live (%s)", id, card.version, cards.told(card))
        else:
            log.warning("project %s: version %s is not live. %s", id, card.version, reason)

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
