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

SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin", "usr", "etc", "opt", "dev", "proc", "sys", "nix")
HOME = "/root"


@dataclass(frozen=True)
class Bind:
    """A folder of the host that is seen at a path of the room."""

    source: Path
    target: str
    read_only: bool = False


@functools.cache
def namespace_command() -> tuple[str, ...]:
    """How to run a command with mounts of its own; empty where that is not allowed."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        try:
            done = subprocess.run([*command, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            return ()
        if done.returncode == 0:
            return command
    return ()


class Room:
    """The folder of a container, and how a program is started in it.

    ``links`` counts, for a whole plane, how many rooms use a symbolic link to a volume.
    """

    def __init__(self, folder: Path, namespace: bool, links: Counter[Path]) -> None:
        self.folder = folder
        self.namespace = namespace
        self.root = folder / "root"
        self._binds: list[Bind] = []
        self._all_links = links
        self._links: list[Path] = []
        for name in ("root", "tmp", "var/tmp", "__modal"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)

    def seen(self, path: str) -> str:
        """What a path of the room is called by the program inside."""
        return path if self.namespace else str(self.host(path))

    def host(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def add_file(self, path: str, content: Path, mode: int) -> None:
        """Lay a mounted file at its place."""
        target = self.host(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(content, target)
        target.chmod(mode or 0o644)

    def add_volume(self, bind: Bind) -> None:
        """Make a volume visible at its path."""
        if self.namespace:
            self._bind(bind)
        else:
            self._link(bind)

    def _link(self, bind: Bind) -> None:
        path = Path(bind.target)
        if not self._all_links[path]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(bind.source)
        elif path.readlink() != bind.source:
            raise RuntimeError(f"{path} is in use for another volume")
        self._all_links[path] += 1
        self._links.append(path)

    def _bind(self, bind: Bind) -> None:
        target = self.host(bind.target)
        if bind.source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        self._binds.append(bind)

    def command(self, visible: Sequence[Path]) -> list[str]:
        """The command line that runs Modal's entrypoint in the room."""
        python = [sys.executable, "-S", "-m", "modal._container_entrypoint"]
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        if not self.namespace:
            return [*guard, *python]
        self._system(visible)
        lines = ["set -e", *(line for bind in self._binds for line in self._mount(bind))]
        inside = ["chroot", str(self.root), "env", "-C", HOME, *python]
        script = "\n".join([*lines, "exec " + shlex.join(inside)])
        return [*guard, *namespace_command(), "sh", "-c", script]

    def _mount(self, bind: Bind) -> list[str]:
        source, target = shlex.quote(str(bind.source)), shlex.quote(str(self.host(bind.target)))
        lines = [f"mount --rbind {source} {target}"]
        if bind.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
        return lines

    def _system(self, visible: Sequence[Path]) -> None:
        """Bind the operating system and the Python environment into the room."""
        volumes, self._binds = self._binds, []
        for path in (Path("/", name) for name in SYSTEM):
            if path.is_symlink():
                self.host(str(path)).symlink_to(path.readlink())
            elif path.is_dir():
                self._bind(Bind(path, str(path)))
        wanted = [Path(sys.base_prefix), Path(sys.prefix), *visible]
        for path in wanted:
            if not any(path.is_relative_to(bind.target) for bind in self._binds):
                self._bind(Bind(path, str(path)))
        self._binds += volumes

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What the program inside finds in its environment: nothing of the caller's."""
        packages = [path for path in site.getsitepackages() if Path(path).is_dir()]
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": self.seen(HOME),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([self.seen(HOME), *packages]),
            "PYTHONUNBUFFERED": "1",
            **more,
        }

    def processes(self) -> list[int]:
        """The numbers of the processes that live in the room, however they were started."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "root").readlink() == self.root:
                    found.append(int(process.name))
        return found

    def clear(self) -> None:
        """Take everything away; the mounts went with the last process."""
        for link in self._links:
            self._all_links[link] -= 1
            if not self._all_links[link]:
                link.unlink(missing_ok=True)
        if str(self.root) in Path("/proc/self/mountinfo").read_text():
            raise RuntimeError(f"something of the host is still mounted in {self.root}")
        shutil.rmtree(self.root, ignore_errors=True)
