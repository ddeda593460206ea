"""A volume as one container sees it: as it was at the start or the last reload, and its own writes.

What a container writes, others see after its commit and their reload, as in the cloud; at its end a
container commits. Where rooms are no namespaces, all containers share the volume's own folder.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Stamp = tuple[int, int]
FOLDER: Stamp = (-1, -1)


@dataclass
class View:
    """``store`` is the volume's folder, ``folder`` what is mounted; the same one when shared."""

    volume: str
    store: Path
    folder: Path
    read_only: bool
    _known: dict[str, Stamp] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reload()

    def commit(self) -> None:
        """Take what changed here since the last time over into the volume."""
        if self.read_only or self.store == self.folder:
            return
        now = manifest(self.folder)
        changed = {path for path, stamp in now.items() if self._known.get(path) != stamp}
        _remove(self.store, self._known.keys() - now.keys())
        _copy(self.folder, self.store, changed)
        self._known = now

    def reload(self) -> None:
        """Commit, then become what the volume is."""
        if self.store == self.folder:
            return
        self.commit()
        here, there = manifest(self.folder), manifest(self.store)
        _remove(self.folder, here.keys() - there.keys())
        _copy(self.store, self.folder, {p for p, stamp in there.items() if here.get(p) != stamp})
        self._known = manifest(self.folder)

    def open_files(self, processes: Iterable[int]) -> list[str]:
        """The files that processes have open, by their paths inside."""
        inodes = {(s.st_dev, s.st_ino): p for p in self.folder.rglob("*") if (s := p.lstat())}
        found = set()
        for process in processes:
            with contextlib.suppress(OSError):
                for handle in Path(f"/proc/{process}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        known = handle.stat()
                        path = inodes.get((known.st_dev, known.st_ino))
                        if path is not None:
                            found.add(str(path.relative_to(self.folder)))
        return sorted(found)


def manifest(folder: Path) -> dict[str, Stamp]:
    """Every path below a folder, with its time and size."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            known = path.lstat()
            stamp = FOLDER if path.is_dir() else (known.st_mtime_ns, known.st_size)
            found[str(path.relative_to(folder))] = stamp
    return found


def _remove(folder: Path, paths: Iterable[str]) -> None:
    for path in sorted(paths, reverse=True):
        target = folder / path
        if target.is_dir() and not target.is_symlink():
            with contextlib.suppress(OSError):
                target.rmdir()
        else:
            target.unlink(missing_ok=True)


def _copy(source: Path, target: Path, paths: Iterable[str]) -> None:
    """Copy paths; a file is replaced at once, never half."""
    for path in sorted(paths):
        into = target / path
        if (source / path).is_dir() and not (source / path).is_symlink():
            into.mkdir(parents=True, exist_ok=True)
        else:
            into.parent.mkdir(parents=True, exist_ok=True)
            half = into.with_name(f".{into.name}.half")
            shutil.copy2(source / path, half, follow_symlinks=False)
            half.replace(into)
