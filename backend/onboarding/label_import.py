"""Write the labels of a source to the tasks of a project, as annotations or as suggestions.

A task that has an annotation keeps it, so that an import can be repeated and continued.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from backend.callbacks import ProgressCallback
from backend.domain import Control, Region
from backend.errors import ImageError, LabelStudioError, UsageError
from backend.label_studio import Json
from backend.label_studio.label_results import (
    IMPORTED_VERSION,
    format_imported_choices,
    format_imported_regions,
)
from backend.label_studio.labeling_config import read_config
from backend.onboarding.box_frame import ImageFrame, to_upright_region
from backend.onboarding.image_folder import SkippedFile
from backend.onboarding.image_import import ImportSummary
from backend.onboarding.label_sources.source import FORMAT_NAMES, ImageLabels, LabelSource
from backend.onboarding.task_index import (
    AMBIGUOUS_IMAGE_REASON,
    UNKNOWN_IMAGE_REASON,
    LabelTask,
    TaskIndex,
)

SUGGESTION_BATCH_SIZE = 200
MAX_NAMED_LABELS = 20
ANNOTATED_REASON = "image that is annotated already"
SUGGESTED_REASON = "image that has imported suggestions already"
CONTRADICTION_REASON = "image with several labels, of which only one can apply"
INCOMPLETE_REASON = "usable box of an image with others that are not: annotations must be complete"


class LabelRole(StrEnum):
    """What imported labels become; the value is what the command line calls it."""

    ANNOTATIONS = "annotations"
    SUGGESTIONS = "suggestions"


class LabelWriter(Protocol):
    """The part of Label Studio's API that an import of labels writes to."""

    def create_annotation(self, task: int, result: Sequence[Json]) -> int:
        """Annotate a task in the name of the token's user."""
        ...

    def import_predictions(self, number: int, predictions: Sequence[Json]) -> int:
        """Add predictions and return their number."""
        ...


@dataclass
class LabelImportSummary:
    """The result of an import of labels.

    Attributes:
        image_count: images that got labels now.
        label_count: labels that were written.
        skipped: labels that were not, by reason.
    """

    image_count: int = 0
    label_count: int = 0
    skipped: ImportSummary = field(default_factory=ImportSummary)

    def skip(self, labels: ImageLabels, reason: str, count: int | None = None) -> None:
        """Count labels that are not imported; an image without labels counts as one."""
        path = labels.paths[0] if labels.paths else "?"
        for _ in range(max(1, _label_count(labels)) if count is None else count):
            self.skipped.add_skipped(SkippedFile(path, reason))


@dataclass
class _TaskLabels:
    """The labels to import for one task; copies of an image in the source are merged.

    Attributes:
        is_exact: the image was matched by its whole path or content, not only the path's end.
    """

    task: LabelTask
    is_exact: bool
    images: list[ImageLabels]


@dataclass(frozen=True)
class LabelMapping:
    """Where labels go.

    Attributes:
        control: the control that they belong to.
        names: label of the source → label of the control.
        missing: labels of the source that the control lacks.
    """

    control: Control
    names: Mapping[str, str]
    missing: tuple[str, ...]

    def describe_missing(self) -> str:
        """Return the missing labels as text."""
        listed = ", ".join(self.missing[:MAX_NAMED_LABELS])
        more = len(self.missing) - MAX_NAMED_LABELS
        return f"{listed}, and {more} more" if more > 0 else listed


def map_labels(config: str, source: LabelSource) -> LabelMapping:
    """Return the control of a labeling config that has most of a source's labels.

    Raises:
        UsageError: it has no control for such labels.
    """
    kinds = ("boxes", "points") if source.has_boxes else ("choices",)
    mappings = [
        _map_to_control(control, source)
        for control in read_config(config).controls
        if control.kind in kinds
    ]
    if not mappings:
        tags = "RectangleLabels or KeyPointLabels" if source.has_boxes else "Choices"
        raise UsageError(
            f"The labels are {source.description}, and the labeling config has no {tags} that "
            "Prelabel serves. Add one in Label Studio (Settings → Labeling Interface)."
        )
    return max(mappings, key=lambda mapping: (len(mapping.names), mapping.control.kind == "boxes"))


