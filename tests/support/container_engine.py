"""A small container engine: carries out the steps of a Dockerfile, and runs what they make.

Where no Docker is at hand this proves a Dockerfile and a compose file all the same. A step runs in
a root folder of its own, with what came before and nothing else; a service in that root, as its
user, without capabilities, with a read-only root where that is wanted. ``compose_network.py``
gives every service a network of its own with one address, on one bridge, found by name.

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

SYSTEM_FOLDERS = ("bin", "lib", "lib32", "lib64", "sbin", "usr", "dev", "proc", "sys", "opt")
NETWORK_VARIABLE_PREFIXES = (
    "UV_",
    "PIP_",
    "SSL_",
    "HTTP_",
    "HTTPS_",
    "NO_",
    "http_",
    "https_",
    "no_",
    "CURL_CA_",
)
"""Prefixes of variables that configure access to package indexes."""
UV_CACHE_FOLDER = "/root/.cache/uv"
BYTECODE_FOLDER = "/var/bytecode"
DEFAULT_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCAL_UV_ENVIRONMENT = {
    "UV_LINK_MODE": "symlink",
    "UV_COMPILE_BYTECODE": "0",
    "UV_CACHE_DIR": UV_CACHE_FOLDER,
}


@dataclass(frozen=True)
class DockerfileStep:
    """One instruction of a Dockerfile."""

    instruction: str
    arguments: str


def parse_dockerfile(dockerfile: str) -> list[DockerfileStep]:
    """Parse the instructions of a Dockerfile, without comments."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [DockerfileStep(word.upper(), text.strip()) for word, text in split]


