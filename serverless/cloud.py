"""The deployed app as its callers see it: with ``app.py`` the one owner of the package modal."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import PrelabelError, RoundError, UsageError

log = logging.getLogger("prelabel")
JOBS = "jobs"
INSIDE = bool(os.environ.get("MODAL_TASK_ID"))
"""This process runs in a container of Modal: the home folder is the volume itself."""


class Cloud:
    """The app of a name, in the environment that Modal's own settings name.

    Args:
        app: its name.

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
            RoundError: it is not there.
        """
        with self._explained():
            return b"".join(self._volume.read_file(path))

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
        from modal.exception import NotFoundError

        with self._explained():
            try:
                entries = self._volume.listdir(f"/{folder}", recursive=folder == "pictures")
            except (NotFoundError, FileNotFoundError):
                return []
        wanted = "FILE" if folder == "pictures" else "DIRECTORY"
        return [e.path.rpartition("/")[2] for e in entries if e.type.name == wanted]

    # -- training ---------------------------------------------------------------------------

    def spawn_training(self, order: str) -> str:
        """Begin with an order; the call's id."""
        with self._explained():
            return str(self._function("train").spawn(order).object_id)

    def result(self, call: str) -> dict[str, Any] | None:
        """What a training told; None while it runs.

        Raises:
            RoundError: it failed, or was cancelled elsewhere.
        """
        import modal

        with self._explained():
            try:
                told: dict[str, Any] = modal.FunctionCall.from_id(call).get(timeout=0)
            except TimeoutError:
                return None
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
        with self._explained():
            told: dict[str, Any] = self._eyes().facts.remote(setting)
        return told

    def encode(self, setting: str, parts: Sequence[Sequence[bytes]]) -> list[bytes]:
        """See ``serverless.jobs.encode``; a container a part."""
        with self._explained():
            return list(self._eyes().encode.starmap([(setting, list(p)) for p in parts]))

    def encode_texts(self, setting: str, texts: Sequence[str]) -> bytes:
        """See ``serverless.jobs.encode_texts``."""
        with self._explained():
            return bytes(self._eyes().encode_texts.remote(setting, list(texts)))

    def detect(
        self, network: str, size: int, parts: Sequence[Sequence[bytes]], least: float
    ) -> list[bytes]:
        """See ``serverless.jobs.detect``; a container a part."""
        rows = [(network, size, list(part), least) for part in parts]
        with self._explained():
            return list(self._eyes().detect.starmap(rows))

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
        from modal import exception

        if error is None or isinstance(error, PrelabelError | TimeoutError):
            return
        if isinstance(error, exception.AuthError):
            raise UsageError(
                "Modal does not take the token: `modal token new` gets a new one."
            ) from error
        if isinstance(error, exception.NotFoundError):
            raise RoundError(
                f"Modal has no app {self._app!r} that fits: `prelabel deploy` brings it there."
            ) from error
        if isinstance(error, exception.ConnectionError | ConnectionError):
            raise RoundError(
                "Modal cannot be reached: it is tried again, and nothing is lost."
            ) from error
        if isinstance(error, Exception):
            text = str(error).strip().splitlines()
            told = f"{type(error).__name__}: {text[-1]}" if text else type(error).__name__
            raise RoundError(f"The job on Modal failed: {told}") from error
