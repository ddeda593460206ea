"""Count labels at once, before a round has read them."""

from __future__ import annotations

from collections.abc import Mapping, Set

from backend.label_studio.ml_protocol import ControlLabel


class RecentLabels:
    """Tasks that people labeled and that no round's outcome contains yet.

    A round reads the labels in its first state. What is labeled after that is read by the next one.
    """

    def __init__(self) -> None:
        self._unread: set[int] = set()
        self._read: set[int] = set()
        self._since_start: set[int] = set()
        self._uncounted: dict[int, frozenset[ControlLabel]] = {}
        self._has_read = False

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.tasks)

    @property
    def tasks(self) -> Set[int]:
        """The tasks."""
        return self._unread | self._read

    @property
    def uncounted(self) -> Mapping[int, frozenset[ControlLabel]]:
        """Control and label of each task whose labels no full round has counted."""
        return self._uncounted

    @property
    def since_start(self) -> int:
        """The number of tasks that were labeled since the round started."""
        return len(self._since_start)

    def add(self, labels: Mapping[int, frozenset[ControlLabel]]) -> None:
        """Add tasks that got their first annotation, with control and label."""
        added = {task: labels[task] for task in labels if task not in self._read}
        self._unread |= added.keys()
        self._since_start |= added.keys()
        self._uncounted |= added

    def start_round(self) -> None:
        """Note that a round starts."""
        self._unread |= self._read
        self._read, self._since_start, self._has_read = set(), set(), False

    def note_state(self, state: str) -> None:
        """Note the state of the round; after ``observing`` it has read all labels."""
        if state != "observing" and not self._has_read:
            self._read, self._unread, self._has_read = self._unread, set(), True

    def finish_round(self, *, is_full: bool) -> None:
        """Note that the outcome of the round contains what it read.

        Args:
            is_full: it counted the examples of each label.
        """
        if not self._has_read:
            self._unread = set()
        self._read, self._since_start = set(), set()
        if is_full:
            self._uncounted = {t: self._uncounted[t] for t in self._unread}
