"""Decisions of people on labels: none is lost when several are made at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backend.store.confirmed_labels import ConfirmedLabels
from backend.store.label_answers import (
    LabelAnswer,
    read_label_answers,
    remove_label_answer,
    save_label_answer,
)
from backend.store.queue_front import (
    QueuedTask,
    QueueFront,
    StoredLabelError,
    StoredLabelErrors,
)

TASKS = range(24)


def make_suspect(task: int) -> StoredLabelError:
    return StoredLabelError(task, "healthy", "wilting", 0.1, "wrong label", "plant")


def at_once(work: Callable[[int], object]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, TASKS))


def save_suspects(folder: Path, tasks: Sequence[int]) -> QueueFront:
    front = QueueFront(folder)
    front.save_label_errors(StoredLabelErrors("v1", tuple(map(make_suspect, tasks))))
    return front


def test_label_errors_decided_at_the_same_time_are_all_removed(tmp_path: Path) -> None:
    front = save_suspects(tmp_path, [*TASKS, 99])

    def confirm(task: int) -> None:
        ConfirmedLabels(tmp_path).add(make_suspect(task))
        QueueFront(tmp_path).remove_label_error(make_suspect(task))

    at_once(confirm)
    assert [suspect.task for suspect in front.label_errors().suspects] == [99]
    assert ConfirmedLabels(tmp_path).without_confirmed(map(make_suspect, TASKS)) == []


def test_decisions_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.test_decisions import *\n"
        "for task in TASKS[int(sys.argv[2]) :: 3]:\n"
        "    ConfirmedLabels(Path(sys.argv[1])).add(make_suspect(task))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([*command, str(part)], cwd=root) for part in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert ConfirmedLabels(tmp_path).without_confirmed(map(make_suspect, TASKS)) == []


def test_label_answers_given_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    for task in TASKS[::2]:
        save_label_answer(tmp_path, LabelAnswer("plant", f"old {task}", "healthy"))

    def answer(task: int) -> None:
        if task % 2:
            save_label_answer(tmp_path, LabelAnswer("plant", f"new {task}", "healthy"))
        else:
            remove_label_answer(tmp_path, "plant", f"old {task}")

    at_once(answer)
    labels = {answer.label for answer in read_label_answers(tmp_path)}
    assert labels == {f"new {task}" for task in TASKS[1::2]}


def test_labels_from_the_queue_recorded_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    front = QueueFront(tmp_path)
    front.save_tasks([QueuedTask(task, "uncertain", 0.9) for task in TASKS])
    at_once(lambda task: QueueFront(tmp_path).record_labeled([task]))
    assert front.uncertain_labeled() == set(TASKS)


def test_a_label_check_does_not_list_what_was_decided_while_it_ran(tmp_path: Path) -> None:
    front = save_suspects(tmp_path, [1, 2, 3])
    known = front.label_errors()
    ConfirmedLabels(tmp_path).add(make_suspect(1))
    front.remove_label_error(make_suspect(1))
    front.remove_label_error(make_suspect(2))  # it was changed in Label Studio
    found = StoredLabelErrors("v2", tuple(map(make_suspect, [1, 2, 3, 4])))
    saved = front.save_label_errors(found, known)
    assert [suspect.task for suspect in saved] == [3, 4]
    assert front.label_errors() == StoredLabelErrors("v2", tuple(saved))
    front.save_label_errors(found, front.label_errors())
    assert [suspect.task for suspect in front.label_errors().suspects] == [2, 3, 4], "found again"
