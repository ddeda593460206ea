"""Run the services of a compose file, each in a network of its own.

``container_engine.py`` builds the images and their root folders. This module connects them.
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

from tests.support.container_engine import (
    BYTECODE_FOLDER,
    UV_CACHE_FOLDER,
    BuiltImage,
    ChrootSandbox,
    host_path,
)

T = TypeVar("T")
SUBNET_PREFIX = "172.30.91"
VARIABLE_PATTERN = r"\$\{(?P<name>\w+)(?:(?P<mode>:[-?])(?P<rest>[^}]*))?\}"
CLONE_NEWNET_FLAG = 0x40000000


class ServiceNetwork:
    """A bridge and the networks of services on it, until :meth:`close`.

    Args:
        services: as a compose file has them.
    """

    def __init__(self, services: Mapping[str, Any]) -> None:
        self.addresses = {
            name: f"{SUBNET_PREFIX}.{number}" for number, name in enumerate(services, 2)
        }
        self.host_addresses = dict(self.addresses)
        for name, service in services.items():
            aliases = service.get("networks", {}).get("default", {}).get("aliases", ())
            self.host_addresses |= dict.fromkeys(aliases, self.addresses[name])
        self._namespace_holders: dict[str, subprocess.Popen[bytes]] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._bridge = self._start_namespace_holder()
        self._run_in_namespace(self._bridge, "ip link set lo up && ip link add street type bridge")
        self._run_in_namespace(
            self._bridge, f"ip address add {SUBNET_PREFIX}.1/24 dev street && ip link set street up"
        )
        for name, address in self.addresses.items():
            self._namespace_holders[name] = namespace_holder = self._start_namespace_holder()
            number = address.rpartition(".")[2]
            pair = f"ip link add port{number} type veth peer name eth0 netns {namespace_holder.pid}"
            self._run_in_namespace(
                self._bridge, f"{pair} && ip link set port{number} master street up"
            )
            up = f"ip address add {address}/24 dev eth0 && ip link set eth0 up"
            self._run_in_namespace(namespace_holder, f"ip link set lo up && {up}")
        self._bridge_thread = ThreadPoolExecutor(1, initializer=self._enter_bridge_namespace)

    def call_on_bridge(self, work: Callable[[], T]) -> T:
        """Call a function from a machine on the bridge."""
        return self._bridge_thread.submit(work).result()

    def start(self, service: str, command: Sequence[str], log: Path, **options: Any) -> None:
        """Start the program of a service."""
        with log.open("ab") as file:
            self._running.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *self._enter_command(service), *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    **options,
                )
            )

    def run(
        self, service: str, command: Sequence[str], seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program where a service runs, as ``docker exec`` does."""
        return subprocess.run(
            [*self._enter_command(service), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def close(self) -> None:
        """Stop everything."""
        self._bridge_thread.shutdown()
        for process in [*self._running, *self._namespace_holders.values(), self._bridge]:
            _terminate(process)

    def _enter_command(self, service: str) -> list[str]:
        return ["nsenter", "--target", str(self._namespace_holders[service].pid), "--net"]

    def _enter_bridge_namespace(self) -> None:
        """Move only this thread into the network of the bridge."""
        with Path(f"/proc/{self._bridge.pid}/ns/net").open() as namespace_file:
            assert (
                ctypes.CDLL(None, use_errno=True).setns(namespace_file.fileno(), CLONE_NEWNET_FLAG)
                == 0
            )

    @staticmethod
    def _start_namespace_holder() -> subprocess.Popen[bytes]:
        """Start a process that only holds a network namespace."""
        own_namespace = Path("/proc/self/ns/net").readlink()
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        holder = subprocess.Popen(command, start_new_session=True)
        while Path(f"/proc/{holder.pid}/ns/net").readlink() == own_namespace:
            assert holder.poll() is None
            time.sleep(0.01)
        return holder

    @staticmethod
    def _run_in_namespace(holder: subprocess.Popen[bytes], script: str) -> None:
        command = ["nsenter", "--target", str(holder.pid), "--net", "sh", "-c", script]
        subprocess.run(command, check=True)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its group."""
    for signal_number in (15, 9):
        try:
            os.killpg(process.pid, signal_number)
            process.wait(timeout=10)
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue
        else:
            return


def missing_capability() -> str:
    """Return why namespaces are not available here; empty if they are."""
    for tool in ("unshare", "nsenter", "setpriv", "chroot", "ip", "git"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    script = "mount --bind /tmp /tmp && ip link add street type bridge"
    completed = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        ""
        if completed.returncode == 0 and os.geteuid() == 0
        else f"not allowed: {completed.stderr}"
    )


# -- compose --------------------------------------------------------------------------------


def read_compose(text: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read a compose file and fill in its variables.

    Raises:
        KeyError: a variable that must be there is missing or empty.
    """

    def value(compose: re.Match[str]) -> str:
        name, mode, default = compose["name"], compose["mode"], compose["rest"]
        if variables.get(name):
            return variables[name]
        if mode == ":?":
            raise KeyError(f"{name} {default}")
        return default or ""

    def substitute(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: substitute(one) for name, one in node.items()}
        if isinstance(node, list):
            return [substitute(one) for one in node]
        return re.sub(VARIABLE_PATTERN, value, node) if isinstance(node, str) else node

    compose: dict[str, Any] = substitute(yaml.safe_load(text))
    return compose


def read_env(text: str) -> dict[str, str]:
    """Read a ``.env`` file; the last line of a name counts."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def make_service_sandbox(
    image: BuiltImage,
    service: Mapping[str, Any],
    volumes: Path,
    hosts: Mapping[str, str],
    cache: Path,
) -> ChrootSandbox:
    """Return the sandbox in which compose would run a service of an image.

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
    binds = {BYTECODE_FOLDER: bytecode, UV_CACHE_FOLDER: cache}
    for entry in service.get("volumes", ()):
        name, target = entry.split(":")[:2]
        binds[target] = volumes / name
        if not (volumes / name).exists():  # a new volume is a copy of what the image has there
            subprocess.run(["cp", "-a", host_path(image, target), volumes / name], check=True)
    return ChrootSandbox(
        image.root,
        {
            **image.environment,
            "PYTHONPYCACHEPREFIX": BYTECODE_FOLDER,
            **service.get("environment", {}),
        },
        image.working_folder,
        image.user,
        binds,
        bool(service.get("read_only")),
        hosts,
    )
