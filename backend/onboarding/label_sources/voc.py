"""Read the bounding boxes of Pascal VOC XML files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from backend.errors import UsageError
from backend.onboarding.label_sources.source import (
    MAX_IMAGE_LABEL_BYTES,
    ImageLabels,
    LabelSource,
    SourceBox,
    UnusableLabel,
    clean_path,
    join_path,
    parse_number,
    parse_size,
    read_label_file,
)

NO_BOX_REASON = "object without a bounding box"
NO_NAME_REASON = "object without a name"


def find_voc(root: Path, files: Sequence[Path]) -> LabelSource | None:
    """Return the Pascal VOC files of a folder; None if there are none."""
    voc_files: list[Path] = []
    label_names: dict[str, None] = {}
    for file in files:
        labels = _read_voc(root, file) if file.suffix.lower() == ".xml" else None
        if labels is not None:
            voc_files.append(file)
            label_names |= dict.fromkeys(box.label for box in labels.boxes)
    if not voc_files:
        return None

    def read() -> Iterator[ImageLabels]:
        for file in voc_files:
            labels = _read_voc(root, file)
            if labels is not None:
                yield labels

    return LabelSource(
        "voc", root, frozenset(voc_files), tuple(label_names), True, len(voc_files), read
    )


def _read_voc(root: Path, file: Path) -> ImageLabels | None:
    """Return the labels of a file; None if an XML file is something else."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        annotation: Element = fromstring(read_label_file(file, MAX_IMAGE_LABEL_BYTES))
    except (ParseError, DefusedXmlException, UsageError, ValueError, LookupError):
        return None
    if annotation.tag != "annotation":
        return None
    parsed = [_parse_object(tag) for tag in annotation.findall("object")]
    name = clean_path(_text(annotation, "filename"))
    folder = clean_path(_text(annotation, "folder"))
    paths = (
        (join_path(file.parent, root, name), clean_path(f"{folder}/{name}"), name)
        if name
        else (join_path(file.parent, root, file.stem), file.stem)
    )
    return ImageLabels(
        paths=tuple(dict.fromkeys(paths)),
        boxes=tuple(one for one in parsed if isinstance(one, SourceBox)),
        unusable=tuple(one for one in parsed if isinstance(one, UnusableLabel)),
        in_pixels=True,
        size=parse_size(_text(annotation, "size/width"), _text(annotation, "size/height")),
        by_stem=not name,
    )


def _parse_object(tag: Element) -> SourceBox | UnusableLabel:
    label = _text(tag, "name")
    if not label:
        return UnusableLabel("", NO_NAME_REASON)
    if tag.find("bndbox") is None:
        return UnusableLabel(label, NO_BOX_REASON)
    x0, y0, x1, y1 = (
        parse_number(_text(tag, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")
    )
    return SourceBox(label, x0, y0, x1, y1)


def _text(tag: Element, path: str) -> str:
    return (tag.findtext(path) or "").strip()
