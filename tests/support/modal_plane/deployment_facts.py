"""What a deployment says of its functions, as plain values to assert."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from modal_proto import api_pb2

from tests.support.modal_plane.container import Container
from tests.support.modal_plane.state import DeployedFunction, PlaneState

WEBHOOK_NAMES = {
    api_pb2.WEBHOOK_TYPE_UNSPECIFIED: "",
    api_pb2.WEBHOOK_TYPE_ASGI_APP: "asgi",
    api_pb2.WEBHOOK_TYPE_WSGI_APP: "wsgi",
    api_pb2.WEBHOOK_TYPE_FUNCTION: "function",
    api_pb2.WEBHOOK_TYPE_WEB_SERVER: "server",
}


@dataclass(frozen=True)
class VolumeMount:
    """A volume as a function mounts it."""

    path: str
    name: str
    version: int
    read_only: bool
    sub_path: str


@dataclass(frozen=True)
class SecretFacts:
    """A secret: its name, empty when made from a dictionary, and the names it sets."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class ImageLayer:
    """One layer of an image."""

    commands: tuple[str, ...]
    context_files: tuple[str, ...]
    copied_files: tuple[str, ...]
    secrets: tuple[str, ...]
    build_function: bool

    @property
    def installs(self) -> tuple[str, ...]:
        """The lines that install Python packages."""
        return tuple(line for line in self.commands if "pip install" in line or "uv sync" in line)


@dataclass(frozen=True)
class FunctionFacts:
    """A function as it was deployed; a time is in seconds, memory in MiB, 0 means not given."""

    name: str
    id: str
    web_url: str
    gpus: tuple[str, ...]
    cpu: float
    memory: int
    timeout: int
    startup_timeout: int
    min_containers: int
    max_containers: int
    buffer_containers: int
    scaledown_window: int
    max_inputs: int
    target_inputs: int
    batch: tuple[int, int]
    retries: int
    retry_delay: float
    single_use: bool
    memory_snapshot: bool
    experimental: dict[str, str]
    block_network: bool
    restrict_modal_access: bool
    regions: tuple[str, ...]
    cloud: str
    files: tuple[str, ...]
    volumes: tuple[VolumeMount, ...]
    secrets: tuple[SecretFacts, ...]
    web: str
    requires_proxy_auth: bool
    schedule: str
    methods: tuple[str, ...]
    parameters: tuple[str, ...]
    image: tuple[ImageLayer, ...]


@dataclass(frozen=True)
class ContainerFacts:
    """A container that ran or runs; ``running`` are the calls it works on, by their ids."""

    id: str
    function: str
    parameters: bytes
    events: tuple[str, ...]
    served: int
    running: tuple[str, ...]
    exit_code: int | None
    log: str


def describe_function(state: PlaneState, function: DeployedFunction) -> FunctionFacts:
    """All facts of a function."""
    message = function.message
    scaling = message.autoscaler_settings
    web = _webhook_config(message)
    return FunctionFacts(
        name=message.function_name,
        id=function.id,
        web_url=function.handle.web_url,
        gpus=tuple(filter(None, map(_gpu_name, function.gpu_variants))),
        cpu=message.resources.milli_cpu / 1000,
        memory=message.resources.memory_mb,
        timeout=message.timeout_secs,
        startup_timeout=message.startup_timeout_secs,
        min_containers=scaling.min_containers,
        max_containers=scaling.max_containers,
        buffer_containers=scaling.buffer_containers,
        scaledown_window=scaling.scaledown_window,
        max_inputs=message.max_concurrent_inputs,
        target_inputs=message.target_concurrent_inputs,
        batch=(message.batch_max_size, message.batch_linger_ms),
        retries=message.retry_policy.retries,
        retry_delay=message.retry_policy.initial_delay_ms / 1000,
        single_use=message.single_use_containers,
        memory_snapshot=message.checkpointing_enabled,
        experimental=dict(message.experimental_options),
        block_network=message.block_network,
        restrict_modal_access=message.untrusted,
        regions=tuple(message.scheduler_placement.regions),
        cloud=message.cloud_provider_str,
        files=tuple(sorted(state.mounted_files(message))),
        volumes=tuple(_describe_volume(state, mount) for mount in message.volume_mounts),
        secrets=tuple(_describe_secret(state, name) for name in message.secret_ids),
        web=WEBHOOK_NAMES[web.type],
        requires_proxy_auth=web.requires_proxy_auth,
        schedule=_describe_schedule(message.schedule),
        methods=tuple(sorted(message.method_definitions)),
        parameters=tuple(each.name for each in message.class_parameter_info.schema),
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
        parameters=container.function.class_parameters,
        events=tuple(container.events),
        served=container.served_count,
        running=tuple(job.call.id for job in container.running_inputs.values()),
        exit_code=container.exit_code,
        log=log,
    )


def _webhook_config(message: api_pb2.Function) -> api_pb2.WebhookConfig:
    """How a function, or the first such method of a class, is called over HTTP."""
    definitions = message.method_definitions.values()
    methods = [each.webhook_config for each in definitions if each.webhook_config.type]
    return methods[0] if methods else message.webhook_config


def _gpu_name(function: api_pb2.Function) -> str:
    gpu = function.resources.gpu_config
    return f"{gpu.gpu_type}:{gpu.count}" if gpu.count > 1 else gpu.gpu_type


def _describe_volume(state: PlaneState, mount: api_pb2.VolumeMount) -> VolumeMount:
    volume = state.find_volume(mount.volume_id)
    return VolumeMount(
        mount.mount_path, volume.name, volume.version, mount.read_only, mount.sub_path
    )


def _describe_secret(state: PlaneState, name: str) -> SecretFacts:
    secret = state.secrets[name]
    return SecretFacts(secret.name, tuple(sorted(secret.values)))


def _describe_schedule(schedule: api_pb2.Schedule) -> str:
    """``0 3 * * * UTC`` or ``days=1 hours=2``; empty when it runs only when called."""
    kind = schedule.WhichOneof("schedule_oneof")
    if kind == "cron":
        return f"{schedule.cron.cron_string} {schedule.cron.timezone}"
    if kind == "period":
        fields = schedule.period.ListFields()
        return " ".join(f"{field.name}={value:g}" for field, value in fields)
    return ""


def _describe_layer(state: PlaneState, layer: api_pb2.Image) -> ImageLayer:
    copied = state.mounts.get(layer.context_mount_id, [])
    return ImageLayer(
        commands=tuple(layer.dockerfile_commands),
        context_files=tuple(file.filename for file in layer.context_files),
        copied_files=tuple(sorted(file.filename for file in copied)),
        secrets=tuple(state.secrets[name].name for name in layer.secret_ids),
        build_function=layer.HasField("build_function"),
    )


def read_tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their relative paths."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
