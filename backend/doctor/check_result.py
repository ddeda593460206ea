"""The lines of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckState = Literal["good", "bad", "open"]
STATE_MARKS = {"good": "✓", "bad": "✗", "open": "–"}


@dataclass(frozen=True)
class CheckResult:
    """What a check saw.

    Attributes:
        check: its name.
        state: ``passed``; ``failed``: it keeps something from working; ``open``: not looked at, or no
            fault but worth knowing.
        seen: what was seen, for people.
        cure: of a bad one, the setting or command that mends it.
        project: the number of the project that it is about; 0: of none.
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
    """It is as it should be."""
    return CheckResult(check, "good", message)


def failed(check: str, message: str, fix: str) -> CheckResult:
    """It keeps something from working."""
    return CheckResult(check, "bad", message, fix)


def unchecked(check: str, message: str) -> CheckResult:
    """It was not looked at, or is no fault."""
    return CheckResult(check, "open", message)
