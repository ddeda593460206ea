"""Embeddings that were made once: one SQLite file for all projects and processes.

SQLite's write-ahead log lets several processes read while one writes, and a process that is
killed leaves the last whole transaction.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import StoreError

log = logging.getLogger("prelabel")
Vector = npt.NDArray[np.float32]
VARIABLES = 500
"""Question marks in one statement; SQLite allows 999 in its oldest builds."""
WAIT_SECONDS = 30.0
TABLES = """
CREATE TABLE IF NOT EXISTS vectors (
    encoder TEXT NOT NULL, digest TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (encoder, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    reference TEXT PRIMARY KEY, digest TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image without fetching it again.

    Attributes:
        digest: SHA-256 of its bytes, hexadecimal.
        width: pixels of the upright image.
        height: pixels of the upright image.
    """

    digest: str
    width: int
    height: int


class EmbeddingCache:
    """Vectors by encoder and content, and images by reference. Safe with several threads.

    Args:
        path: the file; made when missing, set aside when it is damaged.

    Raises:
        StoreError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database = self._open_or_renew()

    def get(self, encoder: str, digests: Sequence[str]) -> dict[str, Vector]:
        """The vectors that are known: digest → (d,) float32."""
        query = "SELECT digest, vector FROM vectors WHERE encoder = ? AND digest IN ({})"
        rows = self._select(query, digests, (encoder,))
        return {digest: np.frombuffer(blob, dtype="<f4") for digest, blob in rows}

    def put(self, encoder: str, digests: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """Keep vectors, in one transaction.

        Args:
            encoder: its id.
            digests: (n) SHA-256, hexadecimal.
            vectors: (n, d) float32.

        Raises:
            StoreError: the disk is full, or the file cannot be written.
        """
        table = np.ascontiguousarray(vectors, dtype="<f4")
        pairs = zip(digests, table, strict=True)
        rows = [(encoder, digest, row.tobytes()) for digest, row in pairs]
        self._write("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def facts(self, references: Sequence[str]) -> dict[str, ImageFacts]:
        """What is known of images, by reference."""
        query = "SELECT reference, digest, width, height FROM images WHERE reference IN ({})"
        rows = self._select(query, references, ())
        return {row[0]: ImageFacts(*row[1:]) for row in rows}

    def remember(self, facts: Mapping[str, ImageFacts]) -> None:
        """Keep what is known of images, by reference.

        Raises:
            StoreError: the disk is full, or the file cannot be written.
        """
        rows = [(name, fact.digest, fact.width, fact.height) for name, fact in facts.items()]
        self._write("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _select(
        self, query: str, keys: Sequence[str], first: tuple[str, ...]
    ) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), VARIABLES):
            part = keys[start : start + VARIABLES]
            marks = ",".join("?" * len(part))
            with self._lock, self._explained():
                rows = self._database.execute(query.format(marks), (*first, *part)).fetchall()
            yield from rows

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._lock, self._explained(), self._database:
            self._database.executemany(statement, rows)

    def _open_or_renew(self) -> sqlite3.Connection:
        """The open file; a damaged one is renamed and started anew, it is only a cache."""
        with self._explained():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # locked, full, not allowed
                    raise
                aside = self._path.with_suffix(f".damaged-{int(time.time())}")
                self._path.rename(aside)
                log.warning("%s was damaged (%s); set aside as %s", self._path, error, aside.name)
                return self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=WAIT_SECONDS, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(TABLES)
            database.execute("SELECT count(*) FROM (SELECT 1 FROM vectors LIMIT 1)").fetchone()
        except BaseException:
            database.close()
            raise
        return database

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The embedding cache {self._path} cannot be used ({error}): free some space, set "
                "PRELABEL_HOME to a folder of your own, or delete the file."
            ) from error
