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

FileStamp = tuple[int, int]
FOLDER_STAMP: FileStamp = (-1, -1)


@dataclass
class VolumeView:
    """A volume's own folder and the folder mounted into one container.

    Both are the same folder where namespaces are not available.
    """

    volume_id: str
    volume_folder: Path
    mounted_folder: Path
    read_only: bool
    _last_scan: dict[str, FileStamp] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.volume_folder.mkdir(parents=True, exist_ok=True)
        self.mounted_folder.mkdir(parents=True, exist_ok=True)
        self.reload()

    def commit(self) -> None:
        """Take what changed here since the last time over into the volume."""
        if self.read_only or self.volume_folder == self.mounted_folder:
            return
        current = scan_folder(self.mounted_folder)
        changed = {path for path, stamp in current.items() if self._last_scan.get(path) != stamp}
        _remove_paths(self.volume_folder, self._last_scan.keys() - current.keys())
        _copy_paths(self.mounted_folder, self.volume_folder, changed)
        self._last_scan = current

    def reload(self) -> None:
        """Commit, then become what the volume is."""
        if self.volume_folder == self.mounted_folder:
            return
        self.commit()
        mounted, stored = scan_folder(self.mounted_folder), scan_folder(self.volume_folder)
        _remove_paths(self.mounted_folder, mounted.keys() - stored.keys())
        _copy_paths(
            self.volume_folder,
            self.mounted_folder,
            {p for p, stamp in stored.items() if mounted.get(p) != stamp},
        )
        self._last_scan = scan_folder(self.mounted_folder)

    def open_files(self, processes: Iterable[int]) -> list[str]:
        """The files that processes have open, by their paths inside."""
        inodes = {
            (s.st_dev, s.st_ino): p for p in self.mounted_folder.rglob("*") if (s := p.lstat())
        }
        open_paths = set()
        for process in processes:
            with contextlib.suppress(OSError):
                for handle in Path(f"/proc/{process}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        file_status = handle.stat()
                        path = inodes.get((file_status.st_dev, file_status.st_ino))
                        if path is not None:
                            open_paths.add(str(path.relative_to(self.mounted_folder)))
        return sorted(open_paths)


def scan_folder(folder: Path) -> dict[str, FileStamp]:
    """Every path below a folder, with its time and size."""
    stamps = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            file_status = path.lstat()
            stamp = (
                FOLDER_STAMP if path.is_dir() else (file_status.st_mtime_ns, file_status.st_size)
            )
            stamps[str(path.relative_to(folder))] = stamp
    return stamps


def _remove_paths(folder: Path, paths: Iterable[str]) -> None:
    for path in sorted(paths, reverse=True):
        target = folder / path
        if target.is_dir() and not target.is_symlink():
            with contextlib.suppress(OSError):
                target.rmdir()
        else:
            target.unlink(missing_ok=True)


def _copy_paths(source: Path, target: Path, paths: Iterable[str]) -> None:
    """Copy paths; a file is replaced at once, never half."""
    for path in sorted(paths):
        target_path = target / path
        if (source / path).is_dir() and not (source / path).is_symlink():
            target_path.mkdir(parents=True, exist_ok=True)
        else:
            target_path.parent.mkdir(parents=True, exist_ok=True)
            partial_file = target_path.with_name(f".{target_path.name}.half")
            shutil.copy2(source / path, partial_file, follow_symlinks=False)
            partial_file.replace(target_path)
