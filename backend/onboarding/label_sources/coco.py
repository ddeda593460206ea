"""Read the bounding boxes of COCO files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.label_studio import Json
from backend.label_studio.json_values import read_objects
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

COCO_LISTS = ("images", "annotations", "categories")
CROWD_REASON = "crowd region"
MASK_REASON = "mask without a bounding box"
NO_CATEGORY_REASON = "category without a name"
NO_IMAGE_REASON = "annotation of an image that its COCO file does not list"


def find_coco(root: Path, files: Sequence[Path]) -> LabelSource | None:
    """Return the COCO files of a folder; None if there are none."""
    coco_files: list[Path] = []
    label_names: dict[str, None] = {}
    image_count = 0
    for file in files:
        coco = _read_coco(file) if file.suffix.lower() == ".json" else None
        if coco is None:
            continue
        coco_files.append(file)
        image_count += len(coco["images"])
        names = _category_names(coco)
        used_ids = {str(row.get("category_id")) for row in read_objects(coco, "annotations")}
        label_names |= dict.fromkeys(names[id] for id in names if id in used_ids)
    if not coco_files:
        return None

    def read() -> Iterator[ImageLabels]:
        for file in coco_files:
            yield from _iter_images(_read_coco(file) or {}, root, file)

    return LabelSource(
        "coco", root, frozenset(coco_files), tuple(label_names), True, image_count, read
    )


def _read_coco(file: Path) -> Json | None:
    """Return a COCO file; None if a JSON file is something else.

    Raises:
        UsageError: it is too large.
    """
    try:
        content = json.loads(read_label_file(file, MAX_LABEL_FILE_BYTES))
    except (ValueError, RecursionError):
        return None
    is_coco = isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in COCO_LISTS
    )
    return content if is_coco else None


def _category_names(coco: Json) -> dict[str, str]:
    return {
        str(row.get("id")): name
        for row in read_objects(coco, "categories")
        if isinstance(name := row.get("name"), str) and name
    }


def _iter_images(coco: Json, root: Path, file: Path) -> Iterator[ImageLabels]:
    names = _category_names(coco)
    rows_by_image: dict[str, list[Json]] = defaultdict(list)
    for row in read_objects(coco, "annotations"):
        rows_by_image[str(row.get("image_id"))].append(row)
    for image in read_objects(coco, "images"):
        rows = rows_by_image.pop(str(image.get("id")), [])
        parsed = [_parse_annotation(row, names) for row in rows]
        name = clean_path(str(image.get("file_name") or image.get("coco_url") or ""))
        yield ImageLabels(
            paths=(join_path(file.parent, root, name), name) if name else (),
            boxes=tuple(one for one in parsed if isinstance(one, SourceBox)),
            unusable=tuple(one for one in parsed if isinstance(one, UnusableLabel)),
            in_pixels=True,
            size=parse_size(image.get("width"), image.get("height")),
        )
    for rows in rows_by_image.values():
        yield ImageLabels((), unusable=(UnusableLabel("", NO_IMAGE_REASON),) * len(rows))


def _parse_annotation(row: Json, names: dict[str, str]) -> SourceBox | UnusableLabel:
    label = names.get(str(row.get("category_id")), "")
    if not label:
        return UnusableLabel("", NO_CATEGORY_REASON)
    if row.get("iscrowd") in (1, True):
        return UnusableLabel(label, CROWD_REASON)
    corners = _box_corners(row.get("bbox")) or _polygon_corners(row.get("segmentation"))
    return SourceBox(label, *corners) if corners else UnusableLabel(label, MASK_REASON)


def _box_corners(bbox: object) -> tuple[float, float, float, float] | None:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    x, y, width, height = map(parse_number, bbox)
    return x, y, x + width, y + height


def _polygon_corners(segmentation: object) -> tuple[float, float, float, float] | None:
    """Return the bounding box of polygons; None for a run-length encoded mask."""
    if not isinstance(segmentation, list):
        return None
    polygons = [part for part in segmentation if isinstance(part, list) and len(part) >= 6]
    x = [parse_number(value) for part in polygons for value in part[::2]]
    y = [parse_number(value) for part in polygons for value in part[1::2]]
    return (min(x), min(y), max(x), max(y)) if x else None
