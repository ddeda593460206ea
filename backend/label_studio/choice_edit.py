"""Change a choice in the result of an annotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain import Control
from backend.label_studio import Json
from backend.label_studio.json_values import read_object, read_strings


@dataclass(frozen=True)
class ChoiceEdit:
    """A change of the labels of one control of choices.

    Attributes:
        control: name of the control.
        removed: labels that the annotation must have, and that are removed.
        added: labels that the annotation must not have, and that are added.
    """

    control: str
    removed: frozenset[str]
    added: frozenset[str]

    def apply(self, result: Sequence[Json]) -> list[Json] | None:
        """Return the changed result; None if the annotation does not have the expected labels."""
        items = [item for item in result if self._is_choice(item)]
        if not items:
            return None
        chosen = [label for item in items for label in _labels(item)]
        if not self.removed <= set(chosen) or self.added & set(chosen):
            return None
        kept = [label for label in chosen if label not in self.removed]
        value = {**read_object(items[0], "value"), "choices": [*kept, *sorted(self.added)]}
        changed = {**items[0], "value": value}
        rest = (item for item in result if not self._is_choice(item))
        return [changed, *rest]

    def _is_choice(self, item: Json) -> bool:
        return item.get("from_name") == self.control and item.get("type") == "choices"


def suggested_edit(control: Control, given: str, suggested: str) -> ChoiceEdit | None:
    """Return the edit that follows the suggestion of a probable label error.

    Args:
        control: the control in the current labeling config.
        given: the annotated label; ``not <label>`` for a missing one of several-of-many.
        suggested: the predicted label; ``not <label>`` for a superfluous one of several-of-many.

    Returns:
        None if the suggestion is not a choice between the control's labels.
    """
    labels = control.label_names
    if not control.is_choices:
        return None
    if not control.multiple:
        is_known = {given, suggested} <= set(labels)
        edit = ChoiceEdit(control.name, frozenset({given}), frozenset({suggested}))
        return edit if is_known else None
    if given == f"not {suggested}" and suggested in labels:
        return ChoiceEdit(control.name, frozenset(), frozenset({suggested}))
    if suggested == f"not {given}" and given in labels:
        return ChoiceEdit(control.name, frozenset({given}), frozenset())
    return None


def _labels(item: Json) -> list[str]:
    return read_strings(read_object(item, "value"), "choices")
