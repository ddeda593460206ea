"""A report that grows line by line, by checks that never hang."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from backend.doctor.check_result import Line, bad
from backend.errors import PrelabelError

T = TypeVar("T")
QUICK = 10.0
"""Seconds that a check may take where nothing else is said."""
OURS = "this is a defect of Prelabel: please report it"


class Report:
    """Lines so far.

    Args:
        tell: told each line at once.
        project: the number of the project that the next lines are about; 0: of none.
    """

    def __init__(self, tell: Callable[[Line], None], project: int = 0) -> None:
        self.lines: list[Line] = []
        self._tell = tell
        self._project = project

    def about(self, project: int) -> Report:
        """The same report, with lines about a project."""
        part = Report(self._tell, project)
        part.lines = self.lines
        return part

    def add(self, *lines: Line) -> None:
        """Write lines."""
        for line in lines:
            line = replace(line, project=self._project)
            self.lines.append(line)
            self._tell(line)

    def ask(self, check: str, work: Callable[[], T], cure: str, seconds: float = QUICK) -> T | None:
        """What a question led to; where it fails or takes too long, a line says so.

        It works in a thread of its own, which is left alone when its time is over: the process
        ends without it.

        Args:
            check: its name.
            work: the question.
            cure: of a failure.
            seconds: that it may take.
        """
        told: queue.SimpleQueue[T | _Failed] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: told.put(_tried(check, work, cure)), daemon=True)
        thread.start()
        try:
            found = told.get(timeout=seconds)
        except queue.Empty:
            self.add(bad(check, f"no answer within {seconds:.0f} s", cure))
            return None
        if isinstance(found, _Failed):
            self.add(found.line)
            return None
        return found

    def look(
        self,
        check: str,
        work: Callable[[], Line | Sequence[Line]],
        cure: str,
        seconds: float = QUICK,
    ) -> bool:
        """Write what a check saw; whether all of it is good. See :meth:`ask`."""
        found = self.ask(check, work, cure, seconds)
        if found is None:
            return False
        lines = [found] if isinstance(found, Line) else list(found)
        self.add(*lines)
        return all(line.state == "good" for line in lines)


class _Failed:
    def __init__(self, line: Line) -> None:
        self.line = line


def _tried(check: str, work: Callable[[], T], cure: str) -> T | _Failed:
    try:
        return work()
    except PrelabelError as error:
        return _Failed(bad(check, str(error), cure))
    except Exception as error:  # a defect of ours must not hide the other lines
        return _Failed(bad(check, f"{type(error).__name__}: {error}", OURS))
