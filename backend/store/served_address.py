"""The address of the server of a home folder, for commands in other terminals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from backend.json_records import JsonObject, json_field, unknown_keys
from backend.store.record_files import read_cache, write_record

SERVED_ADDRESS_FILE = "served.json"


@dataclass(frozen=True)
class ServedAddress:
    """Where `prelabel serve` listens, or listened last.

    Attributes:
        url: without the webhook secret; empty if it never ran.
        called_port: port at which Label Studio called it last; 0 if it never did.
    """

    url: str = ""
    called_port: int = json_field(0, optional=True)
    unknown: JsonObject = unknown_keys()


def save_served_address(home: Path, url: str) -> None:
    """Save where the server of a home folder listens.

    Raises:
        StoreError: it cannot be written.
    """
    write_record(home / SERVED_ADDRESS_FILE, replace(_read(home), url=url))


def save_called_port(home: Path, port: int) -> None:
    """Save the port at which Label Studio calls the server of a home folder.

    Raises:
        StoreError: it cannot be written.
    """
    served = _read(home)
    if served.called_port != port:
        write_record(home / SERVED_ADDRESS_FILE, replace(served, called_port=port))


def read_called_port(home: Path) -> int:
    """Return the port at which Label Studio called the server last; 0 if it never did."""
    return _read(home).called_port


def read_served_address(home: Path) -> str:
    """Return where the server of a home folder listens, or listened last; empty if unknown."""
    return _read(home).url


def _read(home: Path) -> ServedAddress:
    return read_cache(home / SERVED_ADDRESS_FILE, ServedAddress, ServedAddress())
