"""Rename a label of a project, and keep its annotations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.callbacks import ProgressCallback, StateCallback
from backend.domain import Control
from backend.errors import ConfigError, LabelStudioError, UsageError
from backend.label_studio.annotation_relabeling import (
    LabelRename,
    LabelRenamer,
    RenameCounts,
    is_refusal,
)
from backend.label_studio.labeling_config import read_config
from backend.loop.observe import LABEL_TIMES_FILE, load_label_times
from backend.runtime.project_session import ProjectSession
from backend.store.acceptance import AcceptanceStore
from backend.store.annotation_times import UpdateTimes, record_annotation_times
from backend.store.label_answers import (
    LabelAnswer,
    read_label_answers,
    remove_label_answer,
    save_label_answer,
)
from backend.store.record_files import log_once, write_backed_up
from backend.store.wake import request_wake

log = logging.getLogger("prelabel")


def rename_label(
    session: ProjectSession, rename: LabelRename, progress: ProgressCallback
) -> RenameCounts:
    """Rename a label in Label Studio; the caller holds the lock of the project's rounds.

    An interrupted rename is continued by the same call. If the config lacks the old label and has
    the new one, only the annotations are changed. If Label Studio refuses to change an annotation
    or a draft, the config keeps the old label, and the next round tries again. A training is
    requested as soon as annotations were changed.

    Args:
        session: the project.
        rename: what to rename; without a control, the only one with the label.
        progress: called with the number of annotations so far, and of all.

    Raises:
        UsageError: the labels do not fit the labeling config; nothing was changed.
        LabelStudioError: Label Studio refused; what was changed stays.
    """
    connection, folder = session.connection, session.folder
    xml = str(connection.client.get_project(session.number).get("label_config") or "")
    control = find_control(read_config(xml).controls, rename)
    rename = replace(rename, control=control.name)
    has_old, has_new = (name in control.label_names for name in (rename.old, rename.new))
    is_continued = any(
        answer.keeps_old and answer.new == rename.new
        for answer in read_label_answers(folder)
        if answer.is_about(rename.control, rename.old)
    )
    if has_old and has_new and not is_continued:
        raise UsageError(
            f"The labeling config has {rename.old!r} and {rename.new!r}. To merge them, remove "
            f"{rename.old!r} from it in Label Studio, and run this again."
        )
    answer = LabelAnswer(rename.control, rename.old, rename.new, keeps_old=has_old)
    save_label_answer(folder, answer)
    renamer = LabelRenamer(connection.client, connection.project_number, rename)
    if has_old and not has_new:
        renamer.add_new_label()
    _rename_in_home(session, rename)
    renamer.change_annotations(progress, lambda times: _record_changes(folder, times))
    if renamer.counts.refused:
        log_once(
            f"project {session.id}: Label Studio refused to change {renamer.counts.refused} "
            f"annotations and drafts with {rename.old!r}: {renamer.counts.reason}"
        )
        return renamer.counts
    renamer.remove_old_label()
    remove_label_answer(folder, rename.control, rename.old)
    if not has_old and renamer.counts == RenameCounts():
        raise UsageError(
            f"Neither the labeling config nor an annotation has the label {rename.old!r}."
        )
    request_wake(folder, train=True)  # a server that was woken before waits for the lock
    return renamer.counts


def find_control(controls: Sequence[Control], rename: LabelRename) -> Control:
    """Return the control of a rename.

    Args:
        controls: the served controls of the labeling config.
        rename: the rename; its control may be empty.

    Raises:
        UsageError: no control or several controls have the label, or the new name is not usable.
    """
    if not rename.new.strip() or rename.new != rename.new.strip() or rename.new == rename.old:
        raise UsageError(f"{rename.new!r} is not a new name for {rename.old!r}.")
    candidates = [c for c in controls if rename.control in ("", c.name)]
    matches = [c for c in candidates if rename.old in c.label_names]
    # without the old label: its annotations are moved to the new one
    matches = matches or [c for c in candidates if rename.new in c.label_names]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = " or ".join(f"--control {control.name}" for control in matches)
        raise UsageError(f"Several controls have this label: choose {names}.")
    known = "; ".join(f"{c.name}: {', '.join(c.label_names)}" for c in controls) or "none"
    raise UsageError(f"No control has the label {rename.old!r}. The labels are {known}.")


def apply_label_answers(session: ProjectSession, report: StateCallback) -> int:
    """Carry out the renames that people chose on the dashboard, or that were interrupted.

    A rename that Label Studio refuses is tried again in the next round.

    Args:
        session: the project.
        report: receives the progress.

    Returns:
        the number of changed annotations.

    Raises:
        LabelStudioError: Label Studio refused the token or is unreachable; the next round
            continues.
    """
    changed = 0
    for answer in read_label_answers(session.folder):
        if not answer.new:
            continue
        rename = LabelRename(answer.control, answer.label, answer.new)

        def show_progress(done: int, total: int, rename: LabelRename = rename) -> None:
            detail = f"Renaming {rename.old} to {rename.new}: annotation {done} of {total}"
            report("observing", done / max(total, 1), detail)

        try:
            changed += rename_label(session, rename, show_progress).annotations
        except (UsageError, ConfigError) as error:  # the config was changed since: ask again
            log.warning("project %s: %s", session.id, error)
            remove_label_answer(session.folder, answer.control, answer.label, answer.new)
        except LabelStudioError as error:
            if not is_refusal(error):
                raise
            log_once(f"project {session.id}: renaming {rename.old!r}: {error}")
    return changed


def _record_changes(folder: Path, times: Mapping[int, UpdateTimes]) -> None:
    """Record the times of changed annotations, and request a training.

    No version knows the new name. The request outlives this round, which may fail or be repeated.
    """
    record_annotation_times(folder, times)
    request_wake(folder, train=True)


def _rename_in_home(session: ProjectSession, rename: LabelRename) -> None:
    """Rename the label in what is stored about annotations."""
    times = load_label_times(session.folder)
    control_times = times.get(rename.control, {})
    if rename.old in control_times:
        added_at = control_times[rename.old]
        control_times[rename.new] = min(added_at, control_times.get(rename.new, added_at))
        write_backed_up(session.folder / LABEL_TIMES_FILE, times)
    store = AcceptanceStore(session.folder)
    state = store.read()
    given = {
        task: replace(record, answer=_rename_in_answer(record.answer, rename))
        for task, record in state.given.items()
    }
    if not state.problem and given != state.given:
        store.write(replace(state, given=given))


def _rename_in_answer(answer: Any, rename: LabelRename) -> Any:
    """Rename a label in an accepted prediction, which has labels or rows that start with one."""

    def rename_row(row: Any) -> Any:
        if isinstance(row, list):
            return [rename.new if row[0] == rename.old else row[0], *row[1:]]
        return rename.new if row == rename.old else row

    return {
        control: [rename_row(row) for row in rows] if control == rename.control else rows
        for control, rows in answer.items()
    }
