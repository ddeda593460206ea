"""A report that grows line by line, by checks that never hang."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from backend.doctor.check_result import CheckResult, failed
from backend.errors import PrelabelError

T = TypeVar("T")
CHECK_TIMEOUT_SECONDS = 10.0
"""Seconds that a check may take where nothing else is said."""
BUG_REPORT_FIX = "this is a defect of Prelabel: please report it"


class CheckReport:
    """Lines so far.

    Args:
        on_result: told each line at once.
        project: the number of the project that the next lines are about; 0: of none.
    """

    def __init__(self, on_result: Callable[[CheckResult], None], project: int = 0) -> None:
        self.results: list[CheckResult] = []
        self._on_result = on_result
        self._project = project

    def for_project(self, project: int) -> CheckReport:
        """The same report, with lines about a project."""
        project_report = CheckReport(self._on_result, project)
        project_report.results = self.results
        return project_report

    def add(self, *new_results: CheckResult) -> None:
        """Write lines."""
        for result in new_results:
            result = replace(result, project=self._project)
            self.results.append(result)
            self._on_result(result)

    def run(
        self,
        check: str,
        check_function: Callable[[], T],
        fix: str,
        seconds: float = CHECK_TIMEOUT_SECONDS,
    ) -> T | None:
        """What a question led to; where it fails or takes too long, a line says so.

        It works in a thread of its own, which is left alone when its time is over: the process
        ends without it.

        Args:
            check: its name.
            check_function: the question.
            fix: of a failure.
            seconds: that it may take.
        """
        answers: queue.SimpleQueue[T | _FailedCheck] = queue.SimpleQueue()
        thread = threading.Thread(
            target=lambda: answers.put(_run_check(check, check_function, fix)), daemon=True
        )
        thread.start()
        try:
            answer = answers.get(timeout=seconds)
        except queue.Empty:
            self.add(failed(check, f"no answer within {seconds:.0f} s", fix))
            return None
        if isinstance(answer, _FailedCheck):
            self.add(answer.result)
            return None
        return answer

    def run_check(
        self,
        check: str,
        check_function: Callable[[], CheckResult | Sequence[CheckResult]],
        fix: str,
        seconds: float = CHECK_TIMEOUT_SECONDS,
    ) -> bool:
        """Write what a check saw; whether all of it is good. See :meth:`run`."""
        outcome = self.run(check, check_function, fix, seconds)
        if outcome is None:
            return False
        check_results = [outcome] if isinstance(outcome, CheckResult) else list(outcome)
        self.add(*check_results)
        return all(line.state == "good" for line in check_results)


class _FailedCheck:
    def __init__(self, line: CheckResult) -> None:
        self.result = line


def _run_check(check: str, check_function: Callable[[], T], fix: str) -> T | _FailedCheck:
    try:
        return check_function()
    except PrelabelError as error:
        return _FailedCheck(failed(check, str(error), fix))
    except Exception as error:  # a defect of ours must not hide the other lines
        return _FailedCheck(failed(check, f"{type(error).__name__}: {error}", BUG_REPORT_FIX))
