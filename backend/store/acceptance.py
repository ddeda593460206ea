"""What was answered without a person, what people found of it, and whether that is suspended.

One file of a project, so that neither a roll-back nor a version that is held back forgets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.store.files import read_json, write_json

FILE = "acceptance.json"


@dataclass(frozen=True)
class Given:
    """An answer that was accepted, or would have been had its task not gone to people.

    Attributes:
        version: that gave it; the first one that would have, as an accepted answer stays.
        answer: by control, as a version remembers labels.
        to_people: its task goes to people all the same.
        era: suspensions before it.
        right: whether a person answered the same; None: nobody answered yet.
        ratios: by control of boxes or points, width divided by height of its image.
    """

    version: str
    answer: Mapping[str, list[Any]]
    to_people: bool
    era: int
    right: bool | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suspension:
    """Too many answers were wrong.

    Attributes:
        at: UTC, ISO 8601.
        reason: a sentence for people.
        until: labeled audit images on which a version has to be proven anew to lift it.
    """

    at: str
    reason: str
    until: int


@dataclass(frozen=True)
class Acceptance:
    """The state of a project.

    Attributes:
        given: by task.
        suspensions: oldest first.
        since: labels of the project when the first answer was given.
    """

    given: Mapping[int, Given] = field(default_factory=dict)
    suspensions: tuple[Suspension, ...] = ()
    since: int = 0

    @property
    def until(self) -> int:
        """Labeled audit images that a version has to be proven on at least."""
        return self.suspensions[-1].until if self.suspensions else 0

    @property
    def checks(self) -> list[bool]:
        """Whether answers of this era were right where people looked, in the order of giving."""
        era = len(self.suspensions)
        return [g.right for g in self.given.values() if g.era == era and g.right is not None]

    def suspended(self, accepting: Mapping[str, Any]) -> bool:
        """Whether a version may not accept, whatever was proven of it before the suspension.

        Args:
            accepting: of its card.
        """
        return bool(accepting) and int(accepting.get("audit", 0)) < self.until

    def told(self, accepting: Mapping[str, Any]) -> dict[str, Any]:
        """What a card tells of accepting, with what became of it since; empty where it is off."""
        if not accepting:
            return {}
        suspended = self.suspended(accepting)
        reason = {"reason": self.suspensions[-1].reason} if suspended else {}
        return {**accepting, **reason, "suspended": suspended, "checked": len(self.checks)}


class Acceptances:
    """The state in one project's folder.

    Args:
        folder: the project's.
        read: reads a JSON file; None where there is none.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Any] = read_json) -> None:
        self._file = folder / FILE
        self._read = read

    def read(self) -> Acceptance:
        """The state; an empty one where nothing was ever accepted."""
        kept = self._read(self._file) or {}
        return Acceptance(
            {int(task): Given(**row) for task, row in (kept.get("given") or {}).items()},
            tuple(Suspension(**row) for row in kept.get("suspensions") or ()),
            int(kept.get("since", 0)),
        )

    def write(self, state: Acceptance) -> None:
        """Keep the state.

        Raises:
            StoreError: it cannot be written.
        """
        write_json(self._file, asdict(state))
