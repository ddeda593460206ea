"""Read the bounding boxes of YOLO text files, with the class names of data.yaml or classes.txt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.onboarding.label_sources.source import (
    MAX_IMAGE_LABEL_BYTES,
    ImageLabels,
    LabelSource,
    SourceBox,
    UnusableLabel,
    join_path,
    parse_number,
    read_label_file,
)

CLASS_FILES = ("classes.txt", "obj.names", "names.txt")
YAML_SUFFIXES = (".yaml", ".yml")
LINE_PATTERN = re.compile(r"\d+(\s+-?[\d.]+(e-?\d+)?){4,}", re.IGNORECASE)
"""A class number, and a box or a polygon."""
BOX_VALUES = (4, 5)
"""Values after the class number: a box, perhaps with its confidence. More are a polygon."""
UNKNOWN_CLASS_REASON = "class number without a name"
INVALID_LINE_REASON = "line that is neither a box nor a polygon"


def find_yolo(root: Path, files: Sequence[Path]) -> LabelSource | None:
    """Return the YOLO labels of a folder; None without class names or without a label file."""
    by_depth = sorted(files, key=lambda file: len(file.parts))
    named = next(((file, names) for file in by_depth if (names := _read_names(file))), None)
    if named is None:
        return None
    names_file, names = named
    has_keypoints = names_file.suffix in YAML_SUFFIXES and b"kpt_shape" in names_file.read_bytes()
    label_files = [
        file
        for file in files
        if file.suffix.lower() == ".txt" and file.name not in CLASS_FILES and _is_label_file(file)
    ]
    if not any(file.stat().st_size for file in label_files):
        return None

    def read() -> Iterator[ImageLabels]:
        for file in label_files:
            yield _read_image_labels(root, file, names, has_keypoints)

    label_names = tuple(dict.fromkeys(names.values()))
    all_files = frozenset({*label_files, names_file})
    return LabelSource("yolo", root, all_files, label_names, True, len(label_files), read)


def _read_names(file: Path) -> dict[int, str]:
    """Return the class names by number; empty if a file has none."""
    if file.name in CLASS_FILES:
        lines = read_label_file(file, MAX_IMAGE_LABEL_BYTES).decode("utf-8-sig", "replace")
        rows = [line.strip() for line in lines.splitlines()]
        return {number: name for number, name in enumerate(rows) if name}
    if file.suffix.lower() not in YAML_SUFFIXES:
        return {}
    return _parse_yaml_names(read_label_file(file, MAX_IMAGE_LABEL_BYTES))


def _parse_yaml_names(content: bytes) -> dict[int, str]:
    import yaml

    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict):
        return {int(key): str(name) for key, name in names.items() if str(key).isdecimal()}
    return {}


def _is_label_file(file: Path) -> bool:
    """Return whether a text file is empty, or starts with a box or a polygon."""
    try:
        with file.open("rb") as stream:
            first_line = stream.readline(10_000).decode("utf-8-sig", "replace").strip()
    except OSError:
        return False
    return not first_line or LINE_PATTERN.fullmatch(first_line) is not None


def _read_image_labels(
    root: Path, file: Path, names: dict[int, str], has_keypoints: bool
) -> ImageLabels:
    text = read_label_file(file, MAX_IMAGE_LABEL_BYTES).decode("utf-8-sig", "replace")
    parsed = [
        _parse_line(line.split(), names, has_keypoints)
        for line in text.splitlines()
        if line.strip()
    ]
    path = join_path(file.parent, root, file.stem)
    parts = path.split("/")
    image_paths = [
        "/".join([*parts[:index], *replacement, *parts[index + 1 :]])
        for index, part in enumerate(parts[:-1])
        if part == "labels"
        for replacement in (["images"], [])
    ]
    return ImageLabels(
        paths=(*image_paths[::-1], path, file.stem),
        boxes=tuple(one for one in parsed if isinstance(one, SourceBox)),
        unusable=tuple(one for one in parsed if isinstance(one, UnusableLabel)),
        by_stem=True,
    )


def _parse_line(
    words: Sequence[str], names: dict[int, str], has_keypoints: bool
) -> SourceBox | UnusableLabel:
    number = parse_number(words[0])
    label = names.get(int(number), "") if number >= 0 and number.is_integer() else ""
    values = [parse_number(word) for word in words[1:]]
    if not label:
        return UnusableLabel("", UNKNOWN_CLASS_REASON)
    if len(values) in BOX_VALUES or (has_keypoints and len(values) > 4):
        x, y, width, height = values[:4]
        return SourceBox(label, x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) >= 6 and len(values) % 2 == 0:
        return SourceBox(
            label, min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        )
    return UnusableLabel(label, INVALID_LINE_REASON)
