"""A fitted model: how good it is, whether it may go live, and what more labels would bring."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.domain import Control
from backend.inference.model import Model, answer_of, choose
from backend.learning import learning_curve
from backend.learning.classification_metrics import Figure, share
from backend.learning.learning_curve import Missed, Point
from backend.learning.quality_gate import Verdict
from backend.loop.evaluate import metrics
from backend.loop.evaluate.gate import Gate
from backend.loop.evaluate.metrics import Judgement
from backend.loop.fit import Fit
from backend.loop.observe import Observation
from backend.loop.publish import auto_accept
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.acceptance import Acceptances
from backend.store.projects import ProjectRecord
from backend.store.versions import Card
from backend.training.detector import never_found

log = logging.getLogger("prelabel")
AUDITED = 20
"""Audit images below which an estimate by cross-validation is told as well."""
SEEN = 10
"""Audit images that a version's figure rests on at least to be a point of the learning curve."""
ALIKE = 1.25
"""Sizes of a point's object up to so many times apart judge alike enough for one curve."""
GOALS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""The forecast looks to the next of these."""


@dataclass(frozen=True)
class Assessment:
    """What is known of a model before anybody sees it.

    Attributes:
        figure: of the whole version, on the audit slice.
        controls: by control what its card tells.
        verdict: whether it goes live.
        estimate: accuracy by cross-validation while the audit slice is small; None else.
        outlook: what more labels would bring, as plain JSON.
        accepting: from which confidence on answers need no person, as plain JSON.
        thresholds: by control and label, the confidence from which it is shown. Of boxes and points
            only where the config wants a precision: a missing one costs as much as a wrong one, so
            that without it the confidence of the best F1 decides.
    """

    figure: Figure
    controls: dict[str, Any]
    verdict: Verdict
    estimate: Figure | None
    outlook: dict[str, Any]
    accepting: dict[str, Any]
    thresholds: dict[str, dict[str, float]]


class Assessor:
    """Assesses a model that was just fitted.

    Args:
        resources: of this process.
        record: the project.
        seen: the snapshot.
        fit: that made the model.
        model: what it made.
    """

    def __init__(
        self,
        resources: Resources,
        record: ProjectRecord,
        seen: Observation,
        fit: Fit,
        model: Model,
    ) -> None:
        self._resources = resources
        self._settings: Settings = resources.settings
        self._record = record
        self._versions = resources.versions(record)
        self._folder = resources.folder(record)
        self._seen = seen
        self._fit = fit
        self._model = model
        self._crossed = {
            c.name: fit.cross(c, model.heads[c.name])
            for c in self._choices
            if c.name in model.heads
        }
        finders = (model.finders, fit.before.finders)
        self._sizes = {
            c.name: metrics.sizes_of(c, fit.samples(c), [one.get(c.name) for one in finders])
            for c in self._controls
            if c.kind != "choices"
        }

    def assess(self) -> Assessment:
        """Everything."""
        new = {c.name: self._judge(c) for c in self._controls}
        first = self._controls[0] if not self._choices else None
        choices = {c.name: new[c.name] for c in self._choices}
        figure = new[first.name].figure if first else metrics.whole(choices)
        estimate = self._estimate() if figure.n < AUDITED else None
        return Assessment(
            figure=figure,
            controls={c.name: self._told(c, new[c.name]) for c in self._controls},
            verdict=self._verdict(new),
            estimate=estimate,
            outlook=self._outlook(figure, estimate, new),
            accepting=self._accepting(new),
            thresholds={
                c.name: new[c.name].thresholds(self._precision(c))
                for c in self._controls
                if not c.threshold and (c.kind == "choices" or c.precision is not None)
            },
        )

    @property
    def _controls(self) -> Sequence[Control]:
        return self._seen.config.controls

    @property
    def _choices(self) -> list[Control]:
        return [control for control in self._controls if control.kind == "choices"]

    def _precision(self, control: Control) -> float:
        return self._settings.precision if control.precision is None else control.precision

    # -- figures ----------------------------------------------------------------------------

    def _judge(self, control: Control) -> Judgement:
        if control.kind == "choices":
            examples = self._fit.examples(control)
            return metrics.judge_choices(
                self._model, control, examples, np.flatnonzero(examples.audit).tolist()
            )
        held = [sample for sample in self._fit.samples(control) if sample.audit]
        finder = self._model.finders.get(control.name)
        return metrics.judge_finds(finder, control, held, self._sizes[control.name])

    def _told(self, control: Control, judgement: Judgement) -> dict[str, Any]:
        figures = {"audit": judgement.figure.json(), "figures": judgement.told}
        if control.kind == "choices":
            examples = self._fit.examples(control)
            kind = metrics.kind_of_head(self._model, control.name, examples)
            return {"kind": kind, "examples": metrics.answer_counts(control, examples), **figures}
        finder = self._model.finders.get(control.name)
        counts = metrics.place_counts(control, self._fit.samples(control))
        advice = self._resources.advice(never_found(finder, control))
        if advice:
            log.info("%s: %s", control.name, advice["advice"])
        return {
            "kind": metrics.kind_of_finder(finder),
            "examples": counts,
            **figures,
            "shown": judgement.told["shown"],
            **advice,
            "made_from": self._fit.made_from(control),
        }

    def _estimate(self) -> Figure | None:
        """Accuracy by cross-validation, on images that were chosen to be hard; so it is low."""
        right: dict[int, bool] = {}
        for control in self._choices:
            for task, one in self._crossed_rights(control).items():
                right[task] = right.get(task, True) and one
        figure = share(sum(right.values()), len(right))
        return replace(figure, metric="accuracy by cross-validation") if right else None

    def _crossed_rights(self, control: Control) -> dict[int, bool]:
        """By task that was learned from, whether a head that did not see it says the same."""
        if control.name not in self._crossed:
            return {}
        rows, table = self._crossed[control.name]
        examples, labels = self._fit.examples(control), self._model.heads[control.name].labels
        given = (answer_of(choose(control, labels, row, metrics.NO_SIZE)) for row in table)
        return {
            examples.tasks[row]: one == examples.answers[row]
            for row, one in zip(rows, given, strict=True)
        }

    # -- the gate ---------------------------------------------------------------------------

    def _verdict(self, new: dict[str, Judgement]) -> Verdict:
        if self._fit.live is None:
            return Verdict(True, "The first version of the project.", {})
        gate = Gate(
            self._resources,
            self._record,
            self._seen,
            self._fit,
            self._model,
            self._crossed,
            self._sizes,
            self._settings.seed,
        )
        return gate.verdict(new)

    # -- what rests on the figures ------------------------------------------------------------

    def _accepting(self, judgements: dict[str, Judgement]) -> dict[str, Any]:
        """The level for accepting without a person; empty where nobody asked for that."""
        error = auto_accept.wanted(self._controls, self._settings.accept_error)
        if not error:
            return {}
        until = Acceptances(self._folder).read().until
        return auto_accept.proven(judgements, error, self._versions.cards(), until)

    def _outlook(
        self, figure: Figure, estimate: Figure | None, judgements: dict[str, Judgement]
    ) -> dict[str, Any]:
        by_audit = figure.n >= AUDITED or estimate is None
        now = figure if by_audit else estimate
        if now is None or now.value is None:
            return {}
        trained = sum(not self._seen.is_audit(task) for task in self._seen.labeled)
        points = self._points(by_audit, now.metric)
        points.append(Point(trained, 1 - now.value, now.n))
        rng = np.random.default_rng(self._settings.seed)
        curve = learning_curve.fitted(points, rng)
        goal = next((goal for goal in GOALS if goal > now.value), 1.0)
        agreement = self._agreement()
        needy = learning_curve.weakest(curve, self._missed(judgements), goal, rng)
        return {
            "sentence": learning_curve.outlook(curve, goal),
            "labels": [
                {"label": name, "more": low, "most": high, "words": learning_curve.span(low, high)}
                for name, low, high in needy
            ],
            "stop": learning_curve.enough(curve, agreement),
            "agreement": agreement,
            "curve": _drawn(curve),
            "from": "audit slice" if by_audit else "cross-validation",
        }

    def _points(self, by_audit: bool, metric: str) -> list[Point]:
        found = []
        for card in self._versions.cards():
            told = card.audit if by_audit else card.estimate
            known = told and told["metric"] == metric and told["value"] is not None
            known = known and self._same_yardstick(card)
            if known and told["n"] >= SEEN and card.labels["train"]:
                found.append(Point(card.labels["train"], 1 - told["value"], told["n"]))
        return found

    def _same_yardstick(self, card: Card) -> bool:
        """Whether points were judged by about the same sizes then; versions of old do not tell."""
        first = self._controls[0]
        if self._choices or first.kind != "points":
            return True
        then = (card.controls.get(first.name, {}).get("figures") or {}).get("sizes") or {}
        now = self._sizes[first.name]
        return then.keys() == now.keys() and all(
            max(then[label], side) <= ALIKE * min(then[label], side) for label, side in now.items()
        )

    def _missed(self, judgements: dict[str, Judgement]) -> dict[str, Missed]:
        """By label, what was missed on the audit slice where it has SEEN examples there."""
        found = {}
        for control in self._controls:
            counts = self._told_counts(control)
            for label, row in judgements[control.name].told["labels"].items():
                figure = row.get("intervals", row)["recall"]
                if figure["n"] >= SEEN and figure["value"] is not None:
                    wrong = round((1 - figure["value"]) * figure["n"])
                    found[label] = Missed(wrong, figure["n"], counts.get(label, 0))
        return found

    def _told_counts(self, control: Control) -> dict[str, int]:
        if control.kind == "choices":
            return metrics.answer_counts(control, self._fit.examples(control))
        return metrics.place_counts(control, self._fit.samples(control))

    def _agreement(self) -> float | None:
        """Kappa of this version's and the live one's answers to all images; of choices only.

        None where they look through different encoders.
        """
        answers: tuple[list[str], list[str]] = ([], [])
        then = self._fit.live.encoder.get("id") if self._fit.live else None
        if self._choices and then and then != self._resources.encoder().id:
            return None
        for control in self._choices:
            heads = [m.heads.get(control.name) for m in (self._fit.before, self._model)]
            pool = self._fit.pool(control)
            if not len(pool) or any(h is None or h.weight.shape[1] != pool.shape[1] for h in heads):
                return None
            for side, head in zip(answers, heads, strict=True):
                rows = head.probabilities(pool) if head else pool[:0]
                names = head.labels if head else ()
                chosen = (choose(control, names, row, metrics.NO_SIZE) for row in rows)
                side += ["+".join(sorted(choice.labels)) for choice in chosen]
        return learning_curve.kappa(*answers)


def _drawn(curve: learning_curve.Curve | None) -> list[dict[str, float]]:
    """The curve from today's labels on, as points with their band."""
    if curve is None:
        return []
    steps = np.linspace(curve.labels, learning_curve.REACH * curve.labels, 5)
    rows = [(round(float(step)), *curve.error(float(step))) for step in steps]
    return [
        {"labels": n, "value": round(1 - m, 4), "low": round(1 - h, 4), "high": round(1 - low, 4)}
        for n, m, low, h in rows
    ]
