"""Observations of a project and the queue order that follows from them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, Label, Task
from backend.label_studio.labeling_config import LabelingConfig
from backend.loop.observe import Observation, ProjectFingerprint
from backend.loop.publish.queue_order import QueueOrder, build_queue_order

CHOICE_CONTROL = Control("colour", "image", "image", (Label("red"), Label("blue")))


EMPTY_FINGERPRINT = ProjectFingerprint("", 0, 0, "", "", "", "", "")


def make_observation(
    count: int, labeled: dict[int, str], skipped: frozenset[int] = frozenset()
) -> Observation:
    tasks = tuple(
        Task(
            id=i,
            images={"image": f"{i}.png"},
            open=i not in labeled,
            choices={"colour": frozenset({labeled[i]})} if i in labeled else None,
            skipped=i in skipped,
        )
        for i in range(count)
    )
    return Observation(
        EMPTY_FINGERPRINT, "p", LabelingConfig((CHOICE_CONTROL,), {}), tasks, Counter()
    )


def make_embeddings(count: int) -> dict[int, Floats]:
    """Return embeddings in which tasks with the same number modulo 10 are similar."""
    random = np.random.default_rng(0)
    kinds = random.standard_normal((10, 16))
    found = kinds[np.arange(count) % 10] + 0.3 * random.standard_normal((count, 16))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return dict(enumerate(found.astype(np.float32)))


def make_queue_order(
    count: int = 100, labeled: dict[int, str] | None = None, **more: list[int]
) -> QueueOrder:
    sought = more.get("sought", [])
    return build_queue_order(
        make_observation(count, labeled or {}), make_embeddings(count), {}, sought, seed=0
    )
