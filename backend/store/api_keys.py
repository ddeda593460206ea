"""API keys of the endpoint, stored as hashes with their limits."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from backend.errors import NotFoundError, StoreError, UsageError
from backend.json_records import JsonObject, json_field, unknown_keys
from backend.store.files import FileSignature, exclusive_lock, file_signature
from backend.store.record_files import backup_path, read_backed_up, write_backed_up

KEY_PREFIX = "plk"
"""Keys are ``plk_<id>_<secret>``; secret scanners recognize the prefix."""
DEFAULT_IMAGES_PER_SECOND = 100.0
KEYS_LOCK_TIMEOUT_SECONDS = 10.0
HASH_PATTERN = re.compile("[0-9a-f]{64}")
KEYS_FIX = "requests are refused until it is restored; to start over, remove it and create new keys"


@dataclass(frozen=True)
class ApiKey:
    """An API key without its secret.

    Attributes:
        id: identifies the key in lists and logs; not secret.
        name: display name.
        hash: SHA-256 of the secret, hexadecimal. A slow password hash is not needed, because the
            secret has 256 random bits.
        functions: ids of the functions it may invoke; empty: all.
        rate: rate limit in images per second.
        quota: images per month; 0: no limit.
        created: UTC, ISO 8601.
        revoked: UTC, ISO 8601; empty while the key is valid.
    """

    id: str
    name: str
    hash: str = field(repr=False)
    functions: tuple[str, ...] = json_field((), required=True)
    rate: float = json_field(DEFAULT_IMAGES_PER_SECOND, required=True)
    quota: int = json_field(0, required=True)
    created: str = ""
    revoked: str = json_field("", required=True)
    unknown: JsonObject = unknown_keys()

    def may_invoke(self, function: str) -> bool:
        """Return whether the key may invoke a function."""
        return not self.functions or function in self.functions


class ApiKeyStore:
    """The API keys of a home folder; reloads the file when another process changed it."""

    def __init__(self, home: Path) -> None:
        self._file = home / "keys.json"
        self._file_signatures: list[FileSignature] = []
        self._keys_by_id: dict[str, ApiKey] = {}

    def all(self) -> list[ApiKey]:
        """Return all keys including revoked ones, oldest first.

        Raises:
            StoreError: the file is damaged.
        """
        self._read()
        return list(self._keys_by_id.values())

    def create(
        self,
        name: str,
        functions: tuple[str, ...] = (),
        rate: float = DEFAULT_IMAGES_PER_SECOND,
        quota: int = 0,
    ) -> tuple[ApiKey, str]:
        """Create a key.

        Returns:
            the key, and the full text that applications send; the text is not stored.

        Raises:
            UsageError: the name is empty.
            StoreError: it cannot be written.
        """
        if not name.strip():
            raise UsageError("The name is empty: name the key after the application that uses it.")
        id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        key = ApiKey(id, name.strip(), _hash_secret(secret), functions, rate, quota, now)
        with self._exclusive():
            self._write([*self.all(), key])
        return key, f"{KEY_PREFIX}_{id}_{secret}"

    def revoke(self, id: str) -> ApiKey:
        """Revoke a key.

        Raises:
            NotFoundError: there is no key with this id.
        """
        with self._exclusive():
            keys = {key.id: key for key in self.all()}
            if id not in keys:
                raise NotFoundError(f"There is no key {id!r}: `prelabel keys list` shows all.")
            if not keys[id].revoked:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                keys[id] = replace(keys[id], revoked=now)
                self._write(list(keys.values()))
            return keys[id]

    def authenticate(self, key_text: str) -> ApiKey | None:
        """Return the key with this text; None if it is unknown or revoked."""
        prefix, _, key_body = key_text.partition("_")
        id, _, secret = key_body.partition("_")
        self._read()
        key = self._keys_by_id.get(id)
        is_match = hmac.compare_digest(_hash_secret(secret), key.hash if key else _hash_secret(""))
        return key if key and is_match and prefix == KEY_PREFIX and not key.revoked else None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock for changes, and reload the keys."""
        file = self._file.with_name(f"{self._file.name}.lock")
        with exclusive_lock(
            file,
            StoreError("Another process changes the API keys: try again."),
            KEYS_LOCK_TIMEOUT_SECONDS,
        ):
            self._file_signatures = []
            yield

    def _read(self) -> None:
        """Read the keys if a file changed; a damaged one never means that there are no keys."""
        signatures = [file_signature(file) for file in (self._file, backup_path(self._file))]
        if signatures != self._file_signatures:
            keys = read_backed_up(
                self._file, tuple[ApiKey, ...], advice=KEYS_FIX, check=_check_keys
            )
            self._keys_by_id = {key.id: key for key in keys or ()}
            self._file_signatures = signatures

    def _write(self, keys: list[ApiKey]) -> None:
        write_backed_up(self._file, keys, private=True)
        self._file_signatures = []


def _check_keys(keys: Sequence[ApiKey]) -> None:
    if not keys:  # keys are revoked, never removed
        raise TypeError("it has no key")
    for key in keys:
        if not (key.rate > 0 and HASH_PATTERN.fullmatch(key.hash)):
            raise TypeError(f"key {key.id[:20]!a} has no valid rate or hash")


def _hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
