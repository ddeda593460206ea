"""Answers that need no person: given in the machine's name, checked by people now and then."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from backend.domain import Control, Place, Places, Prediction, Task
from backend.inference.model import Model
from backend.label_studio.task_results import whole_of
from backend.learning.auto_accept import Checks, Look, after, broken, for_people, look
from backend.learning.detection_metrics import Judged, PlaceKind, tally
from backend.loop.evaluate import metrics
from backend.loop.evaluate.metrics import Judgement
from backend.loop.label_table import rows_of
from backend.loop.observe import RANDOM, Observation
from backend.runtime.connection import Connection
from backend.store.acceptance import Acceptance, Given, Suspension
from backend.store.versions import Card

log = logging.getLogger("prelabel")
AT_ONCE = 500
"""Answers that one round gives: 50 ms each, and Label Studio is busy meanwhile."""
TOGETHER = 50
"""Answers that are given between two looks at what people skipped."""


def wanted(controls: Iterable[Control], setting: float) -> float:
    """The error bound of a project, the smallest of its controls'; 0: nothing is accepted.

    Args:
        controls: all of them; one that allows nothing allows nothing of the whole task.
        setting: of those that do not say.
    """
    bounds = [setting if c.accept_error is None else c.accept_error for c in controls]
    return min(bounds, default=0.0)


def proven(
    judgements: Mapping[str, Judgement], error: float, cards: Iterable[Card], until: int
) -> dict[str, Any]:
    """From which confidence on a version's answers are accepted, as its card tells it.

    Args:
        judgements: of all controls on the audit slice.
        error: the bound.
        cards: of the versions before, oldest first; each tells whether it was a look.
        until: audit labels that are needed because accepting is suspended.
    """
    pairs = list(metrics.together(judgements.values()).values())
    told = [card.accepting for card in cards]
    looks = [Look(t["audit"], t["chance"], t["level"] is not None) for t in told if t.get("chance")]
    found = look([sure for sure, _ in pairs], [right for _, right in pairs], error, looks, until)
    log.info("%s", found.reason)
    return {
        "error": error,
        "level": found.value,
        "reason": found.reason,
        "missing": found.missing,
        "proven": found.proven,
        "images": found.images,
        "audit": len(pairs),
        "chance": found.chance,
    }


def reviewed(state: Acceptance, seen: Observation, model: Model) -> Acceptance:
    """The state with what people answered by now, where something was given before.

    Nothing is counted twice: each answer that was given is right, wrong, or not looked at.

    Args:
        state: as it was kept.
        seen: what Label Studio holds.
        model: whose points' extents tell when two points are one.
    """
    given = dict(state.given)
    for task in seen.labeled:
        if task.id in given:
            right = _same(task, given[task.id], seen.config.controls, model)
            given[task.id] = replace(given[task.id], right=right)
    return replace(state, given=given)


def suspended(state: Acceptance, error: float, cards: Iterable[Card]) -> Acceptance:
    """The state, with a suspension more where people found too many errors.

    It ends when a version is proven on half as many audit labels again as any version saw.

    Args:
        state: just reviewed.
        error: the bound that the project wants.
        cards: of all versions.
    """
    reason = broken(state.checks, error)
    if not reason:
        return state
    until = after(max((int(card.accepting.get("audit", 0)) for card in cards), default=0))
    reason += f" Nothing is accepted until the bound is proven anew, on {until} audit images."
    log.warning("%s", reason)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(state, suspensions=(*state.suspensions, Suspension(now, reason, until)))


def acceptable(
    card: Card,
    state: Acceptance,
    seen: Observation,
    sure: Mapping[int, float],
    model: Model,
    error: float,
) -> list[Task]:
    """The open tasks whose answers need no person, those among them that go to people all the same.

    Only what the audit slice is a fair sample of: not what was captured because it was hard.
    Only by what was judged: not after the labeling config or the wanted bound changed.

    Args:
        card: of the live version.
        state: of the project.
        seen: what Label Studio holds.
        sure: by task, confidence of the live version's whole answer.
        model: the live version's.
        error: the bound that the project wants now.
    """
    least = card.accepting.get("level")
    if least is None or state.suspended(card.accepting) or card.accepting["error"] > error:
        return []
    if not _judged_by(model.controls, seen.config.controls):
        log.info("Nothing is accepted until a version of the present labeling config is live.")
        return []
    return [
        task
        for task in seen.tasks
        if task.open
        and not task.labeled
        and not task.skipped
        and sure.get(task.id, 0.0) >= least
        and task.captured in ("", RANDOM)
        and not seen.is_audit(task)
    ]


def due(state: Acceptance, seen: Observation, answers: Sequence[Prediction]) -> set[int]:
    """The tasks of which :func:`remembered` needs to know the whole answer.

    Args:
        state: of the project.
        seen: what Label Studio holds.
        answers: of acceptable tasks; their boxes and points may be missing.
    """
    people, give = _split(seen, answers)
    return {one.task for one in people if _is_news(state, one.task)} | {one.task for one in give}


def remembered(
    state: Acceptance, seen: Observation, version: str, answers: Sequence[Prediction]
) -> tuple[Acceptance, list[Prediction]]:
    """Decide which answers are given and which tasks go to people, and remember both.

    Args:
        state: of the project.
        seen: what Label Studio holds.
        version: the live one.
        answers: of acceptable tasks, everything that the version would answer. Those that choose
            nothing were not judged and are left out.

    Returns:
        the state, to be kept before anything is given; and at most AT_ONCE answers to give.
    """
    people, give = _split(seen, answers)
    given, era = dict(state.given), len(state.suspensions)
    for one in people:
        if _is_news(state, one.task):
            given[one.task] = Given(version, _answer(one), True, era, ratios=_ratios(one))
    for one in give:
        given[one.task] = Given(version, _answer(one), False, era, ratios=_ratios(one))
    since = state.since if state.given else len(seen.labeled)
    return replace(state, given=given, since=since), give


def checks_of(state: Acceptance, seen: Observation) -> Checks:
    """Which open tasks go to people although they could have been accepted."""
    asked = {task for task, given in state.given.items() if given.to_people}
    return Checks(
        project=seen.identity,
        waiting={task.id for task in seen.tasks if task.open and task.id in asked},
        labeled=max(0, len(seen.labeled) - state.since),
        done=sum(task.id in asked for task in seen.labeled),
    )


def accept(
    connection: Connection, controls: Mapping[str, Control], answers: Sequence[Prediction]
) -> set[int]:
    """Give answers in the machine's name.

    Training and pushing take a while, and so does this; who labeled or skipped a task meanwhile has
    the last word.

    Args:
        connection: the project.
        controls: by name.
        answers: of tasks that were open, everything that the model would answer.

    Returns:
        the tasks that were answered.
    """
    if not answers:
        return set()
    client, done = connection.client, set()
    machine = client.machine()
    skipped: set[int] = set()
    for place, answer in enumerate(answers):
        if place % TOGETHER == 0:
            skipped = client.skipped(connection.number)
        if answer.task not in skipped and not client.given(answer.task):
            client.annotate(answer.task, whole_of(answer, controls), machine)
            done.add(answer.task)
    log.info("%s answers were accepted without a person.", len(done))
    return done


def _split(
    seen: Observation, answers: Sequence[Prediction]
) -> tuple[list[Prediction], list[Prediction]]:
    """Answers whose tasks go to people, and those to give; none that chooses nothing."""
    answers = [one for one in answers if all(choice.labels for choice in one.choices)]
    people = [one for one in answers if for_people(seen.identity, one.task)]
    return people, [one for one in answers if not for_people(seen.identity, one.task)][:AT_ONCE]


def _is_news(state: Acceptance, task: int) -> bool:
    """Whether no answer to a task that goes to people is remembered since the last suspension."""
    return task not in state.given or state.given[task].era < len(state.suspensions)


def _judged_by(then: Sequence[Control], now: Sequence[Control]) -> bool:
    """Whether answers mean and show the same; who draws with which tool does not matter."""
    one, other = ([replace(control, smart=False) for control in each] for each in (then, now))
    return one == other


def _answer(prediction: Prediction) -> dict[str, list[Any]]:
    """As a version remembers labels."""
    chosen = {choice.control: sorted(choice.labels) for choice in prediction.choices}
    return chosen | {found.control: rows_of(found.places) for found in prediction.findings}


def _ratios(prediction: Prediction) -> dict[str, float]:
    sizes = {found.control: found.size for found in prediction.findings}
    return {name: size.width / size.height for name, size in sizes.items()}


def _same(task: Task, given: Given, controls: Iterable[Control], model: Model) -> bool | None:
    """Whether a person answered the same; None where they left a control unanswered."""
    answers, places = task.answers or {}, task.places or {}
    right = True
    for control in (c for c in controls if c.name in given.answer):
        if control.name not in (answers if control.kind == "choices" else places):
            return None
        if control.kind == "choices":
            right &= answers[control.name] == frozenset(given.answer[control.name])
        else:
            right &= _same_places(control, given, places[control.name], model)
    return right


def _same_places(control: Control, given: Given, truth: Places, model: Model) -> bool:
    """Whether all was found and nothing else, as the audit slice is judged."""
    found = tuple(Place(*row) for row in given.answer[control.name])
    finder = model.finders.get(control.name)
    extents = dict(finder.meaning.sides) if finder else {}
    kind: PlaceKind = "points" if control.kind == "points" else "boxes"
    judged = Judged(found, (1.0,) * len(found), truth, given.ratios.get(control.name, 1.0))
    count = tally(judged, control.label_names, kind, extents, 0.0)
    return count.right == count.found == count.there
