"""The labels of a project as an export contains them: one entry per labeled or predicted image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from backend.domain import Control, ImageSize, LabelSet, Regions, Task
from backend.tools.dataset.file_names import split_suffix

Split = Literal["train", "val", "predicted"]
SPLITS: tuple[Split, ...] = ("train", "val")
"""The splits of labeled images; ``predicted`` has images that nobody labeled."""
PREDICTED_SPLIT: Split = "predicted"


@dataclass(frozen=True)
class LabeledImage:
    """An image with the labels that were made on it.

    Attributes:
        task: its task; the address of an image inside the task's data is left out.
        image_key: field of the task's data with the image.
        file_name: unique in the export.
        split: the part of the dataset that it belongs to.
        size: pixels of the upright image; None until it is known.
        confidence: control → confidence of its prediction, 0 to 1; empty for an annotated image.
    """

    task: Task
    image_key: str
    file_name: str
    split: Split
    size: ImageSize | None = None
    confidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What the labels are: an ``annotation`` or a ``prediction``."""
        return "prediction" if self.split == PREDICTED_SPLIT else "annotation"

    @property
    def stem(self) -> str:
        """The file name without the suffix of an image."""
        return split_suffix(self.file_name)[0]

    def regions(self, control: Control) -> Regions | None:
        """Return the regions of a control; None where nobody annotated it on this image."""
        known = (self.task.regions or {}).get(control.name)
        return known if control.image_key == self.image_key else None

    def choices(self, control: Control) -> LabelSet | None:
        """Return the labels chosen for a control; None where nobody annotated it."""
        known = (self.task.choices or {}).get(control.name)
        return known if control.image_key == self.image_key else None


@dataclass(frozen=True)
class Dataset:
    """The labels of a project that a format holds.

    Attributes:
        title: title of the project.
        controls: controls that the format holds, in the order of the config.
        images: by task id.
        left_out: number of things that are not exported, by reason.
        is_val_audit: ``val`` is the audit set; else a tenth of the tasks, chosen by hash.
        has_sources: it was made with predictions, so that tables have the source of each label.
    """

    title: str
    controls: tuple[Control, ...]
    images: tuple[LabeledImage, ...]
    left_out: Counter[str]
    is_val_audit: bool
    has_sources: bool = False

    @property
    def boxes(self) -> tuple[Control, ...]:
        """The controls of boxes."""
        return tuple(control for control in self.controls if control.kind == "boxes")

    @property
    def points(self) -> tuple[Control, ...]:
        """The controls of points."""
        return tuple(control for control in self.controls if control.is_points)


def label_names(controls: Iterable[Control]) -> list[str]:
    """Return the labels of some controls, each once, in the order of the config."""
    return list(dict.fromkeys(name for control in controls for name in control.label_names))


def iter_regions(image: LabeledImage, controls: Iterable[Control]) -> Iterator[Regions]:
    """Yield the known regions of some controls on an image."""
    for control in controls:
        regions = image.regions(control)
        if regions is not None:
            yield regions
