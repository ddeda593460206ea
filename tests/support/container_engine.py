"""A small container engine: carries out the steps of a Dockerfile, and runs what they make.

Where no Docker is at hand this proves a Dockerfile and a compose file all the same. A step runs in
a root folder of its own, with what came before and nothing else; a service in that root, as its
user, without capabilities, with a read-only root where that is wanted. ``tests/support/compose_network.py`` gives
every service a network of its own with one address, on one bridge, found by name.

From this machine comes what images of others bring: the operating system, Python at /usr/local
(``FROM python``), uv (``FROM …/uv``), and uv's cache. Packages are links into that cache, and
bytecode is kept outside, so that no gigabytes are copied. It needs root, for mounts and networks.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin", "usr", "dev", "proc", "sys", "opt")
OUTSIDE = ("UV_", "PIP_", "SSL_", "HTTP_", "HTTPS_", "NO_", "http_", "https_", "no_", "CURL_CA_")
"""How variables begin that say how this machine reaches package indexes."""
CACHE = "/root/.cache/uv"
BYTECODE = "/var/bytecode"
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCAL_UV = {"UV_LINK_MODE": "symlink", "UV_COMPILE_BYTECODE": "0", "UV_CACHE_DIR": CACHE}


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    word: str
    text: str


def read_steps(dockerfile: str) -> list[Step]:
    """The instructions of a Dockerfile, without comments, each in one line."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Step(word.upper(), text.strip()) for word, text in split]


@dataclass
class Image:
    """What steps have made so far.

    Attributes:
        root: its file system.
        environment: of whatever runs in it.
        arguments: of the build.
        user: ``number:number``.
        folder: that commands run in.
        entrypoint: beginning of every command.
        command: its end, unless another one is given.
        health: command that succeeds where all is well.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


def let_through(context: Path, ignore: str) -> list[Path]:
    """The files of a folder that a ``.dockerignore`` lets through, relative to it."""
    rules = [line.strip() for line in ignore.splitlines()]
    patterns = [
        (line.startswith("!"), re.compile(_pattern(line.lstrip("!"))))
        for line in rules
        if line and not line.startswith("#")
    ]

    def passes(path: Path) -> bool:
        names = [str(path), *(str(parent) for parent in path.parents if parent != Path())]
        wanted = True
        for again, pattern in patterns:
            if any(pattern.match(name) for name in names):
                wanted = again
        return wanted

    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=context,
        capture_output=True,
        text=True,
        check=True,
    )
    files = {Path(name) for name in tracked.stdout.splitlines()}
    secrets = {context / ".env", context / "prelabel.env"}
    files |= {file.relative_to(context) for file in secrets if file.exists()}
    return sorted(file for file in files if passes(file) and (context / file).is_file())


def _pattern(rule: str) -> str:
    deep = rule.startswith("**/")
    return ("(?:.*/)?" if deep else "") + translate(rule.removeprefix("**/"))


class Builder:
    """Carries out a Dockerfile.

    Args:
        folder: where roots are made.
        context: the folder that COPY copies from.
        arguments: as ``docker build --build-arg`` gives them.
        uv: the program, for stages that are made of uv's image.
        cache: uv's, from which packages are taken.
    """

    def __init__(
        self, folder: Path, context: Path, arguments: Mapping[str, str], uv: Path, cache: Path
    ) -> None:
        self._folder = folder
        self._context = context
        self._given = arguments
        self._uv = uv
        self._cache = cache
        self._global: dict[str, str] = {}
        self._stages: dict[str, Image] = {}
        self.log: list[str] = []
        """Every command that was run."""

    def build(self, dockerfile: str) -> Image:
        """The last stage's image."""
        image: Image | None = None
        for step in read_steps(dockerfile):
            if step.word == "FROM":
                image = self._from(step.text)
            elif image is None:
                assert step.word == "ARG", step
                self._argument(self._global, step.text)
            else:
                getattr(self, f"_{step.word.lower()}")(image, step.text)
        assert image is not None
        return image

    def _from(self, text: str) -> Image:
        base, _, name = _filled(text, self._global).partition(" AS ")
        root = self._folder / (name or "final")
        image = Image(root, {"PATH": PATH, "HOME": "/root"})
        if "/uv:" in base:
            root.mkdir()
            shutil.copy(self._uv, root / "uv")
        else:
            assert base.startswith("python:"), f"{base}: only python and uv are at hand"
            make_root(root)
        self._stages[name] = image
        return image

    def _arg(self, image: Image, text: str) -> None:
        self._argument(image.arguments, text)

    def _argument(self, arguments: dict[str, str], text: str) -> None:
        name, _, default = text.partition("=")
        arguments[name] = self._given.get(name, default or self._global.get(name, ""))

    def _env(self, image: Image, text: str) -> None:
        for word in shlex.split(_filled(text, image.environment)):
            name, _, value = word.partition("=")
            image.environment[name] = value

    def _workdir(self, image: Image, text: str) -> None:
        image.folder = text
        host(image, text).mkdir(parents=True, exist_ok=True)

    def _copy(self, image: Image, text: str) -> None:
        *sources, target = text.split()
        goal = host(image, str(Path(image.folder, target)))
        if sources[0].startswith("--from="):
            other = self._stages[sources.pop(0).removeprefix("--from=")]
            for source in sources:
                goal.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-a", "-T", host(other, source), goal], check=True)
            return
        for file in let_through(self._context, (self._context / ".dockerignore").read_text()):
            if "." in sources or str(file) in sources:
                (goal / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self._context / file, goal / file)

    def _run(self, image: Image, text: str) -> None:
        command = re.sub(r"--mount=\S+\s*", "", text)
        self.log.append(command)
        assert image.user == "0:0", "steps run before USER"
        assert not command.startswith("apt-get"), "packages of Debian are not at hand"
        outside = {k: v for k, v in os.environ.items() if k.startswith(OUTSIDE)}
        environment = {**outside, **image.environment, **LOCAL_UV, **image.arguments}
        room = Room(image.root, environment, image.folder, binds={CACHE: self._cache})
        done = subprocess.run(
            room.command(["sh", "-e", "-c", command]), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout}{done.stderr}"

    def _user(self, image: Image, text: str) -> None:
        image.user = text

    def _volume(self, image: Image, text: str) -> None:
        assert host(image, text).is_dir()

    def _expose(self, image: Image, text: str) -> None:
        assert all(port.isdigit() for port in text.split())

    def _healthcheck(self, image: Image, text: str) -> None:
        image.health = json.loads(text.partition("CMD ")[2])

    def _entrypoint(self, image: Image, text: str) -> None:
        image.entrypoint = json.loads(text)

    def _cmd(self, image: Image, text: str) -> None:
        image.command = json.loads(text)


