"""Change a choice in the result of an annotation."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from backend.domain import Control
from backend.label_studio import Json
from backend.label_studio.json_values import read_object, read_strings


@dataclass(frozen=True)
class ChoiceEdit:
    """A change of the labels of one control of choices.

    Attributes:
        control: name of the control.
        to_name: name of its image tag.
        removed: labels that the annotation must have, and that are removed.
        added: labels that the annotation must not have, and that are added.
    """

    control: str
    to_name: str
    removed: frozenset[str]
    added: frozenset[str]

    def apply(self, result: Sequence[Json]) -> list[Json] | None:
        """Return the changed result; None if the annotation does not have the expected labels.

        Label Studio stores no item for a control of which nothing was chosen.
        """
        items = [item for item in result if self._is_choice(item)]
        chosen = [label for item in items for label in _labels(item)]
        if not self.removed <= set(chosen) or self.added & set(chosen):
            return None
        kept = [label for label in chosen if label not in self.removed]
        labels = [*kept, *sorted(self.added)]
        rest = [item for item in result if not self._is_choice(item)]
        if not labels:
            return rest
        item = items[0] if items else self._new_item()
        return [{**item, "value": {**read_object(item, "value"), "choices": labels}}, *rest]

    def _new_item(self) -> Json:
        names = {"from_name": self.control, "to_name": self.to_name, "type": "choices"}
        return {"id": secrets.token_hex(5), **names}

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
    edit = partial(ChoiceEdit, control.name, control.to_name)
    if not control.is_choices:
        return None
    if not control.multiple:
        is_known = {given, suggested} <= set(labels)
        return edit(frozenset({given}), frozenset({suggested})) if is_known else None
    if given == f"not {suggested}" and suggested in labels:
        return edit(frozenset(), frozenset({suggested}))
    if suggested == f"not {given}" and given in labels:
        return edit(frozenset({given}), frozenset())
    return None


def _labels(item: Json) -> list[str]:
    return read_strings(read_object(item, "value"), "choices")
