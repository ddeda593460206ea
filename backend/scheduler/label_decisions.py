"""Confirm or change a listed label, or undo the change, as a person decides on the dashboard."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from backend.errors import UsageError
from backend.scheduler.jobs import ChangeLabelJob
from backend.scheduler.worker_pool import WorkerPool
from backend.store.confirmed_labels import ConfirmedLabels
from backend.store.label_changes import LabelChange, LabelChanges
from backend.store.queue_front import QueueFront, StoredLabelError

LabelDecision = Literal["right", "change", "undo"]


class LabelDecisions:
    """Carries out decisions about the listed labels of one project.

    Args:
        project: id of the project.
        folder: its folder.
        workers: worker processes that change labels in Label Studio.
    """

    def __init__(self, project: str, folder: Path, workers: WorkerPool) -> None:
        self._project = project
        self._workers = workers
        self._front = QueueFront(folder)
        self._confirmed = ConfirmedLabels(folder)
        self._changes = LabelChanges(folder)

    async def carry_out(self, decision: LabelDecision, error: StoredLabelError) -> bool:
        """Carry out a decision, and return whether a label has changed in Label Studio.

        Raises:
            NotFoundError: the label, or its change, is not listed.
            PrelabelError: the label could not be changed.
        """
        if decision == "undo":
            await self._undo(error)
        elif decision == "change":
            await self._change(error)
        else:
            await self._confirm(error)
        return decision != "right"

    async def _confirm(self, error: StoredLabelError) -> None:
        """Record that a label is right, so that it is not listed again."""
        await asyncio.to_thread(self._front.find_label_error, error)
        await asyncio.to_thread(self._confirmed.add, error)
        await asyncio.to_thread(self._front.remove_label_error, error)

    async def _change(self, error: StoredLabelError) -> None:
        """Change a label to the predicted one."""
        listed = await asyncio.to_thread(self._front.find_label_error, error)
        annotations = await self._replace_label(error, error.given, error.suggested, ())
        change = LabelChange(listed, annotations)
        await asyncio.to_thread(self._changes.add, change)
        await asyncio.to_thread(self._front.remove_label_error, error)

    async def _undo(self, error: StoredLabelError) -> None:
        """Restore the former label where it was changed, and list it again."""
        change = await asyncio.to_thread(self._changes.find, error)
        try:
            await self._replace_label(error, error.suggested, error.given, change.annotations)
        except UsageError:  # the label has changed again, so that there is nothing to undo
            await asyncio.to_thread(self._changes.remove, error)
            raise
        await asyncio.to_thread(self._changes.remove, error)
        await asyncio.to_thread(self._front.add_label_error, change.error)

    async def _replace_label(
        self, error: StoredLabelError, old: str, new: str, annotations: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Replace a label in annotations, or in all if there are none; return the changed ones."""
        job = ChangeLabelJob(self._project, error.task, error.control, old, new, annotations)
        async with self._workers.acquire() as worker:
            changed, _ = await worker.run(job)
        return tuple(changed)
