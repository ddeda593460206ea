"""Write labels as COCO: boxes as ``bbox``, points as key points."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from backend.domain import Control, ImageSize, Region
from backend.json_records import JsonObject
from backend.tools.dataset.labels import (
    SPLITS,
    Dataset,
    LabeledImage,
    Split,
    iter_regions,
    label_names,
)
from backend.tools.dataset.writer import DatasetWriter

ALL_IMAGES_FILE = "result.json"
"""The name that Label Studio gives its own COCO export."""
VISIBLE_FLAG = 2
"""COCO's flag of a key point that is labeled and visible."""
PIXEL_DECIMALS = 3
CategoryIds = Mapping[tuple[bool, str], int]
"""(is a point, label) → category id."""


class CocoWriter(DatasetWriter):
    """Writes ``result.json`` with all images, and ``train.json`` and ``val.json`` with the splits.

    An image or annotation has the same id in all files. Images and annotations are counted from 1
    and categories from 0, as in Label Studio's own export.
    """

    title = "COCO"
    content = "boxes (RectangleLabels) and points (KeyPointLabels)"

    @staticmethod
    def holds(control: Control) -> bool:
        """Return whether a control marks objects."""
        return not control.is_choices

    def write_labels(self, folder: Path, dataset: Dataset) -> None:
        """Write the files, one row at a time."""
        _write_file(folder / ALL_IMAGES_FILE, dataset, SPLITS)
        for split in SPLITS:
            _write_file(folder / f"{split}.json", dataset, (split,))


def _write_file(file: Path, dataset: Dataset, splits: Iterable[Split]) -> None:
    info = {"description": dataset.title, "contributor": "Prelabel"}
    sections: Mapping[str, Iterable[JsonObject]] = {
        "categories": _category_rows(dataset),
        "images": _image_rows(dataset, splits),
        "annotations": _annotation_rows(dataset, splits),
    }
    with file.open("w", encoding="utf-8") as stream:
        stream.write('{"info": ' + json.dumps(info, ensure_ascii=False))
        for name, rows in sections.items():
            stream.write(f',\n"{name}": [')
            _write_rows(stream, rows)
            stream.write("]")
        stream.write("}\n")


def _write_rows(stream: TextIO, rows: Iterable[JsonObject]) -> None:
    separator = "\n"
    for row in rows:
        stream.write(separator + json.dumps(row, ensure_ascii=False))
        separator = ",\n"


def _category_rows(dataset: Dataset) -> list[JsonObject]:
    boxes: list[JsonObject] = [
        {"name": name, "supercategory": ""} for name in label_names(dataset.boxes)
    ]
    points: list[JsonObject] = [
        {"name": name, "supercategory": "", "keypoints": ["center"], "skeleton": []}
        for name in label_names(dataset.points)
    ]
    return [{"id": id, **row} for id, row in enumerate([*boxes, *points])]


def _image_rows(dataset: Dataset, splits: Iterable[Split]) -> Iterator[JsonObject]:
    for id, image in enumerate(dataset.images, 1):
        if image.split in splits:
            size = _known_size(image)
            row = {"id": id, "file_name": image.file_name}
            yield row | {"width": size.width, "height": size.height}


def _annotation_rows(dataset: Dataset, splits: Iterable[Split]) -> Iterator[JsonObject]:
    ids = {("keypoints" in row, row["name"]): row["id"] for row in _category_rows(dataset)}
    annotation_id = 0
    for image_id, image in enumerate(dataset.images, 1):
        for row in _image_annotations(image, dataset, ids):
            annotation_id += 1
            if image.split in splits:
                yield {"id": annotation_id, "image_id": image_id, **row}


def _image_annotations(
    image: LabeledImage, dataset: Dataset, ids: CategoryIds
) -> Iterator[JsonObject]:
    size = _known_size(image)
    centers = set()
    for regions in iter_regions(image, dataset.boxes):
        for box in regions:
            centers.add((box.label, box.center))
            yield {"category_id": ids[False, box.label], **_box_fields(box, size)}
    for regions in iter_regions(image, dataset.points):
        for point in regions:
            # observed tasks have the centers of boxes as points where nobody set any
            if (point.label, point.center) not in centers:
                yield {"category_id": ids[True, point.label], **_point_fields(point, size)}


def _box_fields(box: Region, size: ImageSize) -> JsonObject:
    width, height = (box.x1 - box.x0) * size.width, (box.y1 - box.y0) * size.height
    bbox = [box.x0 * size.width, box.y0 * size.height, width, height]
    return {
        "bbox": [round(value, PIXEL_DECIMALS) for value in bbox],
        "area": round(width * height, PIXEL_DECIMALS),
        "iscrowd": 0,
        "segmentation": [],
    }


def _point_fields(point: Region, size: ImageSize) -> JsonObject:
    x, y = point.center
    pixels = [round(x * size.width, PIXEL_DECIMALS), round(y * size.height, PIXEL_DECIMALS)]
    return {
        "keypoints": [*pixels, VISIBLE_FLAG],
        "num_keypoints": 1,
        "bbox": [*pixels, 0, 0],
        "area": 0,
        "iscrowd": 0,
    }


def _known_size(image: LabeledImage) -> ImageSize:
    if image.size is None:
        raise ValueError(f"the size of {image.file_name} was not determined")
    return image.size
