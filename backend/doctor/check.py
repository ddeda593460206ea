"""Checks, their results, and a report that runs checks with a timeout."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from backend.errors import PrelabelError

Context = TypeVar("Context", contravariant=True)
Value = TypeVar("Value")
CheckState = Literal["good", "bad", "open"]
STATE_MARKS = {"good": "✓", "bad": "✗", "open": "–"}
CHECK_TIMEOUT_SECONDS = 10.0
BUG_REPORT_FIX = "this is a bug in Prelabel: please report it"


@dataclass(frozen=True)
class CheckResult:
    """One line of the report.

    Attributes:
        check: name of the check.
        state: ``good``: passed; ``bad``: failed; ``open``: not checked, or only a notice.
        seen: message for the user.
        cure: setting or command that fixes a failed check.
        project: project number; 0 if the check is about the whole setup.
    """

    check: str
    state: CheckState
    seen: str
    cure: str = ""
    project: int = 0

    def __str__(self) -> str:
        fix_line = f"\n    → {self.cure}" if self.cure else ""
        return f"{STATE_MARKS[self.state]} {self.check}: {self.seen}{fix_line}"


def passed(check: str, message: str) -> CheckResult:
    """Return the result of a check that passed."""
    return CheckResult(check, "good", message)


def failed(check: str, message: str, fix: str) -> CheckResult:
    """Return the result of a check that failed."""
    return CheckResult(check, "bad", message, fix)


def unchecked(check: str, message: str) -> CheckResult:
    """Return the result of a check that was skipped, or a notice."""
    return CheckResult(check, "open", message)


@dataclass(frozen=True)
class Check(Generic[Context]):
    """One check.

    Attributes:
        name: displayed name.
        function: returns one or several results. A :class:`~backend.errors.PrelabelError` that it
            raises becomes a failed result.
        fix: suggested fix if the function raises an error or takes too long.
        timeout_seconds: time limit for each result.
    """

    name: str
    function: Callable[[Context], CheckResult | Iterable[CheckResult]]
    fix: str
    timeout_seconds: float = CHECK_TIMEOUT_SECONDS


class CheckReport:
    """Runs checks and collects their results.

    Args:
        on_result: called immediately with each result.
        project: project number of the results; 0 for the whole setup.
    """

    def __init__(self, on_result: Callable[[CheckResult], None], project: int = 0) -> None:
        self.results: list[CheckResult] = []
        self._on_result = on_result
        self._project = project

    def for_project(self, project: int) -> CheckReport:
        """Return a report for a project that adds to the results of this one."""
        project_report = CheckReport(self._on_result, project)
        project_report.results = self.results
        return project_report

    def add(self, *new_results: CheckResult) -> None:
        """Add results."""
        for result in new_results:
            result = replace(result, project=self._project)
            self.results.append(result)
            self._on_result(result)

    def run_checks(self, checks: Sequence[Check[Context]], context: Context) -> None:
        """Run checks in order and add their results."""
        for check in checks:
            self.run_check(check, context)

    def run_check(self, check: Check[Context], context: Context) -> bool:
        """Run a check, add its results, and return whether all of them passed."""

        def iterate() -> Iterator[CheckResult]:
            outcome = check.function(context)
            yield from [outcome] if isinstance(outcome, CheckResult) else outcome

        is_good = True
        for result in _iterate_in_thread(check.name, iterate, check.fix, check.timeout_seconds):
            self.add(result)
            is_good &= result.state == "good"
        return is_good

    def load(
        self, name: str, function: Callable[[], Value], fix: str, timeout_seconds: float
    ) -> Value | None:
        """Return the value of a function; add a failed result and return None if it fails."""
        values: list[Value] = []

        def iterate() -> Iterator[CheckResult]:
            values.append(function())
            return iter(())

        results = list(_iterate_in_thread(name, iterate, fix, timeout_seconds))
        self.add(*results)
        return values[0] if values and not results else None


def _iterate_in_thread(
    name: str, iterate: Callable[[], Iterator[CheckResult]], fix: str, timeout_seconds: float
) -> Iterator[CheckResult]:
    """Iterate in a thread and yield its results; abandon the thread if a result takes too long."""
    results: queue.SimpleQueue[CheckResult | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for result in iterate():
                results.put(result)
        except PrelabelError as error:
            results.put(failed(name, str(error), fix))
        except Exception as error:  # a bug in one check must not hide the other results
            results.put(failed(name, f"{type(error).__name__}: {error}", BUG_REPORT_FIX))
        results.put(None)

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            result = results.get(timeout=timeout_seconds)
        except queue.Empty:
            yield failed(name, f"no answer within {timeout_seconds:.0f} s", fix)
            return
        if result is None:
            return
        yield result