def make_root(root: Path) -> None:
    """A file system with an operating system that nobody has used."""
    for name in ("root", "tmp", "var/tmp", "run", "home"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/tmp").chmod(0o1777)
    subprocess.run(["cp", "-a", "/etc", root / "etc"], check=True)
    for name in ("passwd", "group"):  # only users that every Debian has
        file = root / "etc" / name
        rows = [row for row in file.read_text().splitlines() if not 1000 <= _number(row) < 60000]
        file.write_text("".join(f"{row}\n" for row in rows))
    for path in (Path("/", name) for name in SYSTEM):
        if path.is_symlink():
            (root / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            (root / path.name).mkdir()


def _number(row: str) -> int:
    return int(row.split(":")[2])


def host(image: Image, path: str) -> Path:
    """Where a path of an image is on this machine."""
    return image.root / path.lstrip("/")


def _filled(text: str, values: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced where they are known."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], found[0]), text)


@dataclass(frozen=True)
class Room:
    """How a program is started in a root.

    Attributes:
        root: what it sees as ``/``.
        environment: all of it.
        folder: that it starts in.
        user: ``number:number``.
        binds: folders of this machine, by where they are seen.
        read_only: the root is; /tmp and the binds are not.
        hosts: names → addresses.
    """

    root: Path
    environment: Mapping[str, str]
    folder: str = "/"
    user: str = "0:0"
    binds: Mapping[str, Path] = field(default_factory=dict)
    read_only: bool = False
    hosts: Mapping[str, str] = field(default_factory=dict)

    def command(self, inside: Sequence[str]) -> list[str]:
        """The command line that runs another one in the room."""
        root = shlex.quote(str(self.root))
        lines = ["set -e", f"mount --bind {root} {root}"]
        for name in SYSTEM:
            if Path("/", name).is_dir() and not Path("/", name).is_symlink():
                lines.append(f"mount --rbind /{name} {root}/{name}")
        if Path(sys.base_prefix) not in (Path("/usr"), Path("/usr/local")):
            # at its own place as well: its libraries are looked for there
            lines.append(f"mkdir -p {root}{shlex.quote(sys.base_prefix)}")
            for place in ("/usr/local", sys.base_prefix):
                bind = shlex.join(["mount", "--bind", sys.base_prefix, f"{self.root}{place}"])
                lines.append(bind)
        for target, source in self.binds.items():
            (self.root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {shlex.quote(str(source))} {root}{target}")
        if self.read_only:
            lines += [f"mount -o remount,bind,ro {root}", f"mount -t tmpfs tmpfs {root}/tmp"]  # noqa: S108
        user, _, group = self.user.partition(":")
        drop = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"]
        drop += ["--bounding-set=-all", "--inh-caps=-all"]
        given = [f"{name}={value}" for name, value in self.environment.items()]
        start = ["chroot", str(self.root), *(drop if user != "0" else ())]
        start += ["env", "-i", "-C", self.folder, *given, *inside]
        (self.root / "etc/hosts").write_text(hosts_file(self.hosts))
        return ["unshare", "--mount", "sh", "-c", "\n".join([*lines, f"exec {shlex.join(start)}"])]


def hosts_file(names: Mapping[str, str]) -> str:
    """``/etc/hosts``."""
    rows = {"localhost": "127.0.0.1", **names}
    return "".join(f"{address} {name}\n" for name, address in rows.items())
