"""The address of the server of a home folder, for commands in other terminals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.json_records import JsonObject, unknown_keys
from backend.store.record_files import read_cache, write_record

SERVED_ADDRESS_FILE = "served.json"


@dataclass(frozen=True)
class ServedAddress:
    """Where `prelabel serve` listens, or listened last.

    Attributes:
        url: without the webhook secret; empty if it never ran.
    """

    url: str = ""
    unknown: JsonObject = unknown_keys()


def save_served_address(home: Path, url: str) -> None:
    """Save where the server of a home folder listens.

    Raises:
        StoreError: it cannot be written.
    """
    write_record(home / SERVED_ADDRESS_FILE, ServedAddress(url))


def read_served_address(home: Path) -> str:
    """Return where the server of a home folder listens, or listened last; empty if unknown."""
    return read_cache(home / SERVED_ADDRESS_FILE, ServedAddress, ServedAddress()).url
