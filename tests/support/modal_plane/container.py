"""One container: Modal's real entrypoint in a process and a room of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modal_proto import api_pb2

from tests.support.modal_plane.grpc_service import CONTAINER_HEADER
from tests.support.modal_plane.sandbox import Bind, Room, namespace_command
from tests.support.modal_plane.state import Deployed, Job, Ledger
from tests.support.modal_plane.volume_view import View

ARGUMENTS = "/__modal/arguments.bin"
RESTORED = "/__modal/restore-state.json"


@dataclass(frozen=True)
class Setting:
    """What all containers of a plane have in common."""

    url: str
    environment_name: str
    environment: Mapping[str, str]
    visible: Sequence[Path]
    namespaces: bool
    links: Counter[Path] = field(default_factory=Counter)


@dataclass
class Container:
    """A container's state, as the pools and the tests see it."""

    id: str
    function: Deployed
    room: Room
    log: Path
    views: list[View] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    running: dict[str, Job] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    served: int = 0
    ready: bool = False
    stopping: bool = False
    exit_code: int | None = None
    process: asyncio.subprocess.Process | None = None

    @property
    def ended(self) -> bool:
        return self.exit_code is not None

    @property
    def slots(self) -> int:
        """How many more inputs it can take."""
        message = self.function.message
        room = max(message.max_concurrent_inputs, message.batch_max_size, 1)
        if message.single_use_containers and self.served:
            return 0
        return 0 if self.stopping or self.ended else room - len(self.running)

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        self.stopping = True
        if self.process is None or self.ended:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.sweep()

    def clear(self) -> None:
        """Take away its files; what it did not commit is lost."""
        self.room.clear()
        shutil.rmtree(self.room.folder / "volumes", ignore_errors=True)

    def open_files(self, volume: str) -> list[str]:
        """The files of a volume that the container has open."""
        processes = self.room.processes()
        if self.process is not None:
            processes.append(self.process.pid)
        views = [view for view in self.views if view.volume == volume]
        return [path for view in views for path in view.open_files(processes)]

    def sweep(self) -> None:
        """End processes that left the container's group but not its room."""
        for process in self.room.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def prepare(ledger: Ledger, function: Deployed, setting: Setting) -> Container:
    """Make the room of a new container and lay everything in it."""
    name = ledger.new("ta")
    folder = ledger.folder / "containers" / name
    room = Room(folder, setting.namespaces and bool(namespace_command()), setting.links)
    container = Container(name, function, room, folder / "log")
    for path, file in ledger.mounted(function.message).items():
        room.add_file(path, ledger.content(file.sha256_hex), file.mode)
    for mount in sorted(function.message.volume_mounts, key=lambda each: each.mount_path):
        store = ledger.volume(mount.volume_id).path(mount.sub_path)
        own = folder / "volumes" / str(len(container.views))
        seen = own if room.namespace else store
        container.views.append(View(mount.volume_id, store, seen, mount.read_only))
        room.add_volume(Bind(seen, mount.mount_path, mount.read_only))
    arguments = _arguments(ledger, container, setting)
    room.host(ARGUMENTS).write_bytes(arguments.SerializeToString())
    return container


async def start(ledger: Ledger, container: Container, setting: Setting) -> None:
    """Start the process; its output goes to the log."""
    room = container.room
    command = room.command(setting.visible)
    environment = room.environment(_environment(ledger, container, setting))
    with container.log.open("ab") as log:
        container.process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            cwd=room.host("/root"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _arguments(
    ledger: Ledger, container: Container, setting: Setting
) -> api_pb2.ContainerArguments:
    function = container.function
    definition = api_pb2.Function()
    definition.CopyFrom(function.message)
    definition.is_checkpointing_function = definition.checkpointing_enabled
    return api_pb2.ContainerArguments(
        task_id=container.id,
        function_id=function.id,
        app_id=function.app,
        function_def=definition,
        serialized_params=function.parameters,
        environment_name=setting.environment_name,
        checkpoint_id=f"ch-{container.id}" if definition.checkpointing_enabled else None,
        app_layout=ledger.layout(ledger.apps[function.app]),
    )


def _environment(ledger: Ledger, container: Container, setting: Setting) -> dict[str, str]:
    message = container.function.message
    room = container.room
    found = dict(setting.environment)
    for layer in ledger.layers(message.image_id):
        found |= _env_lines(layer.dockerfile_commands)
    for secret in message.secret_ids:
        found |= ledger.secrets[secret].values
    found |= {
        "MODAL_SERVER_URL": setting.url,
        "MODAL_IS_REMOTE": "1",
        "MODAL_TASK_ID": container.id,
        "MODAL_IMAGE_ID": message.image_id,
        "MODAL_ENVIRONMENT": setting.environment_name,
        "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOCAL",
        "MODAL_REGION": "local",
        "MODAL_HEARTBEAT_INTERVAL": "5",
        "MODAL_OVERRIDE_HEADERS": f"{CONTAINER_HEADER}:{container.id}",
        "MODAL_CONTAINER_ARGUMENTS_PATH": room.seen(ARGUMENTS),
        "MODAL_RESTORE_STATE_PATH": room.seen(RESTORED),
    }
    if message.checkpointing_enabled:
        found["MODAL_ENABLE_SNAP_RESTORE"] = "1"
    return found


def _env_lines(commands: Sequence[str]) -> dict[str, str]:
    """What an image's ``ENV NAME=value`` lines set."""
    found = {}
    for line in commands:
        if line.startswith("ENV "):
            for word in shlex.split(line[4:]):
                name, equals, value = word.partition("=")
                if equals:
                    found[name] = value
    return found
