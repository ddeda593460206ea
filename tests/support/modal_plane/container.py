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
from tests.support.modal_plane.sandbox import BindMount, ContainerSandbox, find_namespace_command
from tests.support.modal_plane.state import CallInput, DeployedFunction, PlaneState
from tests.support.modal_plane.volume_view import VolumeView

ARGUMENTS_PATH = "/__modal/arguments.bin"
RESTORE_STATE_PATH = "/__modal/restore-state.json"


@dataclass(frozen=True)
class ContainerSettings:
    """What all containers of a plane have in common."""

    url: str
    environment_name: str
    environment: Mapping[str, str]
    visible_folders: Sequence[Path]
    namespaces: bool
    link_counts: Counter[Path] = field(default_factory=Counter)


@dataclass
class Container:
    """A container's state, as the pools and the tests see it."""

    id: str
    function: DeployedFunction
    sandbox: ContainerSandbox
    log: Path
    volume_views: list[VolumeView] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    running_inputs: dict[str, CallInput] = field(default_factory=dict)
    cancelled_inputs: list[str] = field(default_factory=list)
    served_count: int = 0
    is_ready: bool = False
    is_stopping: bool = False
    exit_code: int | None = None
    process: asyncio.subprocess.Process | None = None

    @property
    def has_ended(self) -> bool:
        return self.exit_code is not None

    @property
    def free_slots(self) -> int:
        """How many more inputs it can take."""
        message = self.function.message
        capacity = max(message.max_concurrent_inputs, 1)
        return 0 if self.is_stopping or self.has_ended else capacity - len(self.running_inputs)

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        self.is_stopping = True
        if self.process is None or self.has_ended:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.kill_stray_processes()

    def remove_files(self) -> None:
        """Take away its files; what it did not commit is lost."""
        self.sandbox.remove_files()
        shutil.rmtree(self.sandbox.working_folder / "volumes", ignore_errors=True)

    def open_files(self, volume: str) -> list[str]:
        """The files of a volume that the container has open."""
        processes = self.sandbox.process_ids()
        if self.process is not None:
            processes.append(self.process.pid)
        views = [view for view in self.volume_views if view.volume_id == volume]
        return [path for view in views for path in view.open_files(processes)]

    def kill_stray_processes(self) -> None:
        """End processes that left the container's group but not its room."""
        for process in self.sandbox.process_ids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def prepare_container(
    state: PlaneState, function: DeployedFunction, settings: ContainerSettings
) -> Container:
    """Make the room of a new container and lay everything in it."""
    name = state.new_id("ta")
    folder = state.folder / "containers" / name
    sandbox = ContainerSandbox(
        folder, settings.namespaces and bool(find_namespace_command()), settings.link_counts
    )
    container = Container(name, function, sandbox, folder / "log")
    for path, file in state.mounted_files(function.message).items():
        sandbox.add_file(path, state.content_path(file.sha256_hex), file.mode)
    for mount in sorted(function.message.volume_mounts, key=lambda each: each.mount_path):
        volume_folder = state.find_volume(mount.volume_id).folder
        own_folder = folder / "volumes" / str(len(container.volume_views))
        visible_folder = own_folder if sandbox.has_namespace else volume_folder
        container.volume_views.append(
            VolumeView(mount.volume_id, volume_folder, visible_folder, mount.read_only)
        )
        sandbox.add_volume(BindMount(visible_folder, mount.mount_path, mount.read_only))
    arguments = _make_arguments(state, container, settings)
    sandbox.host_path(ARGUMENTS_PATH).write_bytes(arguments.SerializeToString())
    return container


async def start_container(
    state: PlaneState, container: Container, settings: ContainerSettings
) -> None:
    """Start the process; its output goes to the log."""
    sandbox = container.sandbox
    command = sandbox.entrypoint_command(settings.visible_folders)
    environment = sandbox.process_environment(_make_environment(state, container, settings))
    with container.log.open("ab") as log:
        container.process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            cwd=sandbox.host_path("/root"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _make_arguments(
    state: PlaneState, container: Container, settings: ContainerSettings
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
        environment_name=settings.environment_name,
        checkpoint_id=f"ch-{container.id}" if definition.checkpointing_enabled else None,
        app_layout=state.app_layout(state.apps[function.app]),
    )


def _make_environment(
    state: PlaneState, container: Container, settings: ContainerSettings
) -> dict[str, str]:
    message = container.function.message
    sandbox = container.sandbox
    variables = dict(settings.environment)
    for layer in state.image_layers(message.image_id):
        variables |= _parse_env_lines(layer.dockerfile_commands)
    for secret in message.secret_ids:
        variables |= state.secrets[secret]
    variables |= {
        "MODAL_SERVER_URL": settings.url,
        "MODAL_IS_REMOTE": "1",
        "MODAL_TASK_ID": container.id,
        "MODAL_IMAGE_ID": message.image_id,
        "MODAL_ENVIRONMENT": settings.environment_name,
        "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOCAL",
        "MODAL_REGION": "local",
        "MODAL_HEARTBEAT_INTERVAL": "5",
        "MODAL_OVERRIDE_HEADERS": f"{CONTAINER_HEADER}:{container.id}",
        "MODAL_CONTAINER_ARGUMENTS_PATH": sandbox.inside_path(ARGUMENTS_PATH),
        "MODAL_RESTORE_STATE_PATH": sandbox.inside_path(RESTORE_STATE_PATH),
    }
    if message.checkpointing_enabled:
        variables["MODAL_ENABLE_SNAP_RESTORE"] = "1"
    return variables


def _parse_env_lines(commands: Sequence[str]) -> dict[str, str]:
    """What an image's ``ENV NAME=value`` lines set."""
    variables = {}
    for line in commands:
        if line.startswith("ENV "):
            for word in shlex.split(line[4:]):
                name, equals, value = word.partition("=")
                if equals:
                    variables[name] = value
    return variables
