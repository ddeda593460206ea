"""Leave out what Label Studio would hide: controls whose ``visibleWhen`` does not hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from backend.domain import Control, Prediction, VisibilityCondition

Answers = Mapping[str, Collection[str]]
"""Choices control → chosen labels."""


def visible_controls(controls: Sequence[Control], answers: Answers) -> frozenset[str]:
    """Return the names of the controls that Label Studio shows with some answers.

    The answer to a control that is hidden itself does not count.

    Args:
        controls: all served controls of the labeling config.
        answers: answers of choices controls; without those that have no answer.
    """
    by_name = {control.name: control for control in controls}
    return frozenset(name for name in by_name if _is_visible(name, by_name, answers, frozenset()))


def without_hidden(
    prediction: Prediction, controls: Sequence[Control], *, unfiltered: bool = False
) -> Prediction:
    """Return a prediction without the controls that its own choices hide.

    Args:
        prediction: prediction for a task.
        controls: all served controls of the labeling config.
        unfiltered: labels below ``model_score_threshold`` are published, too.
    """
    if not any(control.conditions for control in controls):
        return prediction
    thresholds = {control.name: 0.0 if unfiltered else control.threshold for control in controls}
    answers = {
        choice.control: [
            name for name, value in choice.labels.items() if value >= thresholds[choice.control]
        ]
        for choice in prediction.choices
    }
    visible = visible_controls(controls, answers)
    return replace(
        prediction,
        choices=tuple(choice for choice in prediction.choices if choice.control in visible),
        regions=tuple(regions for regions in prediction.regions if regions.control in visible),
    )


def _is_visible(
    name: str, controls: Mapping[str, Control], answers: Answers, pending: frozenset[str]
) -> bool:
    """Return whether a control is shown; ``pending`` are controls that wait for it."""
    pending |= {name}
    return all(
        _holds(condition, controls, answers, pending) for condition in controls[name].conditions
    )


def _holds(
    condition: VisibilityCondition,
    controls: Mapping[str, Control],
    answers: Answers,
    pending: frozenset[str],
) -> bool:
    others = [condition.control] if condition.control else [*answers]
    is_chosen = any(
        _matches(condition, answers.get(other, ()))
        and _is_visible(other, controls, answers, pending)
        for other in others
        if other in controls and other not in pending
    )
    return is_chosen != condition.negated


def _matches(condition: VisibilityCondition, chosen: Collection[str]) -> bool:
    return any(not condition.labels or label in condition.labels for label in chosen)
