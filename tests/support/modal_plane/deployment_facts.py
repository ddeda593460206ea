"""Plain values to assert: what was deployed, and what ran."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from modal_proto import api_pb2

from tests.support.modal_plane.container import Container
from tests.support.modal_plane.state import DeployedFunction, PlaneState

WEBHOOK_NAMES = {api_pb2.WEBHOOK_TYPE_UNSPECIFIED: "", api_pb2.WEBHOOK_TYPE_ASGI_APP: "asgi"}


@dataclass(frozen=True)
class VolumeMount:
    """A volume as a function mounts it."""

    path: str
    name: str
    read_only: bool


@dataclass(frozen=True)
class SecretFacts:
    """The names that a secret sets."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class ImageLayer:
    """One layer of an image."""

    commands: tuple[str, ...]
    copied_files: tuple[str, ...]
    secrets: tuple[str, ...]

    @property
    def installs(self) -> tuple[str, ...]:
        """The lines that install Python packages."""
        return tuple(line for line in self.commands if "pip install" in line or "uv sync" in line)


@dataclass(frozen=True)
class FunctionFacts:
    """A function as it was deployed. Times are in seconds; 0 means not given."""

    name: str
    web_url: str
    gpus: tuple[str, ...]
    timeout: int
    startup_timeout: int
    min_containers: int
    max_containers: int
    scaledown_window: int
    max_inputs: int
    retries: int
    memory_snapshot: bool
    block_network: bool
    files: tuple[str, ...]
    volumes: tuple[VolumeMount, ...]
    secrets: tuple[SecretFacts, ...]
    web: str
    image: tuple[ImageLayer, ...]


@dataclass(frozen=True)
class ContainerFacts:
    """A container that ran or runs; ``running`` are the calls it works on, by their ids."""

    id: str
    function: str
    served: int
    running: tuple[str, ...]
    exit_code: int | None
    log: str


def describe_function(state: PlaneState, function: DeployedFunction) -> FunctionFacts:
    """All facts of a function."""
    message = function.message
    scaling = message.autoscaler_settings
    return FunctionFacts(
        name=message.function_name,
        web_url=function.handle.web_url,
        gpus=tuple(filter(None, map(_gpu_name, function.gpu_variants))),
        timeout=message.timeout_secs,
        startup_timeout=message.startup_timeout_secs,
        min_containers=scaling.min_containers,
        max_containers=scaling.max_containers,
        scaledown_window=scaling.scaledown_window,
        max_inputs=message.max_concurrent_inputs,
        retries=message.retry_policy.retries,
        memory_snapshot=message.checkpointing_enabled,
        block_network=message.block_network,
        files=tuple(sorted(state.mounted_files(message))),
        volumes=tuple(_describe_volume(state, mount) for mount in message.volume_mounts),
        secrets=tuple(
            SecretFacts(tuple(sorted(state.secrets[name]))) for name in message.secret_ids
        ),
        web=WEBHOOK_NAMES[message.webhook_config.type],
        image=tuple(
            _describe_layer(state, layer) for layer in state.image_layers(message.image_id)
        ),
    )


def describe_container(container: Container) -> ContainerFacts:
    """A container and what it printed so far."""
    log = container.log.read_text(errors="replace") if container.log.exists() else ""
    return ContainerFacts(
        id=container.id,
        function=container.function.message.function_name,
        served=container.served_count,
        running=tuple(job.call.id for job in container.running_inputs.values()),
        exit_code=container.exit_code,
        log=log,
    )


def _gpu_name(function: api_pb2.Function) -> str:
    gpu = function.resources.gpu_config
    return f"{gpu.gpu_type}:{gpu.count}" if gpu.count > 1 else gpu.gpu_type


def _describe_volume(state: PlaneState, mount: api_pb2.VolumeMount) -> VolumeMount:
    volume = state.find_volume(mount.volume_id)
    return VolumeMount(mount.mount_path, volume.name, mount.read_only)


def _describe_layer(state: PlaneState, layer: api_pb2.Image) -> ImageLayer:
    copied = state.mounts.get(layer.context_mount_id, [])
    return ImageLayer(
        commands=tuple(layer.dockerfile_commands),
        copied_files=tuple(sorted(file.filename for file in copied)),
        secrets=tuple(layer.secret_ids),
    )


def read_tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their relative paths."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
