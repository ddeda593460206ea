"""What a format of an export consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from backend.domain import Control
from backend.tools.dataset.labels import Dataset, LabeledImage


class DatasetWriter(ABC):
    """Writes labels in one format.

    Args:
        controls: controls of the project that the format holds.

    Attributes:
        title: name of the format in messages.
        content: what it holds, in words.
        needs_files: its labels are the places of the image files.
    """

    title: ClassVar[str]
    content: ClassVar[str]
    needs_files: ClassVar[bool] = False

    def __init__(self, controls: Sequence[Control]) -> None:
        self.controls = controls

    @staticmethod
    @abstractmethod
    def holds(control: Control) -> bool:
        """Return whether the format holds the labels of a control."""

    @property
    def needs_sizes(self) -> bool:
        """Whether labels are written in pixels."""
        return any(not control.is_choices for control in self.controls)

    def image_places(self, image: LabeledImage) -> Sequence[Path]:
        """Return where the file of an image is written, relative to the folder."""
        return [Path("images", image.file_name)]

    @abstractmethod
    def write_labels(self, folder: Path, dataset: Dataset) -> None:
        """Write the labels into a folder that has the files of the images already."""
