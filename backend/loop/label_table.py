"""The labels of a project, as a version remembers them and as a head learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, Places
from backend.inference.embed import Embedded
from backend.loop.observe import Observation
from backend.store.versions import Labels
from backend.training.head import Examples


def label_table(seen: Observation) -> dict[str, dict[str, list[Any]]]:
    """All answers of a project as plain JSON: what a version is made from and compared by."""
    return {
        str(task.id): {name: sorted(answer) for name, answer in (task.answers or {}).items()}
        | {name: rows_of(places) for name, places in (task.places or {}).items()}
        for task in seen.labeled
    }


def rows_of(places: Places) -> list[list[Any]]:
    """``[label, x0, y0, x1, y1]``, in an order that does not depend on who drew what first."""
    numbers = [[p.label, *(round(v, 6) for v in (p.x0, p.y0, p.x1, p.y1))] for p in places]
    return sorted(numbers)


def changes(before: Labels, now: Labels) -> int:
    """How many tasks were answered, answered differently, or lost their answer."""
    return sum(before.get(task) != now.get(task) for task in before.keys() | now.keys())


def examples_of(seen: Observation, control: Control, embedded: Embedded) -> Examples:
    """The labeled images of a control that could be read, in the order of their tasks."""
    used = [
        task
        for task in seen.labeled
        if control.name in (task.answers or {})
        and task.images.get(control.image_key) in embedded.vectors
    ]
    vectors = [embedded.vectors[task.images[control.image_key]] for task in used]
    return Examples(
        tasks=tuple(task.id for task in used),
        vectors=np.stack(vectors) if vectors else np.zeros((0, 0), dtype=np.float32),
        answers=tuple((task.answers or {})[control.name] for task in used),
        asked=tuple((task.asked or {})[control.name] for task in used),
        audit=np.array([seen.is_audit(task) for task in used], dtype=bool),
    )


def pool_of(seen: Observation, control: Control, embedded: Embedded, dim: int) -> Floats:
    """The embeddings of all images of a control, labeled or not: (m, d) float32."""
    found = [
        embedded.vectors[task.images[control.image_key]]
        for task in seen.tasks
        if task.images.get(control.image_key) in embedded.vectors
    ]
    return np.stack(found) if found else np.zeros((0, dim), dtype=np.float32)
