"""Whether a project asks the right question, by its own labels: see ``learning.advising``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.arrays import Bools, Floats, Ints
from backend.callbacks import LogCallback
from backend.domain import Control, Label, Places
from backend.errors import RoundError
from backend.inference.detections import Sample, judged_on, shown
from backend.inference.embed import Embedded
from backend.inference.predict import sources
from backend.learning import labeling_advice
from backend.learning.labeling_advice import Comparison, Things, Way
from backend.loop.fit import Fit
from backend.loop.observe import Observation, observe, take_pulse
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.training.detector import FindingJob
from backend.training.head import Examples, TrainingJob, train
from backend.vision.detection.trained_detector import Finds
from backend.vision.encoders.base import Encoder
from backend.vision.heads.calibration import folds

ENOUGH = 20
"""Labeled audit images from which on they are what both ways are compared on."""
FEWEST = 12
"""Labeled images below which nothing is compared."""
FOLDS = 3
"""Parts of the cross-validation: a detector is trained for each."""
NEARLY = 0.8
"""Share of the time from which on training counts as cut short by it."""
AUDIT, CROSSED = "the audit slice", "cross-validation"


@dataclass(frozen=True)
class Advice:
    """What is advised for one control.

    Attributes:
        control: its name.
        kind: how it is answered today.
        told: all figures, as plain JSON.
        sentences: the recommendation in plain words.
    """

    control: str
    kind: str
    told: dict[str, Any]
    sentences: list[str]

    def json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "control": self.control,
            "kind": self.kind,
            **self.told,
            "advice": self.sentences,
        }


class Adviser:
    """Advises on one project; changes nothing of it.

    Args:
        resources: of this process.
        record: the project.
        seconds: that training for the comparison may take in all.
        tell: told what it does now.
    """

    def __init__(
        self, resources: Resources, record: ProjectRecord, seconds: float, tell: LogCallback
    ) -> None:
        self._resources = resources
        self._record = record
        self._seconds = seconds
        self._tell = tell

    def advise(self) -> list[Advice]:
        """By control of boxes or points; where there is none, by control of choices.

        Raises:
            RoundError: nothing is labeled yet.
            PrelabelError: Label Studio or an image cannot be reached.
        """
        connection = self._resources.connection(self._record)
        folder = self._resources.folder(self._record)
        seen = observe(connection, folder, take_pulse(connection))
        if not seen.labeled:
            raise RoundError(
                f"Nothing is labeled yet: label about {FEWEST} images, then ask again."
            )
        marks = [c for c in seen.config.controls if c.kind != "choices"]
        if not marks:
            return [self._of_choices(control) for control in seen.config.controls]
        encoder = self._resources.viewer(self._record)
        embedded = self._embed(seen, encoder)
        fit = Fit(
            self._resources,
            self._record,
            seen,
            encoder,
            embedded,
            lambda state, progress, detail: self._tell(detail or state),
            lambda: False,
        )
        return [self._of_marks(control, fit, seen, encoder, embedded) for control in marks]

    def _embed(self, seen: Observation, encoder: Encoder) -> Embedded:
        return self._resources.embedder(self._record, encoder).embed(
            sources(seen.tasks, seen.config.controls),
            lambda done, of: self._tell(f"looking at images: {done} of {of}"),
        )

    # -- whole images -------------------------------------------------------------------------

    def _of_choices(self, control: Control) -> Advice:
        card = self._resources.versions(self._record).live_card()
        figure = (card.controls.get(control.name, {}).get("audit") if card else None) or {}
        known = figure.get("value") is not None
        now = (
            f"Whole images are sorted in this project: {figure['value']:.0%} right "
            f"({figure['low']:.0%} to {figure['high']:.0%}, on {figure['n']} audit images)."
            if known
            else "Whole images are sorted in this project; how well is not known yet."
        )
        further = (
            "Nothing is marked in it, so whether marks would do better cannot be measured here. "
            "Where place or number matters, or what decides is a small part of the picture, mark "
            f"{2 * FEWEST} of the images in a project of their own (prelabel init FOLDER --new "
            "--goal find), and ask this of that project."
        )
        return Advice(control.name, control.kind, {"audit": figure or None}, [now, further])

    # -- marks --------------------------------------------------------------------------------

    def _of_marks(
        self, control: Control, fit: Fit, seen: Observation, encoder: Encoder, embedded: Embedded
    ) -> Advice:
        address = {task.id: task.images.get(control.image_key, "") for task in seen.tasks}
        known = embedded.vectors
        samples = [s for s in fit.samples(control) if address[s.task] in known]
        things = things_in(samples, control)
        points = control.kind == "points"
        told: dict[str, Any] = {
            "things": things.json(),
            "labels": {
                name: things_in(samples, control, name).json() for name in control.label_names
            },
        }
        trial = _Trial(self._resources, self._record, control, fit, encoder, self._tell)
        vectors = np.array([known[address[s.task]] for s in samples], dtype=np.float32)
        compared = trial.compare(samples, vectors, self._seconds)
        if compared is None:
            few = (
                f"{len(samples)} images are labeled; from {FEWEST} on, with things in "
                f"{FEWEST // 2} of them, sorting and marking are compared."
            )
            return Advice(control.name, control.kind, told | {"by": None}, [few])
        by, presence, count = compared
        told |= {"by": by, "presence": presence.json(), "count": count.json()}
        sentences = labeling_advice.recommend(things, presence, count, points)
        if trial.cut_short:
            sentences.append(
                f"The detectors of this comparison had {self._seconds / FOLDS:.0f} seconds of "
                f"training each, a round has {self._resources.settings.train_seconds:.0f}: marks "
                f"may do better than they look here. Give them more with --seconds."
            )
        told["cut_short"] = trial.cut_short
        return Advice(control.name, control.kind, told, sentences)


class _Trial:
    """Both ways, tried on images that they did not learn from.

    Attributes:
        cut_short: a detector that was trained for it took nearly all the time it might.
    """

    def __init__(
        self,
        resources: Resources,
        record: ProjectRecord,
        control: Control,
        fit: Fit,
        encoder: Encoder,
        tell: LogCallback,
    ) -> None:
        self._resources = resources
        self._record = record
        self._control = control
        self._live: Finds | None = fit.before.finders.get(control.name)
        self._encoder = encoder
        self._tell = tell
        self.cut_short = False

    def compare(
        self, samples: Sequence[Sample], vectors: Floats, seconds: float
    ) -> tuple[str, Comparison, Comparison] | None:
        """On the audit slice where it is large enough, else by cross-validation on the others.

        Returns:
            on what, "is it there?", "how many?"; None where too few images are labeled.
        """
        audit = np.array([sample.audit for sample in samples], dtype=bool)
        if audit.sum() >= ENOUGH and self._live is not None and self._live.meaning.learned:
            held = [s for s in samples if s.audit]
            sorting = self._sort(samples, vectors, ~audit, audit)
            found = (AUDIT, held, sorting, self._find(self._live, held))
        else:
            rows = np.flatnonzero(~audit).tolist()
            rest = [samples[row] for row in rows]
            marked = sum(bool(sample.places) for sample in rest)
            if len(rest) < FEWEST or marked < FEWEST // 2:
                return None
            found = (CROSSED, rest, *self._crossed(rest, vectors[rows], seconds))
        by, judged, sorting, finding = found
        truth = counts_in(judged, self._control)
        presence = labeling_advice.compare_presence(sorting, finding, truth)
        return by, presence, labeling_advice.compare_counts(sorting, finding, truth)

    def _crossed(
        self, samples: Sequence[Sample], vectors: Floats, seconds: float
    ) -> tuple[Way, Way]:
        truth = counts_in(samples, self._control)
        part = folds(
            (truth > 0).astype(np.float32),
            FOLDS,
            np.random.default_rng(self._resources.settings.seed),
        )
        sorting, finding = _blank(truth.shape), _blank(truth.shape)
        for number in range(FOLDS):
            held = part == number
            self._tell(f"comparing: part {number + 1} of {FOLDS}")
            learned = [s for s, out in zip(samples, held, strict=True) if not out]
            finder = self._trained(learned, seconds / FOLDS, number)
            _put(sorting, held, self._sort(samples, vectors, ~held, held))
            _put(
                finding,
                held,
                self._find(finder, [samples[i] for i in np.flatnonzero(held).tolist()]),
            )
        return sorting, finding

    def _trained(self, samples: Sequence[Sample], seconds: float, number: int) -> Finds | None:
        resources, name = self._resources, self._control.name

        def tell(done: int, of: int) -> None:
            self._tell(f"comparing: part {number + 1} of {FOLDS}, {name} epoch {done} of {of}")

        start = time.monotonic()
        finder, _ = resources.compute.train_finder(
            FindingJob(
                control=self._control,
                samples=samples,
                base=resources.base_network(),
                previous=None,  # the live one has seen what is held out
                size=resources.settings.detector_size,
                seconds=seconds,
                seed=resources.settings.seed,
                load=resources.load_detector,
                prompts=resources.prompts(self._record),
                report=tell,
                cancelled=lambda: False,
                base_setting=resources.base().setting,
            )
        )
        self.cut_short |= time.monotonic() - start >= NEARLY * seconds
        return finder

    # -- the two ways ---------------------------------------------------------------------------

    def _sort(
        self,
        samples: Sequence[Sample],
        vectors: Floats,
        learned: Bools,
        held: Bools,
    ) -> Way:
        """Classify whole images: is each label there, and how often."""
        truth = counts_in(samples, self._control)
        control = replace(self._control, kind="choices", multiple=True)
        there = [
            frozenset(n for n, c in zip(control.label_names, row, strict=True) if c)
            for row in truth
        ]
        belief = self._classified(control, there, vectors, learned, held)
        columns = [self._counted(column, vectors, learned, held) for column in truth.T]
        return Way(belief >= 0.5, np.stack(columns, axis=1))

    def _counted(
        self,
        column: Ints,
        vectors: Floats,
        learned: Bools,
        held: Bools,
    ) -> Ints:
        """Counting as sorting: a bucket for each number."""
        bins = labeling_advice.count_bins(column[learned])
        if len(bins) == 1:
            return np.full(int(held.sum()), bins[0], dtype=np.int64)
        names = tuple(Label(str(one)) for one in bins)
        control = replace(self._control, kind="choices", multiple=False, labels=names)
        given = [frozenset([str(labeling_advice.nearest_bin(int(c), bins))]) for c in column]
        belief = self._classified(control, given, vectors, learned, held)
        return np.array([bins[place] for place in belief.argmax(axis=1)], dtype=np.int64)

    def _classified(
        self,
        control: Control,
        answers: Sequence[frozenset[str]],
        vectors: Floats,
        learned: Bools,
        held: Bools,
    ) -> Floats:
        """(held, K) confidence of a head that learned from the other images."""
        rows = np.flatnonzero(learned).tolist()
        every = frozenset(control.label_names)
        text = control.multiple  # numbers look like nothing in words
        head = train(
            TrainingJob(
                control=control,
                examples=Examples(
                    tasks=tuple(rows),
                    vectors=vectors[rows],
                    answers=tuple(answers[row] for row in rows),
                    asked=(every,) * len(rows),
                    audit=np.zeros(len(rows), dtype=bool),
                ),
                pool=vectors,
                prototypes=self._resources.prototypes(self._encoder, control) if text else None,
                logit_scale=self._encoder.logit_scale,
                logit_bias=self._encoder.logit_bias,
                previous=None,
                seed=self._resources.settings.seed,
            )
        )
        assert head is not None  # noqa: S101 - there are labeled images
        return head.probabilities(vectors[held])

    def _find(self, finder: Finds | None, samples: Sequence[Sample]) -> Way:
        """Count what a finder finds."""
        least = shown(finder, self._control) if finder else 1.0
        images = judged_on(finder, self._control, samples)
        kept = [
            tuple(p for p, c in zip(image.found, image.confidence, strict=True) if c >= least)
            for image in images
        ]
        counts = _table(kept, self._control)
        return Way(counts > 0, counts)


def things_in(samples: Sequence[Sample], control: Control, label: str = "") -> Things:
    """What is marked, of one label or of all; points have the size of boxes of the same label."""
    marked = [[p for p in s.places if label in ("", p.label)] for s in samples]
    drawn = [s.places if control.kind == "boxes" else s.boxes for s in samples]
    sides = [
        math.sqrt((p.x1 - p.x0) * (p.y1 - p.y0))
        for places in drawn
        for p in places
        if label in ("", p.label)
    ]
    counts = np.array([len(places) for places in marked], dtype=np.float64)
    return Things(len(samples), int((counts == 0).sum()), counts, np.array(sides, dtype=np.float64))


def counts_in(samples: Sequence[Sample], control: Control) -> Ints:
    """(n, K) how often each label of a control is marked in each image."""
    return _table([sample.places for sample in samples], control)


def _table(places: Sequence[Places], control: Control) -> Ints:
    names = control.label_names
    rows = [[sum(p.label == name for p in one) for name in names] for one in places]
    return np.array(rows, dtype=np.int64).reshape(len(places), len(names))


def _blank(shape: tuple[int, ...]) -> Way:
    return Way(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.int64))


def _put(whole: Way, held: Bools, part: Way) -> None:
    whole.there[held] = part.there
    whole.counts[held] = part.counts
