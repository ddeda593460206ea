"""Trainings that were sent to Modal: which are under way, what they cost, and what is left there.

A note says of each what it is called there. It is kept until the training said its last word: who
cannot reach Modal for a while, or ends in between, finds the same training again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backend import errors
from backend.errors import Cancelled, PrelabelError, RoundError
from backend.store.files import read_json, write_json
from serverless.container_image import TRAIN_SECONDS
from serverless.modal_client import Cloud, JobFailed

log = logging.getLogger("prelabel")
LOOK_SECONDS = 1.0
LONGEST = 3 * TRAIN_SECONDS + 1800.0
"""Seconds that no training is under way any more: three attempts, and their starts."""
DAY = 86_400.0
KEPT_DAYS = {"orders": 7, "networks": 30, "weights": 30, "pictures": 90}
"""Days after which what nobody wrote anew is removed; it is sent again where it is wanted."""
AT_ONCE = 300
"""Things that are removed at one time: each is a question to Modal."""


@dataclass(frozen=True)
class Note:
    """A training under way.

    Attributes:
        call: what Modal calls it.
        at: when it was sent, seconds since 1970.
        counted: seconds that are in the month's estimate already.
    """

    call: str
    at: float
    counted: float = 0.0


class Calls:
    """The trainings of one home folder.

    Args:
        home: the folder.
        cloud: the app.
        count: counts the seconds of a device; where nobody knows the device, it is empty.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        cloud: Cloud,
        count: Callable[[str, float], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = home / "modal-calls"
        self._read = home / "modal-read.json"
        self._cloud = cloud
        self._count = count
        self._clock = clock

    def follow(
        self,
        id: str,
        spawn: Callable[[], str],
        report: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> dict[str, Any]:
        """Follow an order to its end; a training of it that is under way is taken up.

        Its seconds are counted however this ends; those of an end that the training did not tell
        are all since it was sent, rather too many.

        Args:
            id: of the order.
            spawn: sends it; the call's id.
            report: told (done, of) of the training's steps.
            cancelled: asked whether to end it.

        Returns:
            what ``serverless.jobs.train`` told of its files.

        Raises:
            Cancelled: somebody wanted it to end, and it did.
            Unreachable: Modal cannot be reached; the training goes on and is taken up later.
            PrelabelError: it did not work out.
        """
        self._settle(id)
        note = self._note(id)
        if note is None:
            note = Note(spawn(), self._clock())
            self._write(id, note)
        try:
            told = self._wait(id, note.call, report, cancelled)
        except BaseException as error:
            self._count_until_now(id, note)
            if isinstance(error, JobFailed | Cancelled):
                self._forget(id)
            raise
        self._count_told(note, told)
        self._forget(id)
        if "error" in told:
            raise _error(told["error"])
        return told

    def read(self, id: str) -> None:
        """The result of an order is here. Those that were read before are removed there.

        The last one stays until the next: who ends before it is a version asks for it again.
        """
        known: dict[str, Any] = read_json(self._read) or {"read": [], "swept": 0.0}
        others = [other for other in known["read"] if other != id]
        try:
            for other in others:
                if self._note(other) is None:
                    self._cloud.remove(f"orders/{other}")
            others = []
            if self._clock() - known["swept"] > DAY:
                for folder, days in KEPT_DAYS.items():
                    self._cloud.remove_old(folder, self._clock() - days * DAY, AT_ONCE)
                known["swept"] = self._clock()
        except PrelabelError as error:
            log.warning("what is left on Modal is removed another time: %s", error)
        write_json(self._read, {**known, "read": [*others, id]})

    def _wait(
        self,
        id: str,
        call: str,
        report: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> dict[str, Any]:
        before = (-1, -1)
        while True:
            told = self._cloud.result(call)
            if told is not None:
                return told
            if cancelled():
                self._cloud.cancel(call)
                raise Cancelled("The training on Modal was cancelled; the live version stays.")
            now = self._cloud.progress(id)
            if now != before and now[0]:
                report(*now)
            before = now
            time.sleep(LOOK_SECONDS)

    # -- notes ------------------------------------------------------------------------------

    def _settle(self, but: str) -> None:
        """Count and forget what nobody followed to its end and has ended long since."""
        for file in self._folder.glob("*.json"):
            note = self._note(file.stem)
            if file.stem == but or note is None or self._clock() - note.at < LONGEST:
                continue
            try:
                told = self._cloud.result(note.call)
            except JobFailed:
                told = None
            except PrelabelError:
                continue  # it is asked another time
            if told is not None:
                self._count_told(note, told)
            self._forget(file.stem)

    def _note(self, id: str) -> Note | None:
        known = read_json(self._folder / f"{id}.json")
        return Note(**{"at": self._clock(), **known}) if known else None

    def _write(self, id: str, note: Note) -> None:
        write_json(self._folder / f"{id}.json", asdict(note))

    def _forget(self, id: str) -> None:
        (self._folder / f"{id}.json").unlink(missing_ok=True)

    # -- what it costs ----------------------------------------------------------------------

    def _count_until_now(self, id: str, note: Note) -> None:
        """Count all seconds since it was sent, as far as they are not counted yet."""
        seconds = min(max(0.0, self._clock() - note.at), LONGEST)
        if seconds > note.counted:
            self._count("", seconds - note.counted)
            self._write(id, replace(note, counted=seconds))

    def _count_told(self, note: Note, told: dict[str, Any]) -> None:
        """Count what the training says it took; nothing where another call did it."""
        seconds = 0.0 if told.get("again") else float(told["seconds"])
        if seconds > note.counted:
            self._count(told["device"], seconds - note.counted)


def _error(row: dict[str, str]) -> PrelabelError:
    """What a training raised there."""
    kind = getattr(errors, row["kind"], None)
    known = isinstance(kind, type) and issubclass(kind, PrelabelError)
    return kind(row["text"]) if known else RoundError(row["text"])  # type: ignore[misc]