def require_labels(mapping: LabelMapping, source: LabelSource, *, known_only: bool) -> None:
    """Make sure that the labeling config has the labels of a source.

    Raises:
        UsageError: it lacks all, or some and the others shall not be imported alone.
    """
    if mapping.missing and not (known_only and mapping.names):
        raise UsageError(
            f"The labeling config lacks labels of {FORMAT_NAMES[source.format]}: "
            f"{mapping.describe_missing()}. Nothing was written. Add them in Label Studio "
            "(Settings → Labeling Interface), or import the others with --known-labels-only."
        )


def _map_to_control(control: Control, source: LabelSource) -> LabelMapping:
    by_folded_name: dict[str, list[str]] = {}
    for name in control.label_names:
        by_folded_name.setdefault(name.casefold(), []).append(name)
    names: dict[str, str] = {}
    for name in source.label_names:
        candidates = by_folded_name.get(name.casefold(), [])
        if name in control.label_names:
            names[name] = name
        elif len(candidates) == 1:
            names[name] = candidates[0]
    missing = tuple(name for name in source.label_names if name not in names)
    return LabelMapping(control, names, missing)


class LabelImporter:
    """Imports the labels of one source into one project.

    Args:
        writer: Label Studio.
        number: the project's.
        mapping: returned by :func:`map_labels`.
        tasks: tasks of the project.
        load_frame: returns how a task's image is stored; raises ``ImageError``.
        suggested_tasks: tasks that have an imported suggestion.
    """

    def __init__(
        self,
        writer: LabelWriter,
        number: int,
        mapping: LabelMapping,
        tasks: TaskIndex,
        load_frame: Callable[[LabelTask], ImageFrame],
        suggested_tasks: frozenset[int] = frozenset(),
    ) -> None:
        self._writer = writer
        self._number = number
        self._mapping = mapping
        self._tasks = tasks
        self._load_frame = load_frame
        self._suggested_tasks = suggested_tasks
        self._summary = LabelImportSummary()

    def run(
        self, source: LabelSource, role: LabelRole, progress: ProgressCallback
    ) -> LabelImportSummary:
        """Import the labels.

        Args:
            source: the labels.
            role: what they become.
            progress: called with the number of images so far, and of all.

        Raises:
            LabelStudioError: Label Studio refused; what was written stays.
        """
        by_task = self._match_tasks(source)
        entries = [by_task[id] for id in sorted(by_task)]
        if role is LabelRole.ANNOTATIONS:
            self._write_annotations(entries, progress)
        else:
            self._write_suggestions(entries, progress)
        return self._summary

    # -- match ------------------------------------------------------------------------------

    def _match_tasks(self, source: LabelSource) -> dict[int, _TaskLabels]:
        by_task: dict[int, _TaskLabels] = {}
        ambiguous: set[int] = set()
        for labels in source.read():
            match = self._tasks.find(labels.paths, by_stem=labels.by_stem)
            if isinstance(match, str):
                reason = (
                    labels.unusable[0].reason if not labels.paths and labels.unusable else match
                )
                self._summary.skip(labels, reason)
                continue
            if source.format == "folders" and self._tasks.is_other_file(match, labels.paths[0]):
                self._summary.skip(labels, UNKNOWN_IMAGE_REASON)
                continue
            task, known = match.task, by_task.get(match.task.id)
            if known is None and task.id not in ambiguous:
                by_task[task.id] = _TaskLabels(task, match.is_exact, [labels])
            elif known is not None and self._is_same_image(known, labels, match.is_exact):
                known.images.append(labels)
            elif known is not None and known.is_exact:
                self._summary.skip(labels, UNKNOWN_IMAGE_REASON)
            elif match.is_exact:
                self._skip_all(by_task.pop(task.id, None), UNKNOWN_IMAGE_REASON)
                by_task[task.id] = _TaskLabels(task, True, [labels])
            else:
                self._skip_all(by_task.pop(task.id, None), AMBIGUOUS_IMAGE_REASON)
                self._summary.skip(labels, AMBIGUOUS_IMAGE_REASON)
                ambiguous.add(task.id)
        return by_task

    @staticmethod
    def _is_same_image(known: _TaskLabels, labels: ImageLabels, is_exact: bool) -> bool:
        same_path = known.images[0].paths == labels.paths
        return same_path or (known.is_exact and is_exact)

    def _skip_all(self, entry: _TaskLabels | None, reason: str) -> None:
        for labels in entry.images if entry else ():
            self._summary.skip(labels, reason)

    # -- convert ----------------------------------------------------------------------------

    def _format_result(self, entry: _TaskLabels, role: LabelRole) -> tuple[list[Json], int] | None:
        """Return the result of a task with its number of labels; None if there is nothing."""
        if self._mapping.control.is_choices:
            return self._format_choices(entry)
        return self._format_boxes(entry, role)

    def _format_choices(self, entry: _TaskLabels) -> tuple[list[Json], int] | None:
        control, names = self._mapping.control, self._mapping.names
        chosen: set[str] = set()
        for labels in entry.images:
            self._skip_missing(labels, labels.choices)
            self._skip_unusable(labels)
            chosen |= {names[name] for name in labels.choices if name in names}
        if len(chosen) > 1 and not control.multiple:
            self._skip_all(entry, CONTRADICTION_REASON)
            return None
        if not chosen:
            return None
        return format_imported_choices(entry.task.id, control, chosen), len(chosen)

    def _format_boxes(self, entry: _TaskLabels, role: LabelRole) -> tuple[list[Json], int] | None:
        try:
            frame = self._load_frame(entry.task)
        except ImageError as error:
            self._skip_all(entry, f"image that cannot be read: {error.reason}")
            return None
        names = self._mapping.names
        regions: dict[Region, None] = {}
        unusable_count = 0
        for labels in entry.images:
            self._skip_missing(labels, [box.label for box in labels.boxes])
            unusable_count += self._skip_unusable(labels)
            for box in labels.boxes:
                region = to_upright_region(box, labels, frame) if box.label in names else None
                if isinstance(region, str):
                    self._summary.skip(labels, region, 1)
                    unusable_count += 1
                elif region is not None:
                    corners = (region.x0, region.y0, region.x1, region.y1)
                    regions[Region(names[region.label], *corners)] = None
        if unusable_count and (role is LabelRole.ANNOTATIONS or not regions):
            self._summary.skip(entry.images[0], INCOMPLETE_REASON, len(regions))
            return None
        control = self._mapping.control
        result = format_imported_regions(entry.task.id, control, tuple(regions), frame.size)
        return result, len(regions)

    def _skip_missing(self, labels: ImageLabels, used: Sequence[str]) -> None:
        counts = Counter(name for name in used if name not in self._mapping.names)
        for name, count in counts.items():
            self._summary.skip(labels, f"label that the labeling config lacks: {name}", count)

    def _skip_unusable(self, labels: ImageLabels) -> int:
        """Count unusable labels; return how many of them may be labels of the control."""
        for one in labels.unusable:
            self._summary.skip(labels, one.reason, 1)
        return sum(not one.label or one.label in self._mapping.names for one in labels.unusable)

    # -- write ------------------------------------------------------------------------------

    def _write_annotations(
        self, entries: Sequence[_TaskLabels], progress: ProgressCallback
    ) -> None:
        for done, entry in enumerate(entries, 1):
            if entry.task.annotated:
                self._skip_all(entry, ANNOTATED_REASON)
            elif (formatted := self._format_result(entry, LabelRole.ANNOTATIONS)) is not None:
                result, count = formatted
                self._writer.create_annotation(entry.task.id, result)
                self._summary.image_count += 1
                self._summary.label_count += count
            progress(done, len(entries))

    def _write_suggestions(
        self, entries: Sequence[_TaskLabels], progress: ProgressCallback
    ) -> None:
        rows: list[Json] = []
        for done, entry in enumerate(entries, 1):
            if entry.task.annotated or entry.task.id in self._suggested_tasks:
                reason = ANNOTATED_REASON if entry.task.annotated else SUGGESTED_REASON
                self._skip_all(entry, reason)
            elif (formatted := self._format_result(entry, LabelRole.SUGGESTIONS)) is not None:
                result, count = formatted
                rows.append(
                    {"task": entry.task.id, "result": result, "model_version": IMPORTED_VERSION}
                )
                self._summary.image_count += 1
                self._summary.label_count += count
            if len(rows) == SUGGESTION_BATCH_SIZE or (rows and done == len(entries)):
                self._send_suggestions(rows)
                rows = []
            progress(done, len(entries))

    def _send_suggestions(self, rows: Sequence[Json]) -> None:
        created = self._writer.import_predictions(self._number, rows)
        if created != len(rows):
            raise LabelStudioError(
                f"Label Studio accepted {created} of {len(rows)} suggestions, because the project "
                "changed in the meantime: run the command again."
            )


def _label_count(labels: ImageLabels) -> int:
    return len(labels.choices) + len(labels.boxes) + len(labels.unusable)
