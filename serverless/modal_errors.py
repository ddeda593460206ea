"""The errors of the package modal, translated into the project's own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from backend.errors import PrelabelError, RoundError, UsageError, error_text


class ModalUnreachableError(RoundError):
    """Modal cannot be reached now; what runs there continues."""


class JobFailedError(RoundError):
    """A job has failed, was cancelled, or its result is gone; asking again will not change that."""


@contextlib.contextmanager
def translate_modal_errors(app: str) -> Iterator[None]:
    """Raise a PrelabelError of one sentence instead of what modal and its transport raise.

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
            f"Modal has no app {app!r} that fits this version: run `prelabel deploy`."
        ) from error
    except Exception as error:
        if _is_connection_error(error):
            raise ModalUnreachableError(
                "Modal cannot be reached; it is tried again, and nothing is lost."
            ) from error
        if isinstance(error, GRPCError | exception.VersionError | exception.InvalidError):
            raise RoundError(f"Modal refuses the request: {_summary(error)}") from error
        raise JobFailedError(f"The job on Modal failed: {_summary(error)}") from error


@contextlib.contextmanager
def suppress_not_found() -> Iterator[None]:
    """Ignore that a file or folder of a volume does not exist."""
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
        *(ConnectionError, socket.gaierror, TimeoutError),  # a slow line's, not Modal's own
    )
    transport_packages = ("aiohttp", "grpclib")
    return isinstance(error, connection_errors) or type(error).__module__.startswith(
        transport_packages
    )
