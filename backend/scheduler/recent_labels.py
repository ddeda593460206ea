"""Count labels at once, before a round has read them."""

from __future__ import annotations

from collections.abc import Iterable


class RecentLabels:
    """Tasks that people labeled and that no round's outcome contains yet.

    A round reads the labels in its first state. What is labeled after that is read by the next one.
    """

    def __init__(self) -> None:
        self._unread: set[int] = set()
        self._read: set[int] = set()
        self._since_start: set[int] = set()
        self._has_read = False

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self._unread | self._read)

    @property
    def since_start(self) -> int:
        """The number of tasks that were labeled since the round started."""
        return len(self._since_start)

    def add(self, tasks: Iterable[int]) -> None:
        """Add tasks that got their first annotation."""
        added = set(tasks) - self._read
        self._unread |= added
        self._since_start |= added

    def start_round(self) -> None:
        """Note that a round starts."""
        self._unread |= self._read
        self._read, self._since_start, self._has_read = set(), set(), False

    def note_state(self, state: str) -> None:
        """Note the state of the round; after ``observing`` it has read all labels."""
        if state != "observing" and not self._has_read:
            self._read, self._unread, self._has_read = self._unread, set(), True

    def finish_round(self) -> None:
        """Note that the outcome of the round contains what it read."""
        if not self._has_read:
            self._unread = set()
        self._read, self._since_start = set(), set()
