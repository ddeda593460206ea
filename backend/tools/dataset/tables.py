"""Write labels as CSV: a table of the images, and one per control."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backend.domain import Control, ImageSize
from backend.tools.dataset.file_names import FileNames
from backend.tools.dataset.labels import Dataset, LabeledImage
from backend.tools.dataset.writer import DatasetWriter

IMAGE_TABLE = "images"
KEY_COLUMNS = ("file_name", "task", "split")
"""The first columns of every table."""
SOURCE_COLUMNS = ("source", "confidence")
"""Columns of choices in an export with predictions. The confidence of an annotation is empty."""
PIXEL_DECIMALS = 3
Cell = str | int | float


def write_image_table(folder: Path, dataset: Dataset) -> None:
    """Write ``images.csv``: which task each file belongs to, and its upright size in pixels.

    ``accepted`` is 1 where Prelabel accepted its own prediction and nobody changed it. ``objects``
    is the number of boxes and points, if the labeling config has a control for them. ``source`` is
    there if the dataset was made with predictions.
    """
    controls = [control.name for control in dataset.controls if not control.is_choices]
    columns = (
        *(*KEY_COLUMNS, "width", "height", "accepted"),
        *(["objects"] if controls else []),
        *(["source"] if dataset.has_sources else []),
    )
    rows = (
        (
            *(*_key_cells(image), *_size_cells(image.size), int(image.task.auto_accepted)),
            *([_count_objects(image, controls)] if controls else []),
            *([image.source] if dataset.has_sources else []),
        )
        for image in dataset.images
    )
    _write_table(folder / f"{IMAGE_TABLE}.csv", columns, rows)


def _count_objects(image: LabeledImage, controls: Iterable[str]) -> int:
    regions = image.task.regions or {}
    return sum(len(regions.get(control, ())) for control in controls)


class TableWriter(DatasetWriter):
    """Writes a table per control, named after it.

    A row is an image where one label is chosen (``label``) or several are (a column per label, 1
    or 0; empty for a label that came into the config after the annotation). It is an object where
    boxes or points are drawn: ``label, x, y`` and for boxes ``width, height``, in pixels of the
    upright image. With predictions, choices also have ``source`` and ``confidence``.
    """

    title = "CSV"
    content = "choices, boxes and points"

    @staticmethod
    def holds(control: Control) -> bool:
        """Return True: there is a table for every kind of control."""
        return True

    def write_labels(self, folder: Path, dataset: Dataset) -> None:
        """Write the tables, one row at a time."""
        names = FileNames()
        names.assign(IMAGE_TABLE, fallback=IMAGE_TABLE)
        for control in dataset.controls:
            columns, rows = _control_table(control, dataset)
            name = names.assign(control.name, fallback="control")
            _write_table(folder / f"{name}.csv", (*KEY_COLUMNS, *columns), rows)


def _control_table(
    control: Control, dataset: Dataset
) -> tuple[Sequence[str], Iterator[Sequence[Cell]]]:
    columns: tuple[str, ...]
    if not control.is_choices:
        columns = ("label", "x", "y") + (() if control.is_points else ("width", "height"))
        return columns, _region_rows(control, dataset.images)
    source_columns = SOURCE_COLUMNS if dataset.has_sources else ()
    if not control.multiple:
        return ("label", *source_columns), _single_choice_rows(control, dataset)
    # a label may have the name of one of the first columns
    first_columns = (*KEY_COLUMNS, *source_columns)
    columns = tuple(
        f"label {name}" if name in first_columns else name for name in control.label_names
    )
    return (*source_columns, *columns), _multiple_choice_rows(control, dataset)


def _source_cells(control: Control, image: LabeledImage, dataset: Dataset) -> tuple[Cell, ...]:
    if not dataset.has_sources:
        return ()
    return image.source, image.confidence.get(control.name, "")


def _single_choice_rows(control: Control, dataset: Dataset) -> Iterator[Sequence[Cell]]:
    for image in dataset.images:
        for label in image.choices(control) or ():
            yield (*_key_cells(image), label, *_source_cells(control, image, dataset))


def _multiple_choice_rows(control: Control, dataset: Dataset) -> Iterator[Sequence[Cell]]:
    for image in dataset.images:
        chosen = image.choices(control)
        if chosen is not None:
            available = (image.task.available_labels or {}).get(control.name, frozenset())
            cells = (
                int(name in chosen) if name in chosen | available else ""
                for name in control.label_names
            )
            yield (*_key_cells(image), *_source_cells(control, image, dataset), *cells)


def _region_rows(control: Control, images: Iterable[LabeledImage]) -> Iterator[Sequence[Cell]]:
    for image in images:
        if image.size is None:
            raise ValueError(f"the size of {image.file_name} was not determined")
        width, height = image.size.width, image.size.height
        for region in image.regions(control) or ():
            position = (region.x0 * width, region.y0 * height)
            extent = ((region.x1 - region.x0) * width, (region.y1 - region.y0) * height)
            pixels = position if control.is_points else position + extent
            yield (
                *_key_cells(image),
                region.label,
                *(round(value, PIXEL_DECIMALS) for value in pixels),
            )


def _key_cells(image: LabeledImage) -> tuple[Cell, ...]:
    return image.file_name, image.task.id, image.split


def _size_cells(size: ImageSize | None) -> tuple[Cell, Cell]:
    return (size.width, size.height) if size else ("", "")


def _write_table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
