"""Rename a label in the config, the annotations and the drafts of a project in Label Studio.

Label Studio does not move annotations to a new label. Its settings page even refuses a config
without a label that annotations use. So the new label is added first, then all annotations and
drafts are changed, and the old label is removed at the end. At every moment each annotation has a
label that the config knows, and an interrupted rename continues where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.callbacks import ProgressCallback
from backend.domain import Control
from backend.errors import LabelStudioError, LabelStudioNotFoundError
from backend.label_studio import Json
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.config_edit import add_label_beside, remove_label
from backend.label_studio.json_values import read_object, read_objects, read_strings
from backend.label_studio.task_results import is_machine_annotation

MAX_PASSES = 3
"""Passes over the annotations: people may submit the old label until their page is reloaded."""
REPORT_SIZE = 100
"""Changed annotations per call of the callback that stores their times."""
ChangesCallback = Callable[[Mapping[int, tuple[str, str]]], None]
"""Receives id → ``updated_at`` before and after the change, of annotations by people."""
TOKEN_REFUSED_STATUS = 401
LABEL_LIST_SUFFIXES = ("choices", "labels")
"""Ends of the keys whose values are lists of labels, such as ``rectanglelabels``."""


@dataclass(frozen=True)
class LabelRename:
    """A new name of a label.

    Attributes:
        control: name of the control.
        old: the label.
        new: its new name.
    """

    control: str
    old: str
    new: str


@dataclass
class RenameCounts:
    """What a rename changed.

    Attributes:
        annotations: number of annotations.
        drafts: number of drafts.
        refused_annotations: number of annotations that Label Studio did not let change.
        refused_drafts: number of drafts that Label Studio did not let change.
        reason: what Label Studio answered to the last refused change.
    """

    annotations: int = 0
    drafts: int = 0
    refused_annotations: int = 0
    refused_drafts: int = 0
    reason: str = ""

    @property
    def refused(self) -> int:
        """The number of annotations and drafts that still have the old label."""
        return self.refused_annotations + self.refused_drafts


def is_refusal(error: LabelStudioError) -> bool:
    """Return whether Label Studio answered and refused one request, not the token or all."""
    return error.status >= 400 and error.status != TOKEN_REFUSED_STATUS


def rename_in_result(result: Sequence[Json], rename: LabelRename) -> list[Json] | None:
    """Return the result of an annotation with the new name; None if it has not the old one."""
    renamed = [_rename_in_item(item, rename) for item in result]
    return None if renamed == list(result) else renamed


def count_removed_labels(
    annotations: Iterable[Json], controls: Sequence[Control]
) -> Counter[tuple[str, str]]:
    """Count the annotations with labels that their control does not have any more.

    Skipped annotations do not count.

    Args:
        annotations: annotations of any tasks.
        controls: the served controls.

    Returns:
        (control, label) → number of annotations.
    """
    names = {control.name: frozenset(control.label_names) for control in controls}
    counts: Counter[tuple[str, str]] = Counter()
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            continue
        items = read_objects(annotation, "result")
        used = {(str(item.get("from_name")), label) for item in items for label in _labels(item)}
        counts.update(
            (name, label) for name, label in used if name in names and label not in names[name]
        )
    return counts


class LabelRenamer:
    """Renames a label in one project.

    Args:
        client: Label Studio.
        number: the project's number.
        rename: what to rename.
    """

    def __init__(self, client: LabelStudioClient, number: int, rename: LabelRename) -> None:
        self._client = client
        self._number = number
        self._rename = rename
        self._machine_user = 0
        self._refused: set[int] = set()
        self._times: dict[int, tuple[str, str]] = {}
        self.counts = RenameCounts()

    def add_new_label(self) -> None:
        """Add the new label to the config, beside the old one."""
        xml = self._config()
        self._save_config(
            xml,
            add_label_beside(xml, self._rename.control, self._rename.old, self._rename.new),
        )

    def remove_old_label(self) -> None:
        """Remove the old label from the config, also where only conditions have it."""
        xml = self._config()
        self._save_config(
            xml, remove_label(xml, self._rename.control, self._rename.old, self._rename.new)
        )

    def change_annotations(self, progress: ProgressCallback, on_changed: ChangesCallback) -> None:
        """Use the new label in all annotations and drafts, and count those that are refused.

        Args:
            progress: called with the number of annotations so far, and of all.
            on_changed: called after some annotations were changed, also before an error.

        Raises:
            LabelStudioError: Label Studio refused the token or a list, or is unreachable; what was
                changed stays, and the next call continues.
        """
        self._machine_user = self._client.find_machine_user()
        try:
            for _ in range(MAX_PASSES):
                changed = self.counts.annotations
                self._change_all_annotations(progress, on_changed)
                if self.counts.annotations == changed:
                    break
        finally:
            if self.counts.annotations:
                self._report_changes(on_changed)
        for draft in self._client.iter_drafts(self._number):
            self._change_draft(draft)

    def _report_changes(self, on_changed: ChangesCallback) -> None:
        on_changed(self._times)
        self._times = {}

    def _change_all_annotations(
        self, progress: ProgressCallback, on_changed: ChangesCallback
    ) -> None:
        counters = self._client.get_counters(self._number)
        total = int(counters.get("total_annotations_number") or 0)
        total += int(counters.get("skipped_annotations_number") or 0)
        done = 0
        for task, rows in self._client.iter_annotations(self._number):
            for annotation in rows:
                if rename_in_result(read_objects(annotation, "result"), self._rename):
                    self._change_annotation(task, int(annotation["id"]))
                if len(self._times) >= REPORT_SIZE:
                    self._report_changes(on_changed)
                done += 1
                progress(min(done, total), total)

    def _change_annotation(self, task: int, id: int) -> None:
        """Change an annotation; it is read again, because somebody may have updated it."""
        if id in self._refused:  # in the pass before
            return
        try:
            annotation = self._client.get_annotation(id)
            result = rename_in_result(read_objects(annotation, "result"), self._rename)
            if result is None:
                return
            if is_machine_annotation(annotation, self._machine_user):
                # an update would make it look like a person's; if this is interrupted, the image
                # is open again, and accepted again
                self._client.delete_annotation(id)
                self._client.create_annotation(task, result, self._machine_user)
            else:
                updated = self._client.update_annotation(id, result)
                times = (annotation.get("updated_at"), updated.get("updated_at"))
                self._times[id] = (str(times[0] or ""), str(times[1] or ""))
        except LabelStudioNotFoundError:  # it was deleted meanwhile
            return
        except LabelStudioError as error:
            self._note_refusal(error)
            self._refused.add(id)
            self.counts.refused_annotations += 1
        else:
            self.counts.annotations += 1

    def _change_draft(self, draft: Json) -> None:
        result = rename_in_result(read_objects(draft, "result"), self._rename)
        if result is None:
            return
        try:
            self._client.update_draft(int(draft["id"]), result)
        except LabelStudioNotFoundError:  # it was submitted or deleted meanwhile
            return
        except LabelStudioError as error:
            self._note_refusal(error)
            self.counts.refused_drafts += 1
        else:
            self.counts.drafts += 1

    def _note_refusal(self, error: LabelStudioError) -> None:
        if not is_refusal(error):
            raise error
        self.counts.reason = str(error)

    def _config(self) -> str:
        return str(self._client.get_project(self._number).get("label_config") or "")

    def _save_config(self, previous: str, xml: str) -> None:
        if xml != previous:
            self._client.set_label_config(self._number, xml)


def _rename_in_item(item: Json, rename: LabelRename) -> Json:
    if item.get("from_name") != rename.control or rename.old not in _labels(item):
        return item
    value = {
        key: _rename_in_list(labels, rename) if _is_label_list(key, labels) else labels
        for key, labels in read_object(item, "value").items()
    }
    return {**item, "value": value}


def _rename_in_list(labels: Sequence[object], rename: LabelRename) -> list[object]:
    renamed = [rename.new if label == rename.old else label for label in labels]
    return [label for index, label in enumerate(renamed) if label not in renamed[:index]]


def _labels(item: Json) -> Iterator[str]:
    value = read_object(item, "value")
    for key, labels in value.items():
        if _is_label_list(key, labels):
            yield from read_strings(value, key)


def _is_label_list(key: str, value: object) -> bool:
    return key.endswith(LABEL_LIST_SUFFIXES) and isinstance(value, list)
