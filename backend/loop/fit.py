"""A model from a snapshot of labels: a head or a finder per control."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.callbacks import StateCallback
from backend.domain import Control, ImageSize
from backend.errors import ImageError, NotThere, RoundError
from backend.inference.detections import Sample
from backend.inference.embed import Embedded
from backend.inference.images import Pictures, Source
from backend.inference.model import Model
from backend.loop.label_table import examples_of, label_table, pool_of
from backend.loop.observe import Observation
from backend.runtime.compute import Spent
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.versions import Card
from backend.training.detector import FindingJob
from backend.training.head import Examples, TrainingJob, cross
from backend.vision.detection.trained_detector import Finds
from backend.vision.encoders.base import Encoder
from backend.vision.heads.head import Head

log = logging.getLogger("prelabel")
RECIPE = 5
"""Counts up when the way a version is made changes, so that the next start makes it anew."""


class Fit:
    """Fits a model to what was observed.

    Args:
        resources: of this process.
        record: the project.
        seen: the snapshot.
        encoder: of choices; None where there are none.
        embedded: the images, by that encoder.
        report: told state, progress and details.
        cancelled: asked often.
    """

    def __init__(
        self,
        resources: Resources,
        record: ProjectRecord,
        seen: Observation,
        encoder: Encoder | None,
        embedded: Embedded,
        report: StateCallback,
        cancelled: Callable[[], bool],
    ) -> None:
        self._resources = resources
        self._settings = resources.settings
        self._record = record
        self._seen = seen
        self._encoder = encoder
        self._embedded = embedded
        self._report = report
        self._cancelled = cancelled
        self._versions = resources.versions(record)
        self._live = self._live_card()
        self._before = resources.model(record, self._live.version) if self._live else Model({})
        self._examples: dict[str, Examples] = {
            c.name: examples_of(seen, c, embedded) for c in self._of("choices")
        }
        self._samples: dict[str, list[Sample]] = {}
        self.spent = Spent()

    def model(self) -> Model:
        """Train what changed; the rest is taken from the live version.

        Raises:
            Cancelled: somebody cancelled it.
            PrelabelError: it did not work out.
        """
        heads = {c.name: self._head(c) for c in self._of("choices")}
        controls = self._of("boxes", "points")
        seconds = self._settings.train_seconds / max(1, len(controls))
        finders = {c.name: self._finder(c, seconds) for c in controls}
        return Model(
            {name: head for name, head in heads.items() if head is not None},
            {name: finder for name, finder in finders.items() if finder is not None},
        )

    @property
    def live(self) -> Card | None:
        """The card of the live version, which the new one is compared with."""
        return self._live

    @property
    def before(self) -> Model:
        """The live version's model; an empty one where there is none."""
        return self._before

    def examples(self, control: Control) -> Examples:
        """The labeled images of a control of choices."""
        return self._examples[control.name]

    def samples(self, control: Control) -> list[Sample]:
        """The marked images of a control of boxes or points."""
        if control.name not in self._samples:
            self._samples[control.name] = self._read_samples(control)
        return self._samples[control.name]

    def pool(self, control: Control) -> Any:
        """The embeddings of all images of a control of choices, labeled or not: (m, d)."""
        return self._job(control).pool

    def cross(self, control: Control, head: Head) -> tuple[Any, Any]:
        """What a head says of labeled images that it did not see; see ``training.cross``."""
        return cross(self._job(control), head)

    def made_from(self, control: Control) -> list[Any]:
        """What a finder depends on besides labels and weights, as plain JSON."""
        labels = [[x.name, list(x.words), x.extent] for x in control.labels]
        with_what = [RECIPE, self._settings.detector_size, self._resources.prompt_files()]
        return [control.kind, labels, *with_what]

    def _live_card(self) -> Card | None:
        """The live version's; None where somebody removed it: training starts anew."""
        try:
            return self._versions.live_card()
        except NotThere:
            return None

    def _of(self, *kinds: str) -> list[Control]:
        return [c for c in self._seen.config.controls if c.kind in kinds]

    # -- choices ----------------------------------------------------------------------------

    def _head(self, control: Control) -> Head | None:
        head, spent = self._resources.compute.train_head(self._job(control))
        self.spent += spent
        return head

    def _job(self, control: Control) -> TrainingJob:
        encoder = self._encoder
        assert encoder is not None  # noqa: S101 - there is a control of choices
        previous = self._before.heads.get(control.name)
        return TrainingJob(
            control=control,
            examples=self._examples[control.name],
            pool=pool_of(self._seen, control, self._embedded, encoder.dim),
            prototypes=self._resources.prototypes(encoder, control),
            logit_scale=encoder.logit_scale,
            logit_bias=encoder.logit_bias,
            previous=previous if self._fits(previous, control, encoder) else None,
            seed=self._settings.seed,
        )

    def _fits(self, previous: Head | None, control: Control, encoder: Encoder) -> bool:
        """Whether a new head may start from the live one."""
        if previous is None or self._live is None:
            return False
        same_encoder = self._live.encoder.get("id") == encoder.id
        same_kind = previous.multiple == control.multiple
        return same_encoder and same_kind and previous.labels == control.label_names

    # -- boxes and points -------------------------------------------------------------------

    def _finder(self, control: Control, seconds: float) -> Finds | None:
        samples = self.samples(control)
        if self.unchanged(control):
            return self._before.finders.get(control.name)
        start = time.monotonic()

        def tell(done: int, of: int) -> None:
            left = (time.monotonic() - start) / done * (of - done)
            detail = f"{control.name}: epoch {done} of {of}, about {left:.0f} s left"
            self._report("training", done / of, detail)

        finder, spent = self._resources.compute.train_finder(
            FindingJob(
                control=control,
                samples=samples,
                base=self._resources.base_network(),
                previous=self._before.finders.get(control.name),
                size=self._settings.detector_size,
                seconds=seconds,
                seed=self._settings.seed,
                load=self._resources.load_detector,
                prompts=self._resources.prompts(self._record),
                report=tell,
                cancelled=self._cancelled,
                base_setting=self._resources.base().setting,
            )
        )
        self.spent += spent
        return finder

    def unchanged(self, control: Control) -> bool:
        """Whether the live finder saw these very labels."""
        live = self._live
        if live is None or live.detector.get("id") != self._resources.base().id:
            return False
        if live.controls.get(control.name, {}).get("made_from") != self.made_from(control):
            return False
        now, then = label_table(self._seen), self._versions.labels(live.version)
        return all(
            now.get(task, {}).get(control.name) == then.get(task, {}).get(control.name)
            for task in now.keys() | then.keys()
        )

    def _read_samples(self, control: Control) -> list[Sample]:
        """The marked images that can be read, in the order of their tasks."""
        marked = [
            task
            for task in self._seen.labeled
            if control.name in (task.places or {}) and control.image_key in task.images
        ]
        pictures = self._resources.pictures(self._record)
        sizes: dict[str, ImageSize] = {}
        wanted = [Source(task.images[control.image_key], task.id) for task in marked]
        for batch in pictures.batches(wanted):
            sizes |= batch.sizes
        digests = pictures.digests(sizes)
        boxes = [
            c.name
            for c in self._of("boxes")
            if c.name != control.name and c.to_name == control.to_name
        ]
        return [
            Sample(
                task=task.id,
                read=partial(_read, pictures, Source(task.images[control.image_key], task.id)),
                size=sizes[task.images[control.image_key]],
                places=(task.places or {})[control.name],
                boxes=tuple(p for name in boxes for p in (task.places or {}).get(name, ())),
                audit=self._seen.is_audit(task),
                digest=digests.get(task.images[control.image_key], ""),
            )
            for task in marked
            if task.images[control.image_key] in sizes
        ]


def _read(pictures: Pictures, source: Source) -> Any:
    try:
        return pictures.copy(source)
    except ImageError as error:
        raise RoundError(f"The image of task {source.task} went away: {error}.") from error
