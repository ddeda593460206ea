"""Read the labels of a CSV file: one row per label, with or without a bounding box."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.domain import ImageSize
from backend.onboarding.label_sources.source import (
    MAX_LABEL_FILE_BYTES,
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

IMAGE_COLUMNS = ("image", "filename", "file", "file_name", "image_path", "path", "imageid")
LABEL_COLUMNS = ("label", "class", "category", "class_name", "name", "labelname")
CORNER_COLUMNS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
)
EXTENT_COLUMNS = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
SIZE_COLUMNS = (("image_width", "image_height"), ("width", "height"))
DELIMITERS = ",;\t"
NO_LABEL_REASON = "row without a label"


@dataclass(frozen=True)
class _Columns:
    """The columns of a file: each by the name that its header has."""

    image: str
    label: str
    corners: tuple[str, ...] = ()
    extent: tuple[str, ...] = ()
    size: tuple[str, ...] = ()

    @property
    def has_boxes(self) -> bool:
        return bool(self.corners or self.extent)


@dataclass
class _ImageRows:
    """The rows of one image so far."""

    choices: dict[str, None] = field(default_factory=dict)
    boxes: list[SourceBox] = field(default_factory=list)
    unusable: list[UnusableLabel] = field(default_factory=list)
    size: ImageSize | None = None


def find_csv(root: Path, files: Sequence[Path]) -> LabelSource | None:
    """Return the labels of a folder's CSV and TSV files as one source.

    If a file has boxes, only files with boxes are used.

    Returns:
        None if no file has a column of images and one of labels.
    """
    columns_by_file = {
        file: columns
        for file in files
        if file.suffix.lower() in (".csv", ".tsv") and (columns := _find_columns(file))
    }
    if not columns_by_file:
        return None
    has_boxes = any(columns.has_boxes for columns in columns_by_file.values())
    used = {f: c for f, c in columns_by_file.items() if c.has_boxes == has_boxes}

    def read() -> Iterator[ImageLabels]:
        for file, columns in used.items():
            yield from _iter_images(root, file, columns)

    label_names: dict[str, None] = {}
    image_count, is_multiple = 0, False
    for image in read():
        image_count += 1
        is_multiple = is_multiple or len(image.choices) > 1
        label_names |= dict.fromkeys([*image.choices, *(box.label for box in image.boxes)])
    return LabelSource(
        "csv", root, frozenset(used), tuple(label_names), has_boxes, image_count, read, is_multiple
    )


def _find_columns(file: Path) -> _Columns | None:
    header = next(_iter_rows(file), None)
    if header is None:
        return None
    by_name = {str(name).strip().lower(): str(name) for name in header if name}
    image = next((by_name[name] for name in IMAGE_COLUMNS if name in by_name), None)
    label = next((by_name[name] for name in LABEL_COLUMNS if name in by_name), None)
    if image is None or label is None:
        return None
    corners, extent, size = (
        next((tuple(by_name[n] for n in group) for group in groups if {*group} <= {*by_name}), ())
        for groups in (CORNER_COLUMNS, EXTENT_COLUMNS, SIZE_COLUMNS)
    )
    extent = () if corners else extent
    return _Columns(image, label, corners, extent, () if {*size} & {*extent} else size)


def _iter_rows(file: Path) -> Iterator[Mapping[str | None, object]]:
    """Yield the rows of a table by column name; nothing for files that are no table."""
    text = read_label_file(file, MAX_LABEL_FILE_BYTES).decode("utf-8-sig", "replace")
    first_line = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first_line.count)
    try:
        yield from csv.DictReader(text.splitlines(), delimiter=delimiter)
    except csv.Error:
        return


def _iter_images(root: Path, file: Path, columns: _Columns) -> Iterator[ImageLabels]:
    images: dict[tuple[str, bool], _ImageRows] = {}
    for row in _iter_rows(file):
        name = clean_path(str(row.get(columns.image) or ""))
        label = str(row.get(columns.label) or "").strip()
        box = _parse_box(row, columns, label) if columns.has_boxes else None
        in_pixels = box is not None and max(box.x0, box.y0, box.x1, box.y1) > 1
        rows = images.setdefault((name, in_pixels), _ImageRows())
        if columns.size and not rows.size:
            rows.size = parse_size(*(row.get(column) for column in columns.size))
        if not label:
            rows.unusable.append(UnusableLabel("", NO_LABEL_REASON))
        elif box is None:
            rows.choices[label] = None
        else:
            rows.boxes.append(box)
    for (name, in_pixels), rows in images.items():
        yield ImageLabels(
            paths=(join_path(file.parent, root, name), name) if name else (),
            choices=tuple(rows.choices),
            boxes=tuple(rows.boxes),
            unusable=tuple(rows.unusable),
            in_pixels=in_pixels,
            size=rows.size,
        )


def _parse_box(row: Mapping[str | None, object], columns: _Columns, label: str) -> SourceBox:
    x, y, *rest = (
        parse_number(str(row.get(column) or "").strip())
        for column in columns.corners or columns.extent
    )
    x1, y1 = rest if columns.corners else (x + rest[0], y + rest[1])
    return SourceBox(label, x, y, x1, y1)
