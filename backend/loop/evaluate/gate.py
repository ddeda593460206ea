"""A fitted model beside the live version: may it go live?

Compared on the same audit images, with the live version and with the best one before it, so that
small losses do not add up; and the labels that it learned last are doubted, by what the live
version and those before it said of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from backend.arrays import Floats
from backend.domain import Control
from backend.errors import PrelabelError
from backend.inference.detections import Sample
from backend.inference.model import Model
from backend.learning.contradiction import Believed, Contradiction, Trust, contradiction
from backend.learning.quality_gate import (
    LUCKY,
    Verdict,
    all_of,
    compare_answers,
    compare_finds,
    trusted,
)
from backend.learning.rejection import denial
from backend.loop.evaluate import metrics
from backend.loop.evaluate.metrics import Judgement
from backend.loop.evaluate.past_versions import Past, believed
from backend.loop.fit import Fit
from backend.loop.observe import Observation
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.versions import Card
from backend.vision.detection.trained_detector import Finds

log = logging.getLogger("prelabel")
LATEST = 40
"""Images that a new finder learned from and has to know at least as well as the live one."""
WINDOW = 60
"""Labels that are looked at together at most, where they came in more than one round."""
GROWTH = 1.5
"""How much longer each window of labels is than the one before."""
EARLIER = 150
"""Images from which it is learned how far a belief can be trusted."""
LOOKED = 100
"""Images that a finder of old looks at at most."""
Crossed = Mapping[str, tuple[Sequence[int], Floats]]
"""By control: rows of its examples, and what heads that did not see them say, (rows, K)."""


class Gate:
    """Compares one fitted model with what was live before.

    Args:
        resources: of this process.
        record: the project.
        seen: the snapshot.
        fit: that made the model; there is a live version.
        model: what it made.
        crossed: what is said of its labels out of fold.
        sizes: by control of points, how large its objects are, for both sides alike.
        seed: of everything random.
    """

    def __init__(
        self,
        resources: Resources,
        record: ProjectRecord,
        seen: Observation,
        fit: Fit,
        model: Model,
        crossed: Crossed,
        sizes: Mapping[str, Mapping[str, float]],
        seed: int,
    ) -> None:
        self._resources = resources
        self._record = record
        self._seen = seen
        self._fit = fit
        self._model = model
        self._crossed = crossed
        self._sizes = sizes
        self._seed = seed
        self._past = Past(resources, record, seen, fit)
        self._live = f"the live version {self._past.live.version}"

    def verdict(self, new: Mapping[str, Judgement]) -> Verdict:
        """Whether the model goes live.

        Args:
            new: by control, how it does on the audit slice.
        """
        verdicts: list[Verdict] = []
        for control in self._seen.config.controls:
            if control.kind == "choices":
                verdicts += self._answers(control, new[control.name])
            elif control.name in self._fit.before.finders:
                verdicts += self._finds(control, new[control.name])
        return all_of(verdicts)

    # -- choices ----------------------------------------------------------------------------

    def _answers(self, control: Control, now: Judgement) -> list[Verdict]:
        if self._past.examples(control) is None:
            told = f"Not compared with {self._live}: {self._past.blind.rstrip('.')}."
            return [Verdict(True, told, {"blind": self._past.blind})]
        windows = self._windows(control)
        return [
            self._against(self._fit.before, control, now),
            self._against_the_best(control, now),
            trusted(windows),
        ]

    def _against(self, before: Model, control: Control, now: Judgement) -> Verdict:
        was = self._rights(before, control)
        tasks = [task for task in now.right if task in was]
        return compare_answers(
            [was[task] for task in tasks], [now.right[task] for task in tasks], self._live
        )

    def _against_the_best(self, control: Control, now: Judgement) -> Verdict:
        """The best of the versions before the live one, on the same audit images."""
        best: dict[int, bool] = {}
        name = ""
        for card in self._past.unquestioned[1:]:
            head = self._past.head(card, control)
            if head is None or head.labels != control.label_names:
                continue
            was = self._rights(Model({control.name: head}), control)
            if sum(was.values()) > sum(best.values()):
                best, name = was, card.version
        tasks = [task for task in now.right if task in best]
        rights = [best[task] for task in tasks], [now.right[task] for task in tasks]
        verdict = compare_answers(*rights, f"version {name}, which was live before,", LUCKY)
        return verdict if not verdict.promote else Verdict(True, "", verdict.evidence)

    def _rights(self, model: Model, control: Control) -> dict[int, bool]:
        """By audit task, whether a model of the live encoder is right."""
        examples = self._past.examples(control)
        if examples is None:
            return {}
        rows = np.flatnonzero(examples.audit).tolist()
        return metrics.judge_choices(model, control, examples, rows).right

    def _windows(self, control: Control) -> list[tuple[str, Contradiction]]:
        """The labels that came since the live version; and with those before, up to WINDOW."""
        found: list[tuple[str, Contradiction]] = []
        last = 0
        for card in self._past.unquestioned:
            rows = self._past.since(card, control)
            parts = [self._past.believed(card, control, rows)]
            if card is self._past.live:
                parts.append(self._changed(control))
            elif len(rows) > WINDOW:
                break
            elif len(rows) < GROWTH * last:
                continue
            known = [part for part in parts if part is not None and len(part.given)]
            if known:
                last = len(rows)
                earlier = self._past.earlier(card, control, EARLIER)
                trust = Trust.learned(earlier) if earlier else Trust()
                rng = np.random.default_rng(self._seed)
                whole = Believed.all_of(known)
                found.append((card.version, contradiction(whole, trust, rng)))
        return found

    def _changed(self, control: Control) -> Believed | None:
        """Answers that somebody changed since the live version, which learned from the old ones.

        Heads that saw neither answer are asked; a corrected mistake agrees with them.
        """
        if control.name not in self._crossed or control.name not in self._model.heads:
            return None
        rows, table = self._crossed[control.name]
        examples, live = self._fit.examples(control), self._past.live
        changed = [
            place
            for place, row in enumerate(rows)
            if self._past.changed_since(live, control, examples.tasks[row])
            and not self._past.came_since(live, control, examples.tasks[row])
        ]
        if not changed:
            return None
        labels = self._model.heads[control.name].labels
        picked = [int(rows[place]) for place in changed]
        return believed(control, labels, table[changed], examples, picked)

    # -- boxes and points -------------------------------------------------------------------

    def _finds(self, control: Control, now: Judgement) -> list[Verdict]:
        live = self._fit.before.finders[control.name]
        new = self._model.finders.get(control.name)
        if live is new:
            return [Verdict(True, "Nothing changed about what it finds.", {})]
        held = [sample for sample in self._fit.samples(control) if sample.audit]
        before = self._judged(live, control, held)
        tasks = list(now.tallies)
        return [
            compare_finds(_counts(before, tasks), _counts(now, tasks), self._live),
            self._remembered(control, live, new),
            trusted(self._denials(control, live), "finds"),
        ]

    def _judged(
        self, finder: Finds | None, control: Control, samples: Sequence[Sample]
    ) -> Judgement:
        return metrics.judge_finds(finder, control, samples, self._sizes.get(control.name, {}))

    def _remembered(self, control: Control, live: Finds, new: Finds | None) -> Verdict:
        """Whether a new finder is worse on the very images it learned from.

        The live one did not learn from the latest of them, so that this can only err in favour of
        the new one; a training that was cut too short is noticed without any audit image.
        """
        samples = [s for s in self._fit.samples(control) if not s.audit][-LATEST:]
        if not samples:
            return Verdict(True, "", {})
        tasks = [sample.task for sample in samples]
        was, is_ = (self._judged(one, control, samples) for one in (live, new))
        verdict = compare_finds(
            _counts(was, tasks),
            _counts(is_, tasks),
            self._live,
            images="latest images it learned from",
        )
        return verdict if not verdict.promote else replace(verdict, reason="")

    def _denials(self, control: Control, live: Finds) -> list[tuple[str, Contradiction]]:
        """What people deny of the live finder's finds; and of an older one's, since it came."""
        found = [(self._past.live.version, self._denied(self._past.live, live, control))]
        since = len(self._new(self._past.live, control))
        older = [
            card
            for card in self._past.unquestioned[1:]
            if GROWTH * since <= len(self._new(card, control)) <= WINDOW
        ]
        finder = self._finder(older[-1], control) if older else None
        if finder is not None:
            found.append((older[-1].version, self._denied(older[-1], finder, control)))
        return found

    def _denied(self, card: Card, finder: Finds, control: Control) -> Contradiction:
        """What came since a version, beside what was trusted when it was made.

        Trusted are the audit images that it was judged on, and what it learned from and the one
        before it had not seen, as that one's finder found it.
        """
        past, samples = self._past, self._fit.samples(control)
        kept = [s for s in samples if not past.changed_since(card, control, s.task)]
        before = self._rights_of(finder, control, [s for s in kept if s.audit][-LOOKED:])
        place = list(past.line).index(card)
        parent = past.line[place + 1] if place + 1 < len(past.line) else None
        older = self._finder(parent, control) if parent else None
        if parent is not None and older is not None:
            learned = [s for s in kept if not s.audit and past.came_since(parent, control, s.task)]
            before += self._rights_of(older, control, learned[-LOOKED:])
        since = self._rights_of(finder, control, self._new(card, control)[-LOOKED:])
        return denial(before, since)

    def _new(self, card: Card, control: Control) -> list[Sample]:
        """Images that a version's finder neither learned from nor was judged on as they are."""
        return [
            sample
            for sample in self._fit.samples(control)
            if self._past.came_since(card, control, sample.task)
            or (sample.audit and self._past.changed_since(card, control, sample.task))
        ]

    def _rights_of(
        self, finder: Finds, control: Control, samples: Sequence[Sample]
    ) -> list[list[tuple[float, bool]]]:
        """By image, the confidence of each find that is shown and whether it is right."""
        return metrics.finds_by_image(finder, control, samples, self._sizes.get(control.name, {}))

    def _finder(self, card: Card, control: Control) -> Finds | None:
        """A version's finder; None where it has none, or its files are damaged."""
        try:
            model = self._resources.model(self._record, card.version)
        except PrelabelError as error:
            log.warning("project %s: %s", self._record.id, error)
            return None
        return model.finders.get(control.name)


def _counts(judgement: Judgement, tasks: Sequence[int]) -> list[tuple[int, int, int]]:
    rows = [judgement.tallies[task] for task in tasks]
    return [(row.right, row.found, row.there) for row in rows]
