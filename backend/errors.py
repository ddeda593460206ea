"""The one exception tree.

PrelabelError            every failure a person can act on; its text is one sentence
├── UsageError           the command line or a setting is wrong (exit status 2)
├── NotThere             the project, version or key asked for does not exist
│   └── NotInLabelStudio … in Label Studio; a LabelStudioError as well
├── LabelStudioError     Label Studio refused, or cannot be reached
│   ├── NotAllowed       the token is wrong, expired, or may not do this
│   └── AddressRefused   Label Studio calls no private addresses
├── ConfigError          a labeling config that cannot be served
├── ImageError           one image that cannot be read; costs one prediction
├── EncoderError         an encoder or its weights cannot be had
├── DetectorError        a detector or its weights cannot be had
├── StoreError           the home folder cannot be written or read
│   └── DamagedFileError a file of it is damaged or missing
└── RoundError           a round that cannot go on
    ├── Busy             another process runs a round of the project
    └── Cancelled        somebody cancelled it
"""

from __future__ import annotations

from collections.abc import Iterator


class PrelabelError(Exception):
    """A failure a person can act on; ``str(error)`` is one sentence that says what to do."""


class UsageError(PrelabelError):
    """The command line or a setting is wrong."""


class NotFoundError(PrelabelError):
    """The project, version or key asked for does not exist."""


class LabelStudioError(PrelabelError):
    """Label Studio refused a call, or cannot be reached.

    Attributes:
        status: of its answer; 0 where there was none, so that nobody knows what it did.
    """

    status = 0


class AccessDeniedError(LabelStudioError):
    """The token is wrong, expired, or may not do this."""


class PrivateAddressError(LabelStudioError):
    """Label Studio calls no private addresses (its protection against SSRF)."""


class LabelStudioNotFoundError(LabelStudioError, NotFoundError):
    """Label Studio has no such project or task."""


class ConfigError(PrelabelError):
    """A labeling config that cannot be served."""


class ImageError(PrelabelError):
    """One image that cannot be read. ``reason`` is a short, countable phrase."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class EncoderError(PrelabelError):
    """An encoder or its weights cannot be had."""


class DetectorError(PrelabelError):
    """A detector or its weights cannot be had."""


class StoreError(PrelabelError):
    """The home folder cannot be written or read."""


class DamagedFileError(StoreError):
    """A file of the home folder is damaged, or missing although others refer to it."""


class DamagedDetectorError(DetectorError, DamagedFileError):
    """A detector's file is damaged or missing."""


class RoundError(PrelabelError):
    """A round that cannot go on."""


class RoundInProgressError(RoundError):
    """Another process runs a round of the project."""


class RoundCancelledError(RoundError):
    """Somebody cancelled the round; the live version stays."""


def error_from_name(name: str, message: str) -> PrelabelError:
    """An error that another process raised, from the name of its class and its text.

    A class that this process does not know is told as a failed round.
    """
    classes = {
        error_class.__name__: error_class for error_class in _iter_error_classes(PrelabelError)
    }
    return classes.get(name, RoundError)(message)


def _iter_error_classes(root: type[PrelabelError]) -> Iterator[type[PrelabelError]]:
    yield root
    for subclass in root.__subclasses__():
        yield from _iter_error_classes(subclass)


class OverBudget(RoundError):
    """What may be spent this month is spent: nothing is trained, and predicting goes on."""


def error_text(error: BaseException) -> str:
    """Return an error's message, or the name of its class when it has none."""
    return str(error).strip() or type(error).__name__
