"""Classification as folders: one per split and class, as torchvision and ultralytics read them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from backend.domain import Control
from backend.tools.dataset.file_names import FileNames
from backend.tools.dataset.labels import SPLITS, Dataset, LabeledImage
from backend.tools.dataset.writer import DatasetWriter

CLASSES_TABLE = "classes.csv"


class ClassFolderWriter(DatasetWriter):
    """Writes images to folders ``SPLIT/CLASS``, below the control's name if there are several."""

    title = "A folder per class"
    content = "choices of one label per image (Choices)"
    needs_files = True

    def __init__(self, controls: Sequence[Control]) -> None:
        super().__init__(controls)
        names = FileNames()
        self._roots = {
            control.name: names.assign(control.name, "control") if len(controls) > 1 else ""
            for control in controls
        }
        self._folders = {control.name: _class_folder_names(control) for control in controls}

    @staticmethod
    def holds(control: Control) -> bool:
        """Return whether a control chooses one label per image."""
        return control.is_choices and not control.multiple

    def image_places(self, image: LabeledImage) -> list[Path]:
        """Return where the file of an image is written: once for each control."""
        return [
            Path(
                self._roots[control.name],
                image.split,
                self._folders[control.name][label],
                image.file_name,
            )
            for control in self.controls
            for label in image.choices(control) or ()
        ]

    def write_labels(self, folder: Path, dataset: Dataset) -> None:
        """Write ``classes.csv`` with the label of each folder, and create missing folders.

        A class has a folder in both splits where it has an image in one: readers number the classes
        by the folders that they find. Predicted images are in folders of their own.
        """
        for control in self.controls:
            labels = _find_labels(control, dataset.images)
            annotated = [image for image in dataset.images if image.split in SPLITS]
            root = folder / self._roots[control.name]
            folders = self._folders[control.name]
            for name in (folders[label] for label in _find_labels(control, annotated)):
                for split in SPLITS:
                    (root / split / name).mkdir(parents=True, exist_ok=True)
            with (root / CLASSES_TABLE).open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(("folder", "label"))
                writer.writerows((folders[n], n) for n in control.label_names if n in labels)


def _find_labels(control: Control, images: Iterable[LabeledImage]) -> set[str]:
    return {label for image in images for label in image.choices(control) or ()}


def _class_folder_names(control: Control) -> Mapping[str, str]:
    names = FileNames()
    return {
        label: names.assign(label, fallback=f"class-{number}")
        for number, label in enumerate(control.label_names)
    }