@dataclass
class BuiltImage:
    """What steps have made so far.

    Attributes:
        root: its file system.
        environment: of whatever runs in it.
        arguments: of the build.
        user: ``number:number``.
        working_folder: that commands run in.
        entrypoint: beginning of every command.
        command: its end, unless another one is given.
        health_check: command that succeeds where all is well.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    working_folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health_check: list[str] = field(default_factory=list)


def list_build_context(context: Path, ignore: str) -> list[Path]:
    """List the files of a folder that ``.dockerignore`` includes, relative to it."""
    rules = [line.strip() for line in ignore.splitlines()]
    patterns = [
        (line.startswith("!"), re.compile(_ignore_pattern(line.lstrip("!"))))
        for line in rules
        if line and not line.startswith("#")
    ]

    def is_included(path: Path) -> bool:
        names = [str(path), *(str(parent) for parent in path.parents if parent != Path())]
        included = True
        for is_exception, pattern in patterns:
            if any(pattern.match(name) for name in names):
                included = is_exception
        return included

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
    return sorted(file for file in files if is_included(file) and (context / file).is_file())


def _ignore_pattern(rule: str) -> str:
    any_depth = rule.startswith("**/")
    return ("(?:.*/)?" if any_depth else "") + translate(rule.removeprefix("**/"))


class ImageBuilder:
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
        self._build_arguments = arguments
        self._uv = uv
        self._cache = cache
        self._global_arguments: dict[str, str] = {}
        self._stages: dict[str, BuiltImage] = {}
        self.run_commands: list[str] = []
        """All commands that were run."""

    def build(self, dockerfile: str) -> BuiltImage:
        """The image of the last stage."""
        image: BuiltImage | None = None
        for step in parse_dockerfile(dockerfile):
            if step.instruction == "FROM":
                image = self._from(step.arguments)
            elif image is None:
                assert step.instruction == "ARG", step
                self._set_argument(self._global_arguments, step.arguments)
            else:
                getattr(self, f"_{step.instruction.lower()}")(image, step.arguments)
        assert image is not None
        return image

    def _from(self, text: str) -> BuiltImage:
        base, _, name = _substitute_variables(text, self._global_arguments).partition(" AS ")
        root = self._folder / (name or "final")
        image = BuiltImage(root, {"PATH": DEFAULT_PATH, "HOME": "/root"})
        if "/uv:" in base:
            root.mkdir()
            shutil.copy(self._uv, root / "uv")
        else:
            assert base.startswith("python:"), f"{base}: only python and uv are at hand"
            make_root_filesystem(root)
        self._stages[name] = image
        return image

    def _arg(self, image: BuiltImage, text: str) -> None:
        self._set_argument(image.arguments, text)

    def _set_argument(self, arguments: dict[str, str], text: str) -> None:
        name, _, default = text.partition("=")
        arguments[name] = self._build_arguments.get(
            name, default or self._global_arguments.get(name, "")
        )

    def _env(self, image: BuiltImage, text: str) -> None:
        for word in shlex.split(_substitute_variables(text, image.environment)):
            name, _, value = word.partition("=")
            image.environment[name] = value

    def _workdir(self, image: BuiltImage, text: str) -> None:
        image.working_folder = text
        host_path(image, text).mkdir(parents=True, exist_ok=True)

    def _copy(self, image: BuiltImage, text: str) -> None:
        *sources, target = text.split()
        destination = host_path(image, str(Path(image.working_folder, target)))
        if sources[0].startswith("--from="):
            other = self._stages[sources.pop(0).removeprefix("--from=")]
            for source in sources:
                destination.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(
                    ["cp", "-a", "-T", host_path(other, source), destination], check=True
                )
            return
        for file in list_build_context(
            self._context, (self._context / ".dockerignore").read_text()
        ):
            if "." in sources or str(file) in sources:
                (destination / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self._context / file, destination / file)

    def _run(self, image: BuiltImage, text: str) -> None:
        command = re.sub(r"--mount=\S+\s*", "", text)
        self.run_commands.append(command)
        assert image.user == "0:0", "steps run before USER"
        assert not command.startswith("apt-get"), "packages of Debian are not at hand"
        network_environment = {
            k: v for k, v in os.environ.items() if k.startswith(NETWORK_VARIABLE_PREFIXES)
        }
        environment = {
            **network_environment,
            **image.environment,
            **LOCAL_UV_ENVIRONMENT,
            **image.arguments,
        }
        room = ChrootSandbox(
            image.root,
            environment,
            image.working_folder,
            bind_mounts={UV_CACHE_FOLDER: self._cache},
        )
        completed = subprocess.run(
            room.wrap_command(["sh", "-e", "-c", command]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, f"RUN {command}\n{completed.stdout}{completed.stderr}"

    def _user(self, image: BuiltImage, text: str) -> None:
        image.user = text

    def _volume(self, image: BuiltImage, text: str) -> None:
        assert host_path(image, text).is_dir()

    def _expose(self, image: BuiltImage, text: str) -> None:
        assert all(port.isdigit() for port in text.split())

    def _healthcheck(self, image: BuiltImage, text: str) -> None:
        image.health_check = json.loads(text.partition("CMD ")[2])

    def _entrypoint(self, image: BuiltImage, text: str) -> None:
        image.entrypoint = json.loads(text)

    def _cmd(self, image: BuiltImage, text: str) -> None:
        image.command = json.loads(text)


def make_root_filesystem(root: Path) -> None:
    """Create a root folder with the operating system of this machine."""
    for name in ("root", "tmp", "var/tmp", "run", "home"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/tmp").chmod(0o1777)
    subprocess.run(["cp", "-a", "/etc", root / "etc"], check=True)
    for name in ("passwd", "group"):  # only users that every Debian has
        file = root / "etc" / name
        rows = [row for row in file.read_text().splitlines() if not 1000 <= _user_id(row) < 60000]
        file.write_text("".join(f"{row}\n" for row in rows))
    for path in (Path("/", name) for name in SYSTEM_FOLDERS):
        if path.is_symlink():
            (root / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            (root / path.name).mkdir()


def _user_id(row: str) -> int:
    return int(row.split(":")[2])


def host_path(image: BuiltImage, path: str) -> Path:
    """Return the path on this machine of a path in an image."""
    return image.root / path.lstrip("/")


def _substitute_variables(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$NAME`` and ``${NAME}`` of known variables."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], found[0]), text)


@dataclass(frozen=True)
class ChrootSandbox:
    """How a program is started in a root.

    Attributes:
        root: what it sees as ``/``.
        environment: all of it.
        working_folder: that it starts in.
        user: ``number:number``.
        bind_mounts: folders of this machine, by where they are seen.
        read_only: the root is; /tmp and the binds are not.
        host_addresses: names → addresses.
    """

    root: Path
    environment: Mapping[str, str]
    working_folder: str = "/"
    user: str = "0:0"
    bind_mounts: Mapping[str, Path] = field(default_factory=dict)
    read_only: bool = False
    host_addresses: Mapping[str, str] = field(default_factory=dict)

    def wrap_command(self, inner_command: Sequence[str]) -> list[str]:
        """Return the command line that runs another one in the root folder."""
        root = shlex.quote(str(self.root))
        lines = ["set -e", f"mount --bind {root} {root}"]
        for name in SYSTEM_FOLDERS:
            if Path("/", name).is_dir() and not Path("/", name).is_symlink():
                lines.append(f"mount --rbind /{name} {root}/{name}")
        if Path(sys.base_prefix) not in (Path("/usr"), Path("/usr/local")):
            # at its own place as well: its libraries are looked for there
            lines.append(f"mkdir -p {root}{shlex.quote(sys.base_prefix)}")
            for mount_point in ("/usr/local", sys.base_prefix):
                bind = shlex.join(["mount", "--bind", sys.base_prefix, f"{self.root}{mount_point}"])
                lines.append(bind)
        for target, source in self.bind_mounts.items():
            (self.root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {shlex.quote(str(source))} {root}{target}")
        if self.read_only:
            lines += [f"mount -o remount,bind,ro {root}", f"mount -t tmpfs tmpfs {root}/tmp"]  # noqa: S108
        user, _, group = self.user.partition(":")
        privilege_arguments = [
            "setpriv",
            "--reuid",
            user,
            "--regid",
            group,
            "--clear-groups",
            "--no-new-privs",
        ]
        privilege_arguments += ["--bounding-set=-all", "--inh-caps=-all"]
        environment_arguments = [f"{name}={value}" for name, value in self.environment.items()]
        chroot_command = ["chroot", str(self.root), *(privilege_arguments if user != "0" else ())]
        chroot_command += [
            "env",
            "-i",
            "-C",
            self.working_folder,
            *environment_arguments,
            *inner_command,
        ]
        (self.root / "etc/hosts").write_text(render_hosts_file(self.host_addresses))
        return [
            "unshare",
            "--mount",
            "sh",
            "-c",
            "\n".join([*lines, f"exec {shlex.join(chroot_command)}"]),
        ]


def render_hosts_file(host_addresses: Mapping[str, str]) -> str:
    """Return the text of ``/etc/hosts``."""
    rows = {"localhost": "127.0.0.1", **host_addresses}
    return "".join(f"{address} {name}\n" for name, address in rows.items())
