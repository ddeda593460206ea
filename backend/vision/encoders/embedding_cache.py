"""The embedding cache: one SQLite file for all projects and processes.

Write-ahead logging allows concurrent reads while one process writes. A damaged file is renamed and
replaced by an empty cache.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.errors import StoreError

T = TypeVar("T")
log = logging.getLogger("prelabel")
CACHE_LOCK_TIMEOUT_SECONDS = 30.0
"""How long to wait for a lock held by another process."""
DATABASE_FILE_SUFFIXES = ("", "-wal", "-shm")
"""Suffixes of the files that form one SQLite database."""
CREATE_TABLES_SQL = """
CREATE TABLE IF NOT EXISTS vectors (
    encoder TEXT NOT NULL, digest TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (encoder, digest));
CREATE TABLE IF NOT EXISTS images (
    reference TEXT PRIMARY KEY, digest TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL) WITHOUT ROWID;
"""
SELECT_VECTORS_SQL = (
    "SELECT digest, vector FROM vectors"
    " WHERE encoder = ? AND digest IN (SELECT value FROM json_each(?))"
)
SELECT_IMAGES_SQL = (
    "SELECT reference, digest, width, height FROM images"
    " WHERE reference IN (SELECT value FROM json_each(?))"
)
INSERT_VECTORS_SQL = "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)"
INSERT_IMAGES_SQL = "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)"


@dataclass(frozen=True)
class ImageInfo:
    """Digest and size of an image that was fetched before.

    Attributes:
        digest: SHA-256 of the file, hexadecimal.
        width: width of the upright image in pixels.
        height: height of the upright image in pixels.
    """

    digest: str
    width: int
    height: int


class EmbeddingCache:
    """Store embeddings by encoder and image digest, and image info by reference; thread-safe.

    Args:
        path: the database file; created if missing, replaced if damaged.

    Raises:
        StoreError: the file cannot be read or written; any method may raise it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self._execute(lambda database: None)

    def get_vectors(self, encoder_id: str, digests: Sequence[str]) -> dict[str, Floats]:
        """Return the cached embeddings by digest: (d,) float32, read-only.

        Args:
            encoder_id: ``Encoder.id``.
            digests: SHA-256 of the image files, hexadecimal.
        """
        keys = (encoder_id, json.dumps(list(digests)))
        rows = self._execute(lambda database: database.execute(SELECT_VECTORS_SQL, keys).fetchall())
        return {digest: np.frombuffer(blob, dtype="<f4") for digest, blob in rows}

    def put_vectors(self, encoder_id: str, digests: Sequence[str], vectors: npt.ArrayLike) -> None:
        """Store embeddings in one transaction, replacing existing ones.

        Args:
            encoder_id: ``Encoder.id``.
            digests: SHA-256 of the n image files, hexadecimal.
            vectors: (n, d) float32.
        """
        pairs = zip(digests, np.ascontiguousarray(vectors, dtype="<f4"), strict=True)
        rows = [(encoder_id, digest, vector.tobytes()) for digest, vector in pairs]
        self._insert_rows(INSERT_VECTORS_SQL, rows)

    def get_image_info(self, references: Sequence[str]) -> dict[str, ImageInfo]:
        """Return the cached image info by reference, without the missing ones."""
        keys = (json.dumps(list(references)),)
        rows = self._execute(lambda database: database.execute(SELECT_IMAGES_SQL, keys).fetchall())
        return {row[0]: ImageInfo(*row[1:]) for row in rows}

    def put_image_info(self, infos: Mapping[str, ImageInfo]) -> None:
        """Store image info by reference in one transaction, replacing existing entries."""
        rows = [(name, info.digest, info.width, info.height) for name, info in infos.items()]
        self._insert_rows(INSERT_IMAGES_SQL, rows)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None

    def _insert_rows(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        def insert(database: sqlite3.Connection) -> None:
            with database:
                database.executemany(statement, rows)

        self._execute(insert)

    def _execute(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation on the database; if the file is damaged, replace it and retry."""
        with self._lock, self._translate_errors():
            try:
                return operation(self._open())
            except sqlite3.OperationalError:  # locked, disk full, no permission
                raise
            except sqlite3.DatabaseError as error:
                self._quarantine(error)
                return operation(self._open())

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self._path, timeout=CACHE_LOCK_TIMEOUT_SECONDS, check_same_thread=False
            )
            self._inode = self._path.stat().st_ino
            _retry_while_locked(lambda: _create_tables(self._open()))
        return self._database

    def _quarantine(self, error: sqlite3.DatabaseError) -> None:
        """Rename the damaged files, unless another process already did."""
        from filelock import FileLock

        self.close()
        name, stamp = self._path.name, time.strftime("%Y%m%d-%H%M%S")
        new_name = f"{name}.damaged-{stamp}-{os.getpid()}"
        lock_file = self._path.with_name(f"{name}.lock")
        with FileLock(lock_file, timeout=CACHE_LOCK_TIMEOUT_SECONDS):
            if not self._path.exists() or self._path.stat().st_ino != self._inode:
                return
            for suffix in DATABASE_FILE_SUFFIXES:
                file = self._path.with_name(name + suffix)
                if file.exists():
                    file.rename(file.with_name(new_name + suffix))
        log.warning(
            f"The embedding cache {self._path} was damaged ({error}) and renamed to {new_name}. "
            "Embeddings are recomputed."
        )

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The embedding cache {self._path} cannot be used ({error}): free disk space, set "
                "PRELABEL_HOME to a folder that you can write to, or delete the file."
            ) from error


def _create_tables(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.executescript(CREATE_TABLES_SQL)


def _retry_while_locked(operation: Callable[[], None]) -> None:
    """Retry while another process enables WAL, for which SQLite's own timeout does not apply."""
    deadline = time.monotonic() + CACHE_LOCK_TIMEOUT_SECONDS
    while True:
        try:
            return operation()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
