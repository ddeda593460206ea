"""The deployed app as its callers see it: with ``app.py`` the one owner of the package modal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import PrelabelError, RoundError, UsageError

log = logging.getLogger("prelabel")
JOBS = "jobs"
INSIDE = bool(os.environ.get("MODAL_TASK_ID"))
"""This process runs in a container of Modal: the home folder is the volume itself."""


class Unreachable(RoundError):
    """Modal cannot be asked now; what runs there runs on."""


class JobFailed(RoundError):
    """A job's last word: it broke, was ended, or what it made is gone. It will say nothing else."""


class Cloud:
    """The app of a name, in the environment that Modal's own settings name.

    Args:
        app: its name.

    Attributes:
        count: told of the device and the seconds of each look at images; where nobody knows the
            device, it is empty.

    Raises:
        UsageError: this machine has no token for Modal.
    """

    def __init__(self, app: str) -> None:
        from modal.config import config

        token = config.get("token_id") and config.get("token_secret")
        if not token and not INSIDE:
            raise UsageError(
                "PRELABEL_COMPUTE=modal needs a token: `modal token new` gets one, or set "
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
            )
        import modal

        self._app = app
        self._volume = modal.Volume.from_name(f"{app}-{JOBS}", create_if_missing=True, version=2)
        self._progress = modal.Dict.from_name(f"{app}-progress", create_if_missing=True)
        self._names: dict[str, set[str]] = {}
        self.count: Callable[[str, float], object] = _uncounted

    def greet(self) -> None:
        """Ask whether the app is there.

        Raises:
            UsageError: Modal does not take the token.
            RoundError: the app is not there, or Modal cannot be reached.
        """
        with self._explained():
            self._function("train").hydrate()

    # -- files ------------------------------------------------------------------------------

    def write(self, files: Mapping[str, bytes | Path]) -> None:
        """Put files onto the jobs' volume; those of the same content are not sent again."""
        with self._explained(), self._volume.batch_upload(force=True) as batch:
            for path, content in files.items():
                held = io.BytesIO(content) if isinstance(content, bytes) else content
                batch.put_file(held, f"/{path}")
        for path in files:
            parts = path.split("/")
            self._names.get(parts[0], set()).add(parts[2 if parts[0] == "pictures" else 1])

    def read(self, path: str) -> bytes:
        """A file of the jobs' volume.

        Raises:
            JobFailed: it is not there.
            Unreachable: Modal cannot be reached.
        """
        from modal.exception import NotFoundError

        with self._explained():
            try:
                return b"".join(self._volume.read_file(path))
            except (NotFoundError, FileNotFoundError) as error:
                raise JobFailed("The training's result is gone: train again.") from error

    def remove(self, path: str) -> None:
        """Remove a file of the jobs' volume, or a folder with all in it; if it is there."""
        from modal.exception import NotFoundError

        with self._explained(), contextlib.suppress(NotFoundError, FileNotFoundError):
            self._volume.remove_file(f"/{path}", recursive=True)

    def remove_old(self, folder: str, before: float, most: int) -> int:
        """Remove what nobody wrote to for long, the oldest first; how many went.

        Args:
            folder: of the jobs' volume: ``pictures`` are removed by file, all else by folder.
            before: seconds since 1970; something written later stays whole.
            most: but no more than so many.
        """
        written: dict[str, float] = {}
        for entry in self._entries(folder, recursive=True):
            if entry.type.name == "FILE":
                path = entry.path.lstrip("/")
                unit = path if folder == "pictures" else "/".join(path.split("/")[:2])
                written[unit] = max(written.get(unit, 0.0), float(entry.mtime))
        old = sorted((at, unit) for unit, at in written.items() if 0 < at < before)[:most]
        for _, unit in old:
            self.remove(unit)
        self._names.pop(folder, None)
        return len(old)

    def forget_names(self) -> None:
        """Look anew at what the volume holds: something is not there that was."""
        self._names.clear()

    def names(self, folder: str) -> set[str]:
        """What a folder of the jobs' volume holds, by name.

        Args:
            folder: ``pictures``, which lie two folders deep; ``weights`` and ``networks``, a
                folder each.
        """
        if folder not in self._names:
            self._names[folder] = set(self._listed(folder))
        return self._names[folder]

    def _listed(self, folder: str) -> Iterable[str]:
        entries = self._entries(folder, recursive=folder == "pictures")
        wanted = "FILE" if folder == "pictures" else "DIRECTORY"
        return [e.path.rpartition("/")[2] for e in entries if e.type.name == wanted]

    def _entries(self, folder: str, recursive: bool) -> list[Any]:
        from modal.exception import NotFoundError

        with self._explained():
            try:
                return list(self._volume.listdir(f"/{folder}", recursive=recursive))
            except (NotFoundError, FileNotFoundError):
                return []

    # -- training ---------------------------------------------------------------------------

    def spawn_training(self, order: str) -> str:
        """Begin with an order; the call's id."""
        with self._explained():
            self._progress.pop(order, None)
            return str(self._function("train").spawn(order).object_id)

    def result(self, call: str) -> dict[str, Any] | None:
        """What a training told; None while it runs.

        Raises:
            JobFailed: it broke, was cancelled elsewhere, or Modal kept nothing of it.
            Unreachable: Modal cannot be asked now; the training goes on.
        """
        import modal
        from modal.exception import NotFoundError

        with self._explained():
            try:
                told: dict[str, Any] = modal.FunctionCall.from_id(call).get(timeout=0)
            except TimeoutError:
                return None
            except NotFoundError as error:
                raise JobFailed("Modal knows nothing of the training: train again.") from error
        return told

    def progress(self, order: str) -> tuple[int, int]:
        """(done, of) of a training's steps; (0, 0) while nothing is known."""
        with self._explained():
            done, of = self._progress.get(order, (0, 0))
        return int(done), int(of)

    def cancel(self, call: str) -> None:
        """End a call."""
        import modal

        with self._explained():
            modal.FunctionCall.from_id(call).cancel(terminate_containers=True)

    # -- looking at many images -------------------------------------------------------------

    def facts(self, setting: str) -> dict[str, Any]:
        """See ``serverless.jobs.facts``."""
        told: dict[str, Any] = self._look("facts", [(setting,)])[0]
        return told

    def encode(self, setting: str, parts: Sequence[Sequence[bytes]]) -> list[bytes]:
        """See ``serverless.jobs.encode``; a container a part."""
        return self._look("encode", [(setting, list(part)) for part in parts])

    def encode_texts(self, setting: str, texts: Sequence[str]) -> bytes:
        """See ``serverless.jobs.encode_texts``."""
        return bytes(self._look("encode_texts", [(setting, list(texts))])[0])

    def detect(
        self, network: str, size: int, parts: Sequence[Sequence[bytes]], least: float
    ) -> list[bytes | None]:
        """See ``serverless.jobs.detect``; a container a part."""
        return self._look("detect", [(network, size, list(part), least) for part in parts])

    def _look(self, method: str, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of ``Eyes`` once a row, and count what it took."""
        start = time.monotonic()
        try:
            with self._explained():
                looks = list(getattr(self._eyes(), method).starmap(rows))
        except JobFailed:
            self.count("", time.monotonic() - start)
            raise
        for device in {look["device"] for look in looks}:
            self.count(device, sum(look["seconds"] for look in looks if look["device"] == device))
        return [look["told"] for look in looks]

    def _function(self, name: str) -> Any:
        import modal

        return modal.Function.from_name(self._app, name)

    def _eyes(self) -> Any:
        import modal

        return modal.Cls.from_name(self._app, "Eyes")()

    def _explained(self) -> Explained:
        return Explained(self._app)


class Explained:
    """Turns what the package modal raises into one sentence.

    Args:
        app: name of the app.
    """

    def __init__(self, app: str) -> None:
        self._app = app

    def __enter__(self) -> None:
        """Nothing yet."""
        self._start = time.monotonic()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Translate."""
        from grpclib import GRPCError
        from modal import exception

        if error is None or isinstance(error, PrelabelError):
            return
        if isinstance(error, exception.AuthError):
            raise UsageError(
                "Modal does not take the token: `modal token new` gets a new one."
            ) from error
        if isinstance(error, exception.NotFoundError):
            raise RoundError(
                f"Modal has no app {self._app!r} that fits: `prelabel deploy` brings it there."
            ) from error
        if _on_the_way(error):
            raise Unreachable(
                "Modal cannot be reached: it is tried again, and nothing is lost."
            ) from error
        if isinstance(error, GRPCError | exception.VersionError | exception.InvalidError):
            raise RoundError(f"Modal refuses: {_last_line(error)}") from error
        if isinstance(error, Exception):
            raise JobFailed(f"The job on Modal failed: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    named = "" if isinstance(error, RuntimeError) and text[-1] else type(error).__name__
    return ": ".join(part for part in (named, text[-1]) if part)


def _on_the_way(error: BaseException) -> bool:
    """Whether nobody failed but the way to Modal, or Modal itself for a while."""
    from modal import exception

    passing = (
        *(exception.ConnectionError, exception.ServiceError, exception.InternalError),
        *(exception.ResourceExhaustedError, exception.ClientClosed),
        *(ConnectionError, socket.gaierror, TimeoutError),  # a slow line's, not Modal's own
    )
    carriers = ("aiohttp", "grpclib")
    return isinstance(error, passing) or type(error).__module__.startswith(carriers)


def _uncounted(device: str, seconds: float) -> None:
    """Nobody wants to know."""
