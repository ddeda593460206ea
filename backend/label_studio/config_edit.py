"""Rename a label in the text of a labeling config, and keep all other characters of the text.

A rename takes two edits, so that annotations can be changed between them: the first adds the new
label beside the old one, and the second removes the old one. Together they give the original text
with the new name. Like Label Studio, they ignore the case of the names of tags and attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from backend.label_studio.labeling_config import LABELING_TAGS, read_config

START_TAG_PATTERN = re.compile(rb"""<(?:[^>"']|"[^"]*"|'[^']*')*>""")
ATTRIBUTE_PATTERN = re.compile(rb"""\s([^\s=<>"']+)\s*=\s*("[^"]*"|'[^']*')""")
QUOTES = {'"': "&quot;", "'": "&#39;"}
TAG_NAME_ATTRIBUTE = "whentagname"
CONDITION_ATTRIBUTES = ("whenchoicevalue", "whenlabelvalue")
"""Attributes of other tags that refer to labels of the control named by ``whenTagName``."""
CONTROL_TAGS = frozenset(name.lower() for name in LABELING_TAGS)


@dataclass
class _Tag:
    """A tag, with byte offsets into the config.

    Attributes:
        name: name of the tag, in lower case.
        attributes: its attributes, with names in lower case.
        control: name of the control that it is a part of; empty if there is none.
        start: start of its start tag.
        tag_end: end of its start tag.
        end: end of the element.
    """

    name: str
    attributes: dict[str, str]
    control: str
    start: int
    tag_end: int
    end: int = field(default=0)

    def is_label(self, control: str, label: str) -> bool:
        """Return whether it is this label of this control."""
        is_part = self.name in ("choice", "label") and self.control == control
        return is_part and self.attributes.get(self.name_attribute) == label

    @property
    def name_attribute(self) -> str:
        """The attribute with the name that annotations contain."""
        return "alias" if self.attributes.get("alias") else "value"


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    text: bytes


def add_label_beside(xml: str, control: str, old: str, new: str) -> str:
    """Return a config with a copy of a label before it that has a new name.

    Args:
        xml: the labeling config.
        control: name of the control.
        old: the label.
        new: name of the copy.

    Raises:
        ConfigError: the config is not XML.
    """
    source = xml.encode()
    edits: list[_Edit] = []
    for tag in _parse_tags(xml, source):
        if tag.is_label(control, old):
            quoted = _attribute_span(source, tag, tag.name_attribute)
            renamed = _replace(source[tag.start : tag.end], quoted, tag.start, new)
            edits.append(_Edit(tag.start, tag.start, renamed))
    edits += _condition_edits(xml, source, control, old, (new, old))
    return _apply(source, edits)


def remove_label(xml: str, control: str, label: str, new: str) -> str:
    """Return a config without a label of a control.

    Args:
        xml: the labeling config.
        control: name of the control.
        label: the label; conditions may refer to it even if the control has it no more.
        new: the label that conditions refer to instead.

    Raises:
        ConfigError: the config is not XML.
    """
    source = xml.encode()
    tags = [tag for tag in _parse_tags(xml, source) if tag.is_label(control, label)]
    edits = [_Edit(tag.start, tag.end, b"") for tag in tags]
    edits += _condition_edits(xml, source, control, label, (new,))
    return _apply(source, edits)


def _condition_edits(
    xml: str, source: bytes, control: str, label: str, replacements: tuple[str, ...]
) -> Iterator[_Edit]:
    """Yield the edits of conditions such as ``whenChoiceValue``, a comma-separated list."""
    for tag in _parse_tags(xml, source):
        if tag.attributes.get(TAG_NAME_ATTRIBUTE) != control:
            continue
        for name in CONDITION_ATTRIBUTES:
            labels = tag.attributes.get(name, "").split(",")
            if label not in labels:
                continue
            start, end = _attribute_span(source, tag, name)
            replaced = _replace_in_list(labels, label, replacements)
            yield _Edit(start, end, _quote(",".join(replaced), source[start:end]))


def _replace_in_list(
    labels: Sequence[str], label: str, replacements: tuple[str, ...]
) -> Iterator[str]:
    """Yield the labels of a list, with each replacement only where the list lacks it."""
    missing = [new for new in replacements if new == label or new not in labels]
    for one in labels:
        yield from missing if one == label else (one,)


def _parse_tags(xml: str, source: bytes) -> list[_Tag]:
    read_config(xml)  # refuses entities and what is not XML
    tags: list[_Tag] = []
    open_tags: list[_Tag] = []
    parser = expat.ParserCreate("utf-8")

    def start(name: str, attributes: dict[str, str]) -> None:
        offset = parser.CurrentByteIndex
        match = START_TAG_PATTERN.match(source, offset)
        tag_end = match.end() if match else offset
        parent = open_tags[-1].control if open_tags else ""
        lowered = {key.lower(): value for key, value in attributes.items()}
        control = lowered.get("name", "") if name.lower() in CONTROL_TAGS else parent
        open_tags.append(_Tag(name.lower(), lowered, control, offset, tag_end))
        tags.append(open_tags[-1])

    def end(name: str) -> None:
        tag = open_tags.pop()
        is_empty = source[tag.tag_end - 2 : tag.tag_end] == b"/>"
        tag.end = tag.tag_end if is_empty else source.index(b">", parser.CurrentByteIndex) + 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(source, True)
    return tags


def _attribute_span(source: bytes, tag: _Tag, name: str) -> tuple[int, int]:
    """Return where the quoted value of an attribute, by its lower-case name, starts and ends."""
    matches = ATTRIBUTE_PATTERN.finditer(source, tag.start, tag.tag_end)
    return next(match.span(2) for match in matches if match.group(1).lower() == name.encode())


def _replace(text: bytes, span: tuple[int, int], offset: int, value: str) -> bytes:
    start, end = span[0] - offset, span[1] - offset
    return text[:start] + _quote(value, text[start:end]) + text[end:]


def _quote(value: str, previous: bytes) -> bytes:
    """Return an attribute's value with the quotes of its previous value."""
    quote = previous[:1].decode()
    return f"{quote}{escape(value, {quote: QUOTES[quote]})}{quote}".encode()


def _apply(source: bytes, edits: Iterable[_Edit]) -> str:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        source = source[: edit.start] + edit.text + source[edit.end :]
    return source.decode()
