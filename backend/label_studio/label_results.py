"""Labels that were made outside of Label Studio → results of annotations and predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

from backend.domain import Control, ImageSize, RegionPrediction, Regions
from backend.label_studio import Json
from backend.label_studio.region_results import format_regions

IMPORTED_VERSION = "imported labels"
"""Model version of imported suggestions."""
RESULT_SALT = "imported"
"""Makes region ids differ from those of predictions."""


def format_imported_choices(task: int, control: Control, labels: Collection[str]) -> list[Json]:
    """Return the result of an image with labels for the whole image.

    Args:
        task: the task's number.
        control: control of choices.
        labels: at least one.
    """
    id = hashlib.sha256(f"{task}/{control.name}{RESULT_SALT}".encode()).hexdigest()[:10]
    return [
        {
            "id": id,
            "from_name": control.name,
            "to_name": control.to_name,
            "type": "choices",
            "value": {"choices": [name for name in control.label_names if name in labels]},
        }
    ]


def format_imported_regions(
    task: int, control: Control, regions: Regions, size: ImageSize
) -> list[Json]:
    """Return the result of an image with regions; of a point control, their centres.

    Args:
        task: the task's number.
        control: control of boxes or points.
        regions: may be empty.
        size: size of the upright image.
    """
    prediction = RegionPrediction(control.name, regions, (1.0,) * len(regions), size)
    items = format_regions(task, prediction, replace(control, threshold=0.0), RESULT_SALT)
    return [{key: value for key, value in item.items() if key != "score"} for item in items]
