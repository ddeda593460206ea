"""Write boxes as a dataset for ultralytics: ``data.yaml``, and a text file per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backend.domain import Control, Region
from backend.json_records import JsonObject
from backend.tools.dataset.labels import SPLITS, Dataset, LabeledImage, iter_regions, label_names
from backend.tools.dataset.writer import DatasetWriter

DATA_FILE = "data.yaml"
CLASSES_FILE = "classes.txt"
"""One label per line, which Label Studio's own YOLO export has, too."""


class YoloWriter(DatasetWriter):
    """Writes ``data.yaml``, and a text file of boxes per image.

    An image without objects has an empty file. A split without images refers to the other one,
    because ultralytics requires both.
    """

    title = "YOLO"
    content = "boxes (RectangleLabels)"

    @staticmethod
    def holds(control: Control) -> bool:
        """Return whether a control draws boxes."""
        return control.kind == "boxes"

    @property
    def needs_sizes(self) -> bool:
        """Whether labels are written in pixels: YOLO's are 0 to 1."""
        return False

    def image_places(self, image: LabeledImage) -> list[Path]:
        """Return where the file of an image is written."""
        return [Path("images", image.split, image.file_name)]

    def write_labels(self, folder: Path, dataset: Dataset) -> None:
        """Write the labels, and the folders of the images where there are none."""
        names = label_names(dataset.boxes)
        numbers = {name: number for number, name in enumerate(names)}
        for split in SPLITS:
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for image in dataset.images:
            lines = _label_lines(image, dataset, numbers)
            file = folder / "labels" / image.split / f"{image.stem}.txt"
            file.write_text("".join(lines), encoding="utf-8")
        (folder / DATA_FILE).write_text(_format_description(dataset, names), encoding="utf-8")
        classes = "".join(f"{name}\n" for name in names)
        (folder / CLASSES_FILE).write_text(classes, encoding="utf-8")


def _format_description(dataset: Dataset, names: Sequence[str]) -> str:
    """Return ``data.yaml``; without ``path``, ultralytics looks for the folders beside it."""
    import yaml

    used_splits = {image.split for image in dataset.images}
    folders: JsonObject = {
        split: f"images/{split if split in used_splits else min(used_splits)}" for split in SPLITS
    }
    description: JsonObject = folders | {"names": dict(enumerate(names))}
    text: str = yaml.safe_dump(description, allow_unicode=True, sort_keys=False)
    return text


def _label_lines(
    image: LabeledImage, dataset: Dataset, numbers: Mapping[str, int]
) -> Iterator[str]:
    for regions in iter_regions(image, dataset.boxes):
        for box in regions:
            yield f"{numbers[box.label]} {_format_box(box)}\n"


def _format_box(box: Region) -> str:
    """Return center x, center y, width and height, 0 to 1."""
    values = (*box.center, box.x1 - box.x0, box.y1 - box.y0)
    return " ".join(f"{value:.6g}" for value in values)
