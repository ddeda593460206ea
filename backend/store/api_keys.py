"""API keys: only their hashes are kept, and what each may do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from backend.errors import NotThere, UsageError
from backend.store.files import alone, read_json, write_json

PREFIX = "plk"
"""Keys are ``plk_<id>_<secret>``: a scanner for lost secrets recognises them."""
RATE = 100.0
WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Key:
    """Who may ask, and how much.

    Attributes:
        id: not secret; names the key in lists and logs.
        name: what people call it.
        hash: SHA-256 of the secret, hexadecimal. The secret has 256 random bits, so that a slow
            hash would add nothing.
        functions: ids that it may invoke; empty: all.
        rate: images a second.
        quota: images a month; 0: no limit.
        created: UTC, ISO 8601.
        revoked: the same; empty while it is good.
    """

    id: str
    name: str
    hash: str = field(repr=False)
    functions: tuple[str, ...] = ()
    rate: float = RATE
    quota: int = 0
    created: str = ""
    revoked: str = ""

    def may_ask(self, function: str) -> bool:
        """Whether it may invoke a function."""
        return not self.functions or function in self.functions


class Keys:
    """The keys of one home folder; what another process changes is seen at the next use."""

    def __init__(self, home: Path) -> None:
        self._file = home / "keys.json"
        self._seen: tuple[float, int] | None = None
        self._known: dict[str, Key] = {}

    def all(self) -> list[Key]:
        """Every key, revoked ones too, oldest first.

        Raises:
            StoreError: the file is damaged.
        """
        self._read()
        return list(self._known.values())

    def create(
        self, name: str, functions: tuple[str, ...] = (), rate: float = RATE, quota: int = 0
    ) -> tuple[Key, str]:
        """Make a key.

        Returns:
            the key, and the text that proves it: shown once, kept nowhere.

        Raises:
            UsageError: the name is empty.
            StoreError: it cannot be written.
        """
        if not name.strip():
            raise UsageError("A key needs a name, such as the application's that will use it.")
        id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        key = Key(id, name.strip(), _hash(secret), functions, rate, quota, now)
        with self._alone():
            self._write([*self.all(), key])
        return key, f"{PREFIX}_{id}_{secret}"

    def revoke(self, id: str) -> Key:
        """Make a key worthless.

        Raises:
            NotThere: there is none.
        """
        with self._alone():
            keys = {key.id: key for key in self.all()}
            if id not in keys:
                raise NotThere(f"There is no key {id!r}: `prelabel keys list` shows all.")
            if not keys[id].revoked:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                keys[id] = replace(keys[id], revoked=now)
                self._write(list(keys.values()))
            return keys[id]

    def check(self, text: str) -> Key | None:
        """The key that a text proves; None where it proves none that is good."""
        prefix, _, rest = text.partition("_")
        id, _, secret = rest.partition("_")
        self._read()
        key = self._known.get(id)
        same = hmac.compare_digest(_hash(secret), key.hash if key else _hash(""))
        return key if key and same and prefix == PREFIX and not key.revoked else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process changes the keys meanwhile; what one wrote before is read anew.

        Raises:
            StoreError: another process does not come to an end, or the folder cannot be written.
        """
        file = self._file.with_name(f"{self._file.name}.lock")
        with alone(file, "Another process changes the keys: try again.", WAIT_SECONDS):
            self._seen = None
            yield

    def _read(self) -> None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._seen, self._known = None, {}
            return
        seen = (status.st_mtime, status.st_ino)
        if seen != self._seen:
            rows = read_json(self._file) or []
            keys = (Key(**{**row, "functions": tuple(row["functions"])}) for row in rows)
            self._known, self._seen = {key.id: key for key in keys}, seen

    def _write(self, keys: list[Key]) -> None:
        write_json(self._file, [asdict(key) for key in keys], private=True)
        self._seen = None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
