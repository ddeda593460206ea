"""A container's room: a file system of its own in which only what was mounted can be seen.

With a mount namespace (root, or a kernel that lets users have one) the container is changed into a
root folder of its own: the operating system and the Python environment are bound into it, the files
that were mounted lie at their real paths, and volumes are bound at theirs, read-only ones refusing
writes. The project's checkout is not there. Where no namespace can be had, the process runs in the
host's file system, in the folder with the mounted files, and volumes are symbolic links at their
real paths: then a read-only volume can be written, which only the facts show.

Either way Python runs with ``-S``: no ``.pth`` file adds the project, installed as editable.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import site
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM_FOLDERS = (
    "bin",
    "lib",
    "lib32",
    "lib64",
    "sbin",
    "usr",
    "etc",
    "opt",
    "dev",
    "proc",
    "sys",
    "nix",
)
HOME_FOLDER = "/root"


@dataclass(frozen=True)
class BindMount:
    """A folder of the host that is seen at a path of the room."""

    source: Path
    target: str
    read_only: bool = False


@functools.cache
def find_namespace_command() -> tuple[str, ...]:
    """How to run a command with mounts of its own; empty where that is not allowed."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        try:
            completed = subprocess.run([*command, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            return ()
        if completed.returncode == 0:
            return command
    return ()


class ContainerSandbox:
    """The folder of a container, and how a program is started in it.

    ``link_counts`` counts, for a whole plane, how many rooms use a symbolic link to a volume.
    """

    def __init__(self, folder: Path, namespace: bool, link_counts: Counter[Path]) -> None:
        self.working_folder = folder
        self.has_namespace = namespace
        self.root = folder / "root"
        self._bind_mounts: list[BindMount] = []
        self._link_counts = link_counts
        self._links: list[Path] = []
        for name in ("root", "tmp", "var/tmp", "__modal"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)

    def inside_path(self, path: str) -> str:
        """What a path of the room is called by the program inside."""
        return path if self.has_namespace else str(self.host_path(path))

    def host_path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def add_file(self, path: str, content: Path, mode: int) -> None:
        """Lay a mounted file at its place."""
        target = self.host_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(content, target)
        target.chmod(mode or 0o644)

    def add_volume(self, bind: BindMount) -> None:
        """Make a volume visible at its path."""
        if self.has_namespace:
            self._add_bind_mount(bind)
        else:
            self._add_symlink(bind)

    def _add_symlink(self, bind: BindMount) -> None:
        path = Path(bind.target)
        if not self._link_counts[path]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(bind.source)
        elif path.readlink() != bind.source:
            raise RuntimeError(f"{path} is in use for another volume")
        self._link_counts[path] += 1
        self._links.append(path)

    def _add_bind_mount(self, bind: BindMount) -> None:
        target = self.host_path(bind.target)
        if bind.source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        self._bind_mounts.append(bind)

    def entrypoint_command(self, visible_folders: Sequence[Path]) -> list[str]:
        """The command line that runs Modal's entrypoint in the room."""
        python = [sys.executable, "-S", "-m", "modal._container_entrypoint"]
        death_signal_command = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        if not self.has_namespace:
            return [*death_signal_command, *python]
        self._bind_system(visible_folders)
        lines = [
            "set -e",
            *(line for bind in self._bind_mounts for line in self._mount_commands(bind)),
        ]
        chroot_command = ["chroot", str(self.root), "env", "-C", HOME_FOLDER, *python]
        script = "\n".join([*lines, "exec " + shlex.join(chroot_command)])
        return [*death_signal_command, *find_namespace_command(), "sh", "-c", script]

    def _mount_commands(self, bind: BindMount) -> list[str]:
        source, target = (
            shlex.quote(str(bind.source)),
            shlex.quote(str(self.host_path(bind.target))),
        )
        lines = [f"mount --rbind {source} {target}"]
        if bind.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
        return lines

    def _bind_system(self, visible_folders: Sequence[Path]) -> None:
        """Bind the operating system and the Python environment into the room."""
        volume_mounts, self._bind_mounts = self._bind_mounts, []
        for path in (Path("/", name) for name in SYSTEM_FOLDERS):
            if path.is_symlink():
                self.host_path(str(path)).symlink_to(path.readlink())
            elif path.is_dir():
                self._add_bind_mount(BindMount(path, str(path)))
        needed_folders = [Path(sys.base_prefix), Path(sys.prefix), *visible_folders]
        for path in needed_folders:
            if not any(path.is_relative_to(bind.target) for bind in self._bind_mounts):
                self._add_bind_mount(BindMount(path, str(path)))
        self._bind_mounts += volume_mounts

    def process_environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """What the program inside finds in its environment: nothing of the caller's."""
        packages = [path for path in site.getsitepackages() if Path(path).is_dir()]
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": self.inside_path(HOME_FOLDER),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([self.inside_path(HOME_FOLDER), *packages]),
            "PYTHONUNBUFFERED": "1",
            **variables,
        }

    def process_ids(self) -> list[int]:
        """The numbers of the processes that live in the room, however they were started."""
        pids = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "root").readlink() == self.root:
                    pids.append(int(process.name))
        return pids

    def remove_files(self) -> None:
        """Take everything away; the mounts went with the last process."""
        for link in self._links:
            self._link_counts[link] -= 1
            if not self._link_counts[link]:
                link.unlink(missing_ok=True)
        if str(self.root) in Path("/proc/self/mountinfo").read_text():
            raise RuntimeError(f"something of the host is still mounted in {self.root}")
        shutil.rmtree(self.root, ignore_errors=True)
