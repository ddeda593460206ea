"""A small container engine: carries out the steps of a Dockerfile, and connects what runs.

Where no Docker is at hand this proves a Dockerfile and a compose file all the same. A step runs in
a root folder of its own, with what came before and nothing else; a service in that root, as its
user, without capabilities, with a read-only root where that is wanted; and every service has a
network of its own with one address, on one bridge, found by name.

From this machine comes what images of others bring: the operating system, Python at /usr/local
(``FROM python``), uv (``FROM …/uv``), and uv's cache. Packages are links into that cache, and
bytecode is kept outside, so that no gigabytes are copied. It needs root, for mounts and networks.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin", "usr", "dev", "proc", "sys", "opt")
OUTSIDE = ("UV_", "PIP_", "SSL_", "HTTP_", "HTTPS_", "NO_", "http_", "https_", "no_", "CURL_CA_")
"""How variables begin that say how this machine reaches package indexes."""
CACHE = "/root/.cache/uv"
BYTECODE = "/var/bytecode"
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
SUBNET = "172.30.91"
VARIABLE = r"\$\{(?P<name>\w+)(?:(?P<mode>:[-?])(?P<rest>[^}]*))?\}"
CLONE_NEWNET = 0x40000000
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


class Street:
    """A bridge, and the networks of services on it; all end with :meth:`close`.

    Args:
        services: as a compose file has them.
    """

    def __init__(self, services: Mapping[str, Any]) -> None:
        self.addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(services, 2)}
        self.hosts = dict(self.addresses)
        for name, service in services.items():
            known = service.get("networks", {}).get("default", {}).get("aliases", ())
            self.hosts |= dict.fromkeys(known, self.addresses[name])
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._bridge = self._keeper()
        self._in(self._bridge, "ip link set lo up && ip link add street type bridge")
        self._in(self._bridge, f"ip address add {SUBNET}.1/24 dev street && ip link set street up")
        for name, address in self.addresses.items():
            self._keepers[name] = keeper = self._keeper()
            number = address.rpartition(".")[2]
            pair = f"ip link add port{number} type veth peer name eth0 netns {keeper.pid}"
            self._in(self._bridge, f"{pair} && ip link set port{number} master street up")
            up = f"ip address add {address}/24 dev eth0 && ip link set eth0 up"
            self._in(keeper, f"ip link set lo up && {up}")
        self._visitor = ThreadPoolExecutor(1, initializer=self._enter)

    def visit(self, work: Callable[[], T]) -> T:
        """Do something as a machine of the street."""
        return self._visitor.submit(work).result()

    def start(self, service: str, command: Sequence[str], log: Path, **more: Any) -> None:
        """Start a service's program."""
        with log.open("ab") as file:
            self._running.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *self._at(service), *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    **more,
                )
            )

    def run(
        self, service: str, command: Sequence[str], seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program where a service runs, as ``docker exec`` does."""
        return subprocess.run(
            [*self._at(service), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def close(self) -> None:
        """End everything."""
        self._visitor.shutdown()
        for process in [*self._running, *self._keepers.values(), self._bridge]:
            _end(process)

    def _at(self, service: str) -> list[str]:
        return ["nsenter", "--target", str(self._keepers[service].pid), "--net"]

    def _enter(self) -> None:
        """Bring this thread, and no other, into the street's network."""
        with Path(f"/proc/{self._bridge.pid}/ns/net").open() as space:
            assert ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) == 0

    @staticmethod
    def _keeper() -> subprocess.Popen[bytes]:
        """A process that does nothing but have a network."""
        here = Path("/proc/self/ns/net").readlink()
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        keeper = subprocess.Popen(command, start_new_session=True)
        while Path(f"/proc/{keeper.pid}/ns/net").readlink() == here:
            assert keeper.poll() is None
            time.sleep(0.01)
        return keeper

    @staticmethod
    def _in(keeper: subprocess.Popen[bytes], script: str) -> None:
        command = ["nsenter", "--target", str(keeper.pid), "--net", "sh", "-c", script]
        subprocess.run(command, check=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    for sign in (15, 9):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=10)
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue
        else:
            return


def why_not() -> str:
    """Why rooms and streets cannot be had here; empty where they can."""
    for tool in ("unshare", "nsenter", "setpriv", "chroot", "ip", "git"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    script = "mount --bind /tmp /tmp && ip link add street type bridge"
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 and os.geteuid() == 0 else f"not allowed: {done.stderr}"


# -- compose --------------------------------------------------------------------------------


def read_compose(text: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """A compose file with its variables filled in.

    Raises:
        KeyError: a variable that must be there is missing or empty.
    """

    def value(found: re.Match[str]) -> str:
        name, mode, rest = found["name"], found["mode"], found["rest"]
        if variables.get(name):
            return variables[name]
        if mode == ":?":
            raise KeyError(f"{name} {rest}")
        return rest or ""

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: filled(one) for name, one in part.items()}
        if isinstance(part, list):
            return [filled(one) for one in part]
        return re.sub(VARIABLE, value, part) if isinstance(part, str) else part

    found: dict[str, Any] = filled(yaml.safe_load(text))
    return found


def read_env(text: str) -> dict[str, str]:
    """A ``.env`` file; the last line of a name counts."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def room_of(
    image: Image,
    service: Mapping[str, Any],
    volumes: Path,
    hosts: Mapping[str, str],
    cache: Path,
) -> Room:
    """The room that compose would run a service of an image in.

    Args:
        image: of the service.
        service: as the compose file has it.
        volumes: where named volumes are, and bytecode, which lasts from one program to the next.
        hosts: the addresses of all services, by name.
        cache: of uv, which the packages are links into.
    """
    bytecode = volumes / "bytecode"
    bytecode.mkdir(exist_ok=True)
    bytecode.chmod(0o1777)
    binds = {BYTECODE: bytecode, CACHE: cache}
    for entry in service.get("volumes", ()):
        name, target = entry.split(":")[:2]
        binds[target] = volumes / name
        if not (volumes / name).exists():  # a new volume is a copy of what the image has there
            subprocess.run(["cp", "-a", host(image, target), volumes / name], check=True)
    return Room(
        image.root,
        {**image.environment, "PYTHONPYCACHEPREFIX": BYTECODE, **service.get("environment", {})},
        image.folder,
        image.user,
        binds,
        bool(service.get("read_only")),
        hosts,
    )
