"""Answers that need no person: given in the machine's name, checked by people now and then."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.domain import Control, Prediction
from backend.label_studio.regions import result_of
from backend.learning.accepting import Level, broken, for_people, level
from backend.loop import judging
from backend.loop.connection import Connection
from backend.loop.fit import Fit
from backend.loop.judging import Judgement
from backend.loop.observe import MACHINE, Observation
from backend.store.files import read_json, write_json
from backend.store.versions import Card, Labels

log = logging.getLogger("prelabel")
CHECKS = "checks.json"
"""In the project's folder: whether answers above the level were right where people checked."""
KEPT = 60
"""Checks that count; older ones tell of older versions."""
AT_ONCE = 500
"""Answers that one round gives: 50 ms each, and Label Studio is busy meanwhile."""


def proven(
    judgements: Mapping[str, Judgement], error: float, folder: Path, checks: Sequence[bool]
) -> dict[str, Any]:
    """From which confidence on a version's answers are accepted, as its card tells it.

    Args:
        judgements: of all controls on the audit slice.
        error: the bound.
        folder: the project's, where checks are kept.
        checks: what people found since the last version, where they checked.
    """
    rights = [*((read_json(folder / CHECKS) or {}).get("rights") or []), *checks][-KEPT:]
    reason = broken(rights, error)
    write_json(folder / CHECKS, {"rights": [] if reason else rights})
    pairs = list(judging.together(judgements.values()).values())
    found = Level(None, reason)
    if not reason:
        found = level([sure for sure, _ in pairs], [right for _, right in pairs], error)
    log.info("%s", found.reason)
    return {
        "error": error,
        "level": found.value,
        "reason": found.reason,
        "missing": found.missing,
        "proven": found.proven,
        "images": found.images,
        "suspended": bool(reason),
        "checked": len(rights),
    }


def checked(fit: Fit, seen: Observation, then: Labels) -> list[bool]:
    """Whether the live version was right where people answered what it could have accepted.

    Args:
        fit: of the next version.
        seen: what Label Studio holds.
        then: the labels that the live version saw.
    """
    least = fit.live.accepting.get("level") if fit.live else None
    if least is None:
        return []
    new = {
        task.id
        for task in seen.labeled
        if str(task.id) not in then
        and not seen.is_audit(task)
        and for_people(seen.identity, task.id)
    }
    judged = [_on(fit, control, new) for control in seen.config.controls]
    return [right for sure, right in judging.together(judged).values() if sure >= least]


def acceptable(
    card: Card, seen: Observation, sure: Mapping[int, float], open_tasks: Sequence[int]
) -> list[int]:
    """The open tasks whose answers need no person, at most AT_ONCE of them.

    Audit tasks always go to people, and so does a share of the others.
    """
    least = card.accepting.get("level")
    if least is None:
        return []
    audit = {task.id for task in seen.tasks if seen.is_audit(task)}
    found = [
        task
        for task in open_tasks
        if sure.get(task, 0.0) >= least
        and task not in audit
        and not for_people(seen.identity, task)
    ]
    return found[:AT_ONCE]


def accept(
    connection: Connection,
    folder: Path,
    controls: Mapping[str, Control],
    answers: Sequence[Prediction],
) -> None:
    """Give answers in the machine's name.

    Args:
        connection: the project.
        folder: the project's, where the machine is remembered: its answers teach nothing.
        controls: by name.
        answers: of open tasks, everything that the model would answer.
    """
    machine = connection.client.machine()
    write_json(folder / MACHINE, {"id": machine})
    for answer in answers:
        connection.client.annotate(answer.task, result_of(answer, controls), machine)
    log.info("%s answers were accepted without a person.", len(answers))


def _on(fit: Fit, control: Control, tasks: set[int]) -> Judgement:
    if control.kind == "choices":
        examples = fit.examples(control)
        rows = [row for row, task in enumerate(examples.tasks) if task in tasks]
        return judging.judge_choices(fit.before, control, examples, rows)
    samples = [sample for sample in fit.samples(control) if sample.task in tasks]
    return judging.judge_finds(fit.before.finders.get(control.name), control, samples)
