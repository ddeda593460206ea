"""The exception tree. The message of each error is one sentence that says what to do.

PrelabelError                       base class of all errors that a user can fix
├── UsageError                      invalid command line or setting (exit status 2)
├── NotFoundError                   no such project, version or API key
│   └── LabelStudioNotFoundError    … in Label Studio; also a LabelStudioError
│       └── ProjectMissingError     the project was deleted in Label Studio
├── LabelStudioError                Label Studio rejected a request or is unreachable
│   ├── AccessDeniedError           the token is invalid, expired, or lacks permission
│   └── PrivateAddressError         Label Studio blocks requests to private addresses
├── PortInUseError                  another program listens on the port of a server
├── ConfigError                     the labeling config cannot be served
├── ImageError                      one image cannot be read; only its prediction is missing
├── EncoderError                    an encoder or its weights are unavailable
├── DetectorError                   a detector or its weights are unavailable
│   └── DamagedDetectorError        a detector's file is damaged; also a DamagedFileError
├── StoreError                      the home folder cannot be read or written
│   └── DamagedFileError            a file of it is damaged or missing
└── RoundError                      a round failed
    ├── RoundInProgressError        another process runs a round of the project
    ├── LongRoundError              a quick worker met a training that takes minutes
    ├── RoundCancelledError         the round was cancelled
    └── OverBudgetError             the monthly budget is spent
"""

from __future__ import annotations

from collections.abc import Iterator


class PrelabelError(Exception):
    """An error that a user can fix; ``str(error)`` is one sentence that says how."""


class UsageError(PrelabelError):
    """The command line or a setting is invalid."""


class NotFoundError(PrelabelError):
    """There is no such project, version or API key."""


class LabelStudioError(PrelabelError):
    """Label Studio rejected a request or is unreachable.

    Attributes:
        status: HTTP status of the response; 0 without a response, when it is unknown whether the
            request took effect.
    """

    status = 0


class AccessDeniedError(LabelStudioError):
    """The token is invalid, expired, or lacks permission."""


class PrivateAddressError(LabelStudioError):
    """Label Studio blocks requests to private addresses (SSRF protection)."""


class LabelStudioNotFoundError(LabelStudioError, NotFoundError):
    """There is no such project or task in Label Studio."""


class ProjectMissingError(LabelStudioNotFoundError):
    """Label Studio has no such project; it was deleted, or it never existed."""


class PortInUseError(PrelabelError):
    """Another program listens on the port of a server."""


class ConfigError(PrelabelError):
    """The labeling config cannot be served."""


class ImageError(PrelabelError):
    """One image cannot be read; ``reason`` is a short phrase by which such images are counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class EncoderError(PrelabelError):
    """An encoder or its weights are unavailable."""


class DetectorError(PrelabelError):
    """A detector or its weights are unavailable."""


class StoreError(PrelabelError):
    """The home folder cannot be read or written."""


class DamagedFileError(StoreError):
    """A file of the home folder is damaged, or missing although others refer to it."""


class DamagedDetectorError(DetectorError, DamagedFileError):
    """A detector's file is damaged or missing."""


class RoundError(PrelabelError):
    """A round failed."""


class RoundInProgressError(RoundError):
    """Another process runs a round of the project."""


class LongRoundError(RoundError):
    """A quick worker met a training that takes minutes; another one repeats the round."""


class RoundCancelledError(RoundError):
    """The round was cancelled; the live version stays."""


class OverBudgetError(RoundError):
    """The monthly budget is spent: training waits, predictions continue."""


def error_from_name(name: str, message: str) -> PrelabelError:
    """Rebuild an error of another process from its class name and message.

    An unknown class becomes a :class:`RoundError`.
    """
    classes = {
        error_class.__name__: error_class for error_class in _iter_error_classes(PrelabelError)
    }
    return classes.get(name, RoundError)(message)


def _iter_error_classes(root: type[PrelabelError]) -> Iterator[type[PrelabelError]]:
    yield root
    for subclass in root.__subclasses__():
        yield from _iter_error_classes(subclass)


def error_text(error: BaseException) -> str:
    """Return an error's message, or the name of its class when it has none."""
    return str(error).strip() or type(error).__name__
