"""What the plane knows: everything that was deployed, called and stored, in memory and on disk."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from grpclib.const import Status
from modal_proto import api_pb2

from tests.support.modal_plane.grpc_service import (
    ChangeNotifier,
    make_grpc_error,
    make_not_found_error,
)


@dataclass
class App:
    """A deployed app: which names lead to which functions and classes."""

    id: str
    name: str
    functions: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    published: bool = False


@dataclass
class DeployedFunction:
    """A function as the client defined it, once per GPU type it may fall back to."""

    id: str
    app: str
    handle: api_pb2.FunctionHandleMetadata
    gpu_variants: list[api_pb2.Function] = field(default_factory=list)

    @property
    def message(self) -> api_pb2.Function:
        if not self.gpu_variants:
            raise make_grpc_error(
                Status.FAILED_PRECONDITION, f"{self.handle.function_name} has no code yet"
            )
        return self.gpu_variants[0]


@dataclass
class Volume:
    """A volume is a folder."""

    id: str
    name: str
    folder: Path

    def path(self, inside: str) -> Path:
        """Where a path inside the volume is on disk."""
        pure = PurePosixPath("/" + inside.lstrip("/"))
        if ".." in pure.parts:
            raise make_grpc_error(Status.INVALID_ARGUMENT, f"{inside} leaves the volume")
        return self.folder.joinpath(*pure.parts[1:])


@dataclass
class CallInput:
    """One input of a call."""

    id: str
    call: Call
    index: int
    message: api_pb2.FunctionInput
    attempts: int = 0
    lost_containers: int = 0
    container: str = ""
    cancelled: bool = False
    done: bool = False


@dataclass
class Call:
    """One call of a function: a spawn or remote has one job, a map many, a request a stream."""

    id: str
    function: str
    kind: api_pb2.FunctionCallType.ValueType
    invocation: api_pb2.FunctionCallInvocationType.ValueType
    inputs: dict[str, CallInput] = field(default_factory=dict)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    incoming: list[api_pb2.DataChunk] = field(default_factory=list)
    outgoing: list[api_pb2.DataChunk] = field(default_factory=list)

    @property
    def unfinished_count(self) -> int:
        return sum(not job.done for job in self.inputs.values())


@dataclass(frozen=True)
class VolumeCall:
    """A commit, a reload, or a write or removal by a client."""

    kind: str
    volume: str
    container: str


class PlaneState:
    """All state; only the plane's own loop writes it."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.web_url = url
        self.changes = ChangeNotifier()
        self.apps: dict[str, App] = {}
        self.functions: dict[str, DeployedFunction] = {}
        self.classes: dict[str, str] = {}
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.named_mounts: dict[str, str] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.volumes: dict[str, Volume] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, CallInput] = {}
        self.queues: dict[str, deque[CallInput]] = {}
        self.volume_calls: list[VolumeCall] = []
        self._id_numbers = itertools.count(1)
        for name in ("files", "blobs", "volumes", "containers"):
            (folder / name).mkdir(parents=True)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{next(self._id_numbers):06d}"

    def content_path(self, sha256: str) -> Path:
        """Where an uploaded file with this content hash lies."""
        return self.folder / "files" / sha256

    def blob_path(self, name: str) -> Path:
        return self.folder / "blobs" / PurePosixPath(name).name

    def find_function(self, name: str) -> DeployedFunction:
        try:
            return self.functions[name]
        except KeyError:
            raise make_not_found_error("Function", name) from None

    def find_volume(self, name: str) -> Volume:
        try:
            return self.volumes[name]
        except KeyError:
            raise make_not_found_error("Volume", name) from None

    def find_call(self, name: str) -> Call:
        try:
            return self.calls[name]
        except KeyError:
            raise make_not_found_error("FunctionCall", name) from None

    def find_app(self, name: str) -> App:
        """The published app of that name."""
        for app in self.apps.values():
            if app.name == name and app.published:
                return app
        raise make_not_found_error("App", name)

    def image_layers(self, image: str) -> list[api_pb2.Image]:
        """An image's layers, the lowest first."""
        layers_top_down: list[api_pb2.Image] = []
        while image in self.images:
            layer = self.images[image]
            layers_top_down.append(layer)
            image = layer.base_images[0].image_id if layer.base_images else ""
        return layers_top_down[::-1]

    def mounted_files(self, function: api_pb2.Function) -> dict[str, api_pb2.MountFile]:
        """The files a function's container sees by their absolute paths."""
        files: dict[str, api_pb2.MountFile] = {}
        for layer in self.image_layers(function.image_id):
            if layer.context_mount_id:
                for target in _copy_targets(layer):
                    for file in self.mounts[layer.context_mount_id]:
                        files[str(target / file.filename.lstrip("/"))] = file
        for mount in function.mount_ids:
            for file in self.mounts[mount]:
                files[str(PurePosixPath("/root") / file.filename)] = file
        return files

    def app_layout(self, app: App) -> api_pb2.AppLayout:
        """What a container is told of its app."""
        layout = api_pb2.AppLayout(function_ids=app.functions, class_ids=app.classes)
        for function in self.functions.values():
            if function.app == app.id:
                layout.objects.add(object_id=function.id, function_handle_metadata=function.handle)
                for dependency in (
                    function.gpu_variants[0].object_dependencies if function.gpu_variants else ()
                ):
                    self._fill_metadata(layout.objects.add(object_id=dependency.object_id))
        for name in app.classes.values():
            layout.objects.add(object_id=name, class_handle_metadata=api_pb2.ClassHandleMetadata())
        return layout

    def _fill_metadata(self, description: api_pb2.Object) -> None:
        if description.object_id in self.mounts:
            description.mount_handle_metadata.SetInParent()
        elif description.object_id in self.volumes:
            description.volume_metadata.CopyFrom(
                make_volume_metadata(self.volumes[description.object_id])
            )
        elif description.object_id in self.functions:
            description.function_handle_metadata.CopyFrom(
                self.functions[description.object_id].handle
            )


def make_volume_metadata(volume: Volume) -> api_pb2.VolumeMetadata:
    return api_pb2.VolumeMetadata(version=api_pb2.VOLUME_FS_VERSION_V2, name=volume.name)


def _copy_targets(layer: api_pb2.Image) -> list[PurePosixPath]:
    """Where a layer copies its whole context to: ``COPY . /target``."""
    lines = [line.split() for line in layer.dockerfile_commands]
    return [PurePosixPath(line[2]) for line in lines if line[:2] == ["COPY", "."]]
