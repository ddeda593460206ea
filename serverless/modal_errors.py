"""Convert the exceptions of the package modal into the project's own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from backend.errors import PrelabelError, RoundError, UsageError, error_text


class ModalUnreachableError(RoundError):
    """Modal cannot be reached; jobs that run there continue."""


class JobFailedError(RoundError):
    """A job failed or was cancelled, or its result is gone; polling it again does not help."""


@contextlib.contextmanager
def translate_modal_errors(app: str) -> Iterator[None]:
    """Convert exceptions of modal and its transport into a PrelabelError of one sentence.

    Args:
        app: name of the app.
    """
    from grpclib import GRPCError
    from modal import exception

    try:
        yield
    except PrelabelError:
        raise
    except exception.AuthError as error:
        raise UsageError(
            "Modal rejects the token: get a new one with `modal token new`."
        ) from error
    except exception.NotFoundError as error:
        raise RoundError(
            f"Modal has no app {app!r} for this version: run `prelabel deploy`."
        ) from error
    except Exception as error:
        if _is_connection_error(error):
            raise ModalUnreachableError(
                "Modal cannot be reached. The request is retried, and no data is lost."
            ) from error
        if isinstance(error, GRPCError | exception.VersionError | exception.InvalidError):
            raise RoundError(f"Modal rejects the request: {_summary(error)}") from error
        raise JobFailedError(f"The job on Modal failed: {_summary(error)}") from error


@contextlib.contextmanager
def suppress_not_found() -> Iterator[None]:
    """Suppress the error for a missing file or folder of a volume."""
    from modal.exception import NotFoundError

    with contextlib.suppress(NotFoundError, FileNotFoundError):
        yield


def _summary(error: Exception) -> str:
    last_line = (error_text(error).splitlines() or [""])[-1]
    name = type(error).__name__
    return (
        last_line
        if isinstance(error, RuntimeError) or last_line == name
        else f"{name}: {last_line}"
    )


def _is_connection_error(error: Exception) -> bool:
    """Whether the connection to Modal failed, or Modal itself is unavailable."""
    from modal import exception

    connection_errors = (
        *(exception.ConnectionError, exception.ServiceError, exception.InternalError),
        *(exception.ResourceExhaustedError, exception.ClientClosed),
        *(ConnectionError, socket.gaierror, TimeoutError),  # the built-in ones, not Modal's
    )
    transport_packages = ("aiohttp", "grpclib")
    return isinstance(error, connection_errors) or type(error).__module__.startswith(
        transport_packages
    )
