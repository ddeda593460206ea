"""Read the conditions under which Label Studio shows a control: ``visibleWhen`` and its relatives.

They are attributes of the control, or of a tag around it. Label Studio ignores the case of their
names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from backend.domain import Control, VisibilityCondition

CHOICE_SELECTED, CHOICE_UNSELECTED = "choice-selected", "choice-unselected"
REGION_SELECTED = "region-selected"
ATTRIBUTES = ("visiblewhen", "whentagname", "whenchoicevalue")


@dataclass(frozen=True)
class TagTree:
    """The tags of a labeling config with their parents.

    Attributes:
        root: the outermost tag.
        parents: tag → the tag around it.
    """

    root: Element
    parents: Mapping[Element, Element]

    @classmethod
    def of_root(cls, root: Element) -> TagTree:
        """Return the tree of an outermost tag."""
        return cls(root, {child: parent for parent in root.iter() for child in parent})

    def with_ancestors(self, tag: Element) -> Iterator[Element]:
        """Yield a tag and the tags around it, from the inside out."""
        current: Element | None = tag
        while current is not None:
            yield current
            current = self.parents.get(current)


def read_conditions(tag: Element, tree: TagTree) -> tuple[VisibilityCondition, ...]:
    """Return the conditions of a control, without those on selected regions."""
    conditions = (_read_condition(element, tree) for element in tree.with_ancestors(tag))
    return tuple(condition for condition in conditions if condition)


def is_shown_per_region(tag: Element, tree: TagTree) -> bool:
    """Return whether a control is shown only while a region is selected."""
    elements = tree.with_ancestors(tag)
    return any(_visibility(element).get("visiblewhen") == REGION_SELECTED for element in elements)


def hidden_reason(control: Control, served: Sequence[Control]) -> str:
    """Return why Label Studio never shows a control together with predicted answers.

    Args:
        control: the control.
        served: all served controls.

    Returns:
        the end of a sentence; empty if it may show it.
    """
    names = {other.name for other in served if other.is_choices} - {control.name}
    for condition in control.conditions:
        if not condition.negated and not (
            condition.control in names if condition.control else names
        ):
            other = condition.control or "other choices"
            return f"is shown only after an answer to {other}, which Prelabel does not predict"
    return ""


def _visibility(tag: Element) -> dict[str, str]:
    lowered = {name.lower(): value for name, value in tag.attrib.items()}
    return {name: lowered[name] for name in ATTRIBUTES if lowered.get(name)}


def _read_condition(tag: Element, tree: TagTree) -> VisibilityCondition | None:
    """Return the condition of one tag, as ``VisibilityMixin`` of Label Studio 1.23 reads it."""
    attributes = _visibility(tag)
    when, value = attributes.get("visiblewhen", ""), attributes.get("whenchoicevalue", "")
    if when in (CHOICE_SELECTED, CHOICE_UNSELECTED):
        name = attributes.get("whentagname", "")
        # without whenTagName it ignores whenChoiceValue
        labels = _resolve_labels(name, value.split(","), tree) if name and value else ()
        return VisibilityCondition(name, labels, negated=when == CHOICE_UNSELECTED)
    if not when and value:
        return VisibilityCondition(labels=(value,))
    return None


def _resolve_labels(control: str, values: Sequence[str], tree: TagTree) -> tuple[str, ...]:
    """Return the labels that annotations store: the ``alias`` of a choice if it has one."""
    aliases = {
        choice.get("value"): choice.get("alias")
        for tag in tree.root.iter("Choices")
        if tag.get("name") == control
        for choice in tag.iter("Choice")
    }
    return tuple(aliases.get(value) or value for value in values)
