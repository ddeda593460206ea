"""Services beside each other as a compose file has them, each with a network of its own.

See ``tests/support/container_engine.py``: that makes the images and rooms, this connects what runs in them.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.support.container_engine import BYTECODE, CACHE, Image, Room, host

T = TypeVar("T")
SUBNET = "172.30.91"
VARIABLE = r"\$\{(?P<name>\w+)(?:(?P<mode>:[-?])(?P<rest>[^}]*))?\}"
CLONE_NEWNET = 0x40000000


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
