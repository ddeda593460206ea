"""Leave out what Label Studio would hide: controls whose ``visibleWhen`` does not hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace

from backend.domain import Control, Prediction, VisibilityCondition

Answers = Mapping[str, Collection[str]]
"""Choices control → chosen labels."""


def visible_controls(controls: Sequence[Control], answers: Answers) -> frozenset[str]:
    """Return the names of the controls that Label Studio shows with some answers.

    The answer to a control that is hidden itself does not count. Controls whose conditions
    contradict each other, such as two that each hide the other one when answered, are hidden.

    Args:
        controls: all served controls of the labeling config.
        answers: answers of choices controls; without those that have no answer.
    """
    chosen = {c.name: set(answers[c.name]) for c in controls if answers.get(c.name)}
    visible: frozenset[str] = frozenset()
    while True:  # each turn adds controls that are certainly visible
        possible = _shown_without(visible, controls, chosen)
        certain = _shown_without(possible, controls, chosen)
        if certain in (visible, possible):
            return certain
        visible = certain


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


def _shown_without(
    hiding: frozenset[str], controls: Sequence[Control], chosen: Mapping[str, Set[str]]
) -> frozenset[str]:
    """Return the controls that are shown if the answers to ``hiding`` hide others.

    Args:
        hiding: controls whose answers count for negated conditions.
        controls: all served controls of the labeling config.
        chosen: choices control → chosen labels.
    """
    shown: frozenset[str] = frozenset()
    while True:  # an answer counts once its own control is shown, which may show further controls
        found = frozenset(
            control.name
            for control in controls
            if all(
                _is_chosen(condition, control.name, chosen, hiding if condition.negated else shown)
                != condition.negated
                for condition in control.conditions
            )
        )
        if found == shown:
            return shown
        shown = found


def _is_chosen(
    condition: VisibilityCondition, name: str, chosen: Mapping[str, Set[str]], counted: Set[str]
) -> bool:
    """Return whether one of a condition's labels is chosen in another control that counts."""
    others = [condition.control] if condition.control else [*chosen]
    return any(
        not condition.labels or not chosen[other].isdisjoint(condition.labels)
        for other in others
        if other in chosen and other in counted and other != name
    )
