"""A fitted model: how good it is, whether it may go live, and what more labels would bring."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.domain import Control
from backend.learning import forecast
from backend.learning.evaluation import Figure, share
from backend.learning.forecast import Point
from backend.learning.gate import Verdict, all_of, compare_answers, compare_finds, trust
from backend.loop import accepting, judging
from backend.loop.finding import never_found
from backend.loop.fit import Fit
from backend.loop.judging import Judgement
from backend.loop.labels import label_table
from backend.loop.model import Model, answer_of, choose
from backend.loop.observe import Observation
from backend.loop.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord

log = logging.getLogger("prelabel")
AUDITED = 20
"""Audit images below which an estimate by cross-validation is told as well."""
SEEN = 10
"""Audit images that a version's figure rests on at least to be a point of the learning curve."""
LATEST = 40
"""Images that a new finder learned from and has to know at least as well as the live one."""
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
        self._versions = resources.versions(record)
        self._folder = resources.folder(record)
        self._seen = seen
        self._fit = fit
        self._model = model
        self._crossed = {c.name: self._cross(c) for c in self._choices if c.name in model.heads}

    def assess(self) -> Assessment:
        """Everything."""
        new = {c.name: self._judge(self._model, c) for c in self._controls}
        first = self._controls[0] if not self._choices else None
        choices = {c.name: new[c.name] for c in self._choices}
        figure = new[first.name].figure if first else judging.whole(choices)
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

    def _judge(self, model: Model, control: Control) -> Judgement:
        if control.kind == "choices":
            examples = self._fit.examples(control)
            return judging.judge_choices(
                model, control, examples, np.flatnonzero(examples.audit).tolist()
            )
        held = [sample for sample in self._fit.samples(control) if sample.audit]
        return judging.judge_finds(model.finders.get(control.name), control, held)

    def _told(self, control: Control, judgement: Judgement) -> dict[str, Any]:
        figures = {"audit": judgement.figure.json(), "figures": judgement.told}
        if control.kind == "choices":
            examples = self._fit.examples(control)
            kind = judging.kind_of_head(self._model, control.name, examples)
            return {"kind": kind, "examples": judging.answer_counts(control, examples), **figures}
        finder = self._model.finders.get(control.name)
        counts = judging.place_counts(control, self._fit.samples(control))
        advice = self._resources.advice(never_found(finder, control))
        if advice:
            log.info("%s: %s", control.name, advice["advice"])
        return {
            "kind": judging.kind_of_finder(finder),
            "examples": counts,
            **figures,
            "shown": judgement.told["shown"],
            **advice,
            "made_from": self._fit.made_from(control),
        }

    def _cross(self, control: Control) -> dict[int, bool]:
        """By task that was learned from, whether a head that did not see it says the same."""
        head = self._model.heads[control.name]
        rows, table = self._fit.cross(control, head)
        examples = self._fit.examples(control)
        found = {}
        for row, belief in zip(rows, table, strict=True):
            given = answer_of(choose(control, head.labels, belief, judging.NO_SIZE))
            found[examples.tasks[row]] = given == examples.answers[row]
        return found

    def _estimate(self) -> Figure | None:
        """Accuracy by cross-validation, on images that were chosen to be hard; so it is low."""
        right: dict[int, bool] = {}
        for crossed in self._crossed.values():
            for task, one in crossed.items():
                right[task] = right.get(task, True) and one
        figure = share(sum(right.values()), len(right))
        return replace(figure, metric="accuracy by cross-validation") if right else None

    # -- the gate ---------------------------------------------------------------------------

    def _verdict(self, new: dict[str, Judgement]) -> Verdict:
        live = self._fit.live
        if live is None:
            return Verdict(True, "The first version of the project.", {})
        verdicts = []
        for control in self._controls:
            before, now = self._judge(self._fit.before, control), new[control.name]
            if control.kind == "choices":
                tasks = list(now.right)
                was, is_ = ([one.right[task] for task in tasks] for one in (before, now))
                verdicts.append(compare_answers(was, is_, live.version))
                verdicts.append(self._trust(control, live.version, len(tasks)))
            elif control.name in self._fit.before.finders:
                tasks = list(now.tallies)
                was_found, is_found = _counts(before, tasks), _counts(now, tasks)
                verdicts.append(compare_finds(was_found, is_found, live.version))
                verdicts.append(self._remembered(control, live.version))
        return all_of(verdicts)

    def _remembered(self, control: Control, live: str) -> Verdict:
        """Whether a new finder is worse on the very images it learned from.

        The live one did not learn from the latest of them, so that this can only err in favour of
        the new one; a training that was cut too short is noticed without any audit image.
        """
        new, before = (m.finders.get(control.name) for m in (self._model, self._fit.before))
        samples = [s for s in self._fit.samples(control) if not s.audit][-LATEST:]
        if new is before or not samples:
            return Verdict(True, "", {})
        tasks = [sample.task for sample in samples]
        was, is_ = (judging.judge_finds(one, control, samples) for one in (before, new))
        verdict = compare_finds(
            _counts(was, tasks), _counts(is_, tasks), live, "latest images it learned from"
        )
        return verdict if not verdict.promote else replace(verdict, reason="")

    def _trust(self, control: Control, live: str, audit: int) -> Verdict:
        """Whether the answers given since the live version contradict all the others."""
        then, now = self._versions.labels(live), label_table(self._seen)
        before, since = [0, 0], [0, 0]
        for task, same in self._crossed.get(control.name, {}).items():
            known = then.get(str(task), {}).get(control.name)
            side = before if known == now[str(task)][control.name] else since
            side[0] += not same
            side[1] += 1
        return trust((before[0], before[1]), (since[0], since[1]), audit)

    # -- what rests on the figures ------------------------------------------------------------

    def _accepting(self, judgements: dict[str, Judgement]) -> dict[str, Any]:
        """The level for accepting without a person; empty where nobody asked for that."""
        bounds = [
            self._settings.accept_error if c.accept_error is None else c.accept_error
            for c in self._controls
        ]
        if not all(bounds):
            return {}
        then = self._versions.labels(self._fit.live.version) if self._fit.live else {}
        checks = accepting.checked(self._fit, self._seen, then)
        return accepting.proven(judgements, min(bounds), self._folder, checks)

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
        curve = forecast.fitted(points, np.random.default_rng(self._settings.seed))
        goal = next((goal for goal in GOALS if goal > now.value), 1.0)
        agreement = self._agreement()
        needy = forecast.weakest(self._errors(judgements), goal)
        return {
            "sentence": forecast.outlook(curve, goal),
            "labels": [{"label": label, "more": more} for label, more in needy],
            "stop": forecast.enough(curve, agreement),
            "agreement": agreement,
            "curve": _drawn(curve),
            "from": "audit slice" if by_audit else "cross-validation",
        }

    def _points(self, by_audit: bool, metric: str) -> list[Point]:
        found = []
        for card in self._versions.cards():
            told = card.audit if by_audit else card.estimate
            known = told and told["metric"] == metric and told["value"] is not None
            if known and told["n"] >= SEEN and card.labels["train"]:
                found.append(Point(card.labels["train"], 1 - told["value"], told["n"]))
        return found

    def _errors(self, judgements: dict[str, Judgement]) -> dict[str, tuple[float, int]]:
        """By label, 1 − recall on the audit slice where it has SEEN examples there."""
        found = {}
        for control in self._controls:
            counts = self._told_counts(control)
            for label, row in judgements[control.name].told["labels"].items():
                figure = row.get("intervals", row)["recall"]
                if figure["n"] >= SEEN and figure["value"] is not None:
                    found[label] = (1 - figure["value"], counts.get(label, 0))
        return found

    def _told_counts(self, control: Control) -> dict[str, int]:
        if control.kind == "choices":
            return judging.answer_counts(control, self._fit.examples(control))
        return judging.place_counts(control, self._fit.samples(control))

    def _agreement(self) -> float | None:
        """Kappa of this version's and the live one's answers to all images; of choices only."""
        answers: tuple[list[str], list[str]] = ([], [])
        for control in self._choices:
            heads = [m.heads.get(control.name) for m in (self._fit.before, self._model)]
            pool = self._fit.pool(control)
            if not len(pool) or any(h is None or h.weight.shape[1] != pool.shape[1] for h in heads):
                return None
            for side, head in zip(answers, heads, strict=True):
                rows = head.probabilities(pool) if head else pool[:0]
                names = head.labels if head else ()
                chosen = (choose(control, names, row, judging.NO_SIZE) for row in rows)
                side += ["+".join(sorted(choice.labels)) for choice in chosen]
        return forecast.kappa(*answers)


def _counts(judgement: Judgement, tasks: Sequence[int]) -> list[tuple[int, int, int]]:
    rows = [judgement.tallies[task] for task in tasks]
    return [(row.right, row.found, row.there) for row in rows]


def _drawn(curve: forecast.Curve | None) -> list[dict[str, float]]:
    """The curve from today's labels on, as points with their band."""
    if curve is None:
        return []
    steps = np.linspace(curve.labels, forecast.REACH * curve.labels, 5)
    rows = [(round(float(step)), *curve.error(float(step))) for step in steps]
    return [
        {"labels": n, "value": round(1 - m, 4), "low": round(1 - h, 4), "high": round(1 - low, 4)}
        for n, m, low, h in rows
    ]
