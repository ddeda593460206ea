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
JOBS_VOLUME_SUFFIX = "jobs"
RUNNING_ON_MODAL = bool(os.environ.get("MODAL_TASK_ID"))
"""This process runs in a container of Modal: the home folder is the volume itself."""


class ModalUnreachableError(RoundError):
    """Modal cannot be asked now; what runs there runs on."""


class JobFailedError(RoundError):
    """A job's last word: it broke, was ended, or what it made is gone. It will say nothing else."""


class ModalClient:
    """The app of a name, in the environment that Modal's own settings name.

    Args:
        app: its name.

    Attributes:
        record_usage: told of the device and the seconds of each look at images; where nobody knows the
            device, it is empty.

    Raises:
        UsageError: this machine has no token for Modal.
    """

    def __init__(self, app: str) -> None:
        from modal.config import config

        token = config.get("token_id") and config.get("token_secret")
        if not token and not RUNNING_ON_MODAL:
            raise UsageError(
                "PRELABEL_COMPUTE=modal needs a token: `modal token new` gets one, or set "
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
            )
        import modal

        self._app = app
        self._volume = modal.Volume.from_name(
            f"{app}-{JOBS_VOLUME_SUFFIX}", create_if_missing=True, version=2
        )
        self._progress = modal.Dict.from_name(f"{app}-progress", create_if_missing=True)
        self._name_cache: dict[str, set[str]] = {}
        self.record_usage: Callable[[str, float], object] = _ignore_usage

    def check_connection(self) -> None:
        """Ask whether the app is there.

        Raises:
            UsageError: Modal does not take the token.
            RoundError: the app is not there, or Modal cannot be reached.
        """
        with self._translate_errors():
            self._function("train").hydrate()

    # -- files ------------------------------------------------------------------------------

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """Put files onto the jobs' volume; those of the same content are not sent again."""
        with self._translate_errors(), self._volume.batch_upload(force=True) as batch:
            for path, content in files.items():
                upload_source = io.BytesIO(content) if isinstance(content, bytes) else content
                batch.put_file(upload_source, f"/{path}")
        for path in files:
            path_parts = path.split("/")
            self._name_cache.get(path_parts[0], set()).add(
                path_parts[2 if path_parts[0] == "pictures" else 1]
            )

    def download(self, path: str) -> bytes:
        """A file of the jobs' volume.

        Raises:
            JobFailedError: it is not there.
            ModalUnreachableError: Modal cannot be reached.
        """
        from modal.exception import NotFoundError

        with self._translate_errors():
            try:
                return b"".join(self._volume.read_file(path))
            except (NotFoundError, FileNotFoundError) as error:
                raise JobFailedError("The training's result is gone: train again.") from error

    def remove(self, path: str) -> None:
        """Remove a file of the jobs' volume, or a folder with all in it; if it is there."""
        from modal.exception import NotFoundError

        with self._translate_errors(), contextlib.suppress(NotFoundError, FileNotFoundError):
            self._volume.remove_file(f"/{path}", recursive=True)

    def remove_stale(self, folder: str, cutoff: float, max_removed: int) -> int:
        """Remove what nobody wrote to for long, the oldest first; how many went.

        Args:
            folder: of the jobs' volume: ``pictures`` are removed by file, all else by folder.
            cutoff: seconds since 1970; something written later stays whole.
            max_removed: but no more than so many.
        """
        last_written: dict[str, float] = {}
        for entry in self._list_entries(folder, recursive=True):
            if entry.type.name == "FILE":
                path = entry.path.lstrip("/")
                entry_path = path if folder == "pictures" else "/".join(path.split("/")[:2])
                last_written[entry_path] = max(
                    last_written.get(entry_path, 0.0), float(entry.mtime)
                )
        stale_entries = sorted(
            (written_at, entry_path)
            for entry_path, written_at in last_written.items()
            if 0 < written_at < cutoff
        )[:max_removed]
        for _, entry_path in stale_entries:
            self.remove(entry_path)
        self._name_cache.pop(folder, None)
        return len(stale_entries)

    def clear_name_cache(self) -> None:
        """Look anew at what the volume holds: something is not there that was."""
        self._name_cache.clear()

    def list_names(self, folder: str) -> set[str]:
        """What a folder of the jobs' volume holds, by name.

        Args:
            folder: ``pictures``, which lie two folders deep; ``weights`` and ``networks``, a
                folder each.
        """
        if folder not in self._name_cache:
            self._name_cache[folder] = set(self._fetch_names(folder))
        return self._name_cache[folder]

    def _fetch_names(self, folder: str) -> Iterable[str]:
        entries = self._list_entries(folder, recursive=folder == "pictures")
        entry_type = "FILE" if folder == "pictures" else "DIRECTORY"
        return [e.path.rpartition("/")[2] for e in entries if e.type.name == entry_type]

    def _list_entries(self, folder: str, recursive: bool) -> list[Any]:
        from modal.exception import NotFoundError

        with self._translate_errors():
            try:
                return list(self._volume.listdir(f"/{folder}", recursive=recursive))
            except (NotFoundError, FileNotFoundError):
                return []

    # -- training ---------------------------------------------------------------------------

    def spawn_training(self, order_id: str) -> str:
        """Begin with an order; the call's id."""
        with self._translate_errors():
            self._progress.pop(order_id, None)
            return str(self._function("train").spawn(order_id).object_id)

    def training_result(self, call_id: str) -> dict[str, Any] | None:
        """What a training told; None while it runs.

        Raises:
            JobFailedError: it broke, was cancelled elsewhere, or Modal kept nothing of it.
            ModalUnreachableError: Modal cannot be asked now; the training goes on.
        """
        import modal
        from modal.exception import NotFoundError

        with self._translate_errors():
            try:
                training_outcome: dict[str, Any] = modal.FunctionCall.from_id(call_id).get(
                    timeout=0
                )
            except TimeoutError:
                return None
            except NotFoundError as error:
                raise JobFailedError("Modal knows nothing of the training: train again.") from error
        return training_outcome

    def training_progress(self, order_id: str) -> tuple[int, int]:
        """(done, of) of a training's steps; (0, 0) while nothing is known."""
        with self._translate_errors():
            done, total = self._progress.get(order_id, (0, 0))
        return int(done), int(total)

    def cancel_call(self, call_id: str) -> None:
        """End a call."""
        import modal

        with self._translate_errors():
            modal.FunctionCall.from_id(call_id).cancel(terminate_containers=True)

    # -- looking at many images -------------------------------------------------------------

    def encoder_properties(self, setting: str) -> dict[str, Any]:
        """See ``serverless.jobs.facts``."""
        properties: dict[str, Any] = self._call_inference("facts", [(setting,)])[0]
        return properties

    def encode(self, setting: str, image_batches: Sequence[Sequence[bytes]]) -> list[bytes]:
        """See ``serverless.jobs.encode``; a container a part."""
        return self._call_inference(
            "encode", [(setting, list(image_batch)) for image_batch in image_batches]
        )

    def encode_texts(self, setting: str, texts: Sequence[str]) -> bytes:
        """See ``serverless.jobs.encode_texts``."""
        return bytes(self._call_inference("encode_texts", [(setting, list(texts))])[0])

    def detect(
        self,
        network_key: str,
        size: int,
        image_batches: Sequence[Sequence[bytes]],
        min_confidence: float,
    ) -> list[bytes | None]:
        """See ``serverless.jobs.detect``; a container a part."""
        return self._call_inference(
            "detect",
            [
                (network_key, size, list(image_batch), min_confidence)
                for image_batch in image_batches
            ],
        )

    def _call_inference(self, method: str, argument_rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of ``Eyes`` once a row, and count what it took."""
        start = time.monotonic()
        try:
            with self._translate_errors():
                timed_results = list(
                    getattr(self._inference_worker(), method).starmap(argument_rows)
                )
        except JobFailedError:
            self.record_usage("", time.monotonic() - start)
            raise
        for device in {timed_result["device"] for timed_result in timed_results}:
            self.record_usage(
                device,
                sum(
                    timed_result["seconds"]
                    for timed_result in timed_results
                    if timed_result["device"] == device
                ),
            )
        return [timed_result["told"] for timed_result in timed_results]

    def _function(self, name: str) -> Any:
        import modal

        return modal.Function.from_name(self._app, name)

    def _inference_worker(self) -> Any:
        import modal

        return modal.Cls.from_name(self._app, "Eyes")()

    def _translate_errors(self) -> ModalErrorTranslator:
        return ModalErrorTranslator(self._app)


class ModalErrorTranslator:
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
        if _is_connection_error(error):
            raise ModalUnreachableError(
                "Modal cannot be reached: it is tried again, and nothing is lost."
            ) from error
        if isinstance(error, GRPCError | exception.VersionError | exception.InvalidError):
            raise RoundError(f"Modal refuses: {_error_summary(error)}") from error
        if isinstance(error, Exception):
            raise JobFailedError(f"The job on Modal failed: {_error_summary(error)}") from error


def _error_summary(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    error_name = "" if isinstance(error, RuntimeError) and text[-1] else type(error).__name__
    return ": ".join(part for part in (error_name, text[-1]) if part)


def _is_connection_error(error: BaseException) -> bool:
    """Whether nobody failed but the way to Modal, or Modal itself for a while."""
    from modal import exception

    connection_errors = (
        *(exception.ConnectionError, exception.ServiceError, exception.InternalError),
        *(exception.ResourceExhaustedError, exception.ClientClosed),
        *(ConnectionError, socket.gaierror, TimeoutError),  # a slow line's, not Modal's own
    )
    transport_packages = ("aiohttp", "grpclib")
    return isinstance(error, connection_errors) or type(error).__module__.startswith(
        transport_packages
    )


def _ignore_usage(device: str, seconds: float) -> None:
    """Nobody wants to know."""
