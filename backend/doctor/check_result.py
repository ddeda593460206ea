"""The lines of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "bad", "open"]
MARKS = {"good": "✓", "bad": "✗", "open": "–"}


@dataclass(frozen=True)
class Line:
    """What a check saw.

    Attributes:
        check: its name.
        state: ``good``; ``bad``: it keeps something from working; ``open``: not looked at, or no
            fault but worth knowing.
        seen: what was seen, for people.
        cure: of a bad one, the setting or command that mends it.
        project: the number of the project that it is about; 0: of none.
    """

    check: str
    state: State
    seen: str
    cure: str = ""
    project: int = 0

    def __str__(self) -> str:
        cure = f"\n    → {self.cure}" if self.cure else ""
        return f"{MARKS[self.state]} {self.check}: {self.seen}{cure}"


def good(check: str, seen: str) -> Line:
    """It is as it should be."""
    return Line(check, "good", seen)


def bad(check: str, seen: str, cure: str) -> Line:
    """It keeps something from working."""
    return Line(check, "bad", seen, cure)


def unknown(check: str, seen: str) -> Line:
    """It was not looked at, or is no fault."""
    return Line(check, "open", seen)
