"""What the plane knows: everything that was deployed, called and stored, in memory and on disk."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from grpclib.const import Status
from modal_proto import api_pb2

from tests.support.modal_plane.grpc_service import Bell, not_found, refuse


@dataclass
class App:
    """A deployed app: which names lead to which functions and classes."""

    id: str
    name: str
    functions: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    published: bool = False
    ephemeral: bool = False


@dataclass
class Deployed:
    """A function as the client defined it, once per GPU type it may fall back to.

    A variant, made by class parameters or ``with_options``, knows the function it varies.
    """

    id: str
    app: str
    handle: api_pb2.FunctionHandleMetadata
    ranks: list[api_pb2.Function] = field(default_factory=list)
    base: str = ""
    parameters: bytes = b""
    options: api_pb2.FunctionOptions = field(default_factory=api_pb2.FunctionOptions)

    @property
    def message(self) -> api_pb2.Function:
        if not self.ranks:
            raise refuse(Status.FAILED_PRECONDITION, f"{self.handle.function_name} has no code yet")
        return self.ranks[0]


@dataclass
class Volume:
    """A volume is a folder."""

    id: str
    name: str
    version: int
    folder: Path

    def path(self, inside: str) -> Path:
        """Where a path inside the volume is on disk."""
        pure = PurePosixPath("/" + inside.lstrip("/"))
        if ".." in pure.parts:
            raise refuse(Status.INVALID_ARGUMENT, f"{inside} leaves the volume")
        return self.folder.joinpath(*pure.parts[1:])


@dataclass
class Secret:
    """A secret's name (empty when made from a dictionary) and what it sets."""

    id: str
    name: str
    values: dict[str, str]


@dataclass
class Job:
    """One input of a call."""

    id: str
    call: Call
    index: int
    message: api_pb2.FunctionInput
    attempts: int = 0
    lost: int = 0
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
    jobs: dict[str, Job] = field(default_factory=dict)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    incoming: list[api_pb2.DataChunk] = field(default_factory=list)
    outgoing: list[api_pb2.DataChunk] = field(default_factory=list)

    @property
    def unfinished(self) -> int:
        return sum(not job.done for job in self.jobs.values())


@dataclass(frozen=True)
class VolumeCall:
    """A commit, a reload, or a write or removal by a client."""

    kind: str
    volume: str
    container: str


class Ledger:
    """All state; only the plane's own loop writes it."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.web = url
        self.bell = Bell()
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Deployed] = {}
        self.classes: dict[str, str] = {}
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.named_mounts: dict[str, str] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.volumes: dict[str, Volume] = {}
        self.secrets: dict[str, Secret] = {}
        self.calls: dict[str, Call] = {}
        self.jobs: dict[str, Job] = {}
        self.queues: dict[str, deque[Job]] = {}
        self.volume_calls: list[VolumeCall] = []
        self._numbers = itertools.count(1)
        for name in ("files", "blobs", "volumes", "containers"):
            (folder / name).mkdir(parents=True)

    def new(self, prefix: str) -> str:
        return f"{prefix}-{next(self._numbers):06d}"

    def content(self, sha256: str) -> Path:
        """Where an uploaded file with this content hash lies."""
        return self.folder / "files" / sha256

    def blob(self, name: str) -> Path:
        return self.folder / "blobs" / PurePosixPath(name).name

    def function(self, name: str) -> Deployed:
        try:
            return self.functions[name]
        except KeyError:
            raise not_found("Function", name) from None

    def volume(self, name: str) -> Volume:
        try:
            return self.volumes[name]
        except KeyError:
            raise not_found("Volume", name) from None

    def call(self, name: str) -> Call:
        try:
            return self.calls[name]
        except KeyError:
            raise not_found("FunctionCall", name) from None

    def app(self, name: str) -> App:
        """The published app of that name."""
        for app in self.apps.values():
            if app.name == name and app.published:
                return app
        raise not_found("App", name)

    def layers(self, image: str) -> list[api_pb2.Image]:
        """An image's layers, the lowest first."""
        found: list[api_pb2.Image] = []
        while image in self.images:
            layer = self.images[image]
            found.append(layer)
            image = layer.base_images[0].image_id if layer.base_images else ""
        return found[::-1]

    def mounted(self, function: api_pb2.Function) -> dict[str, api_pb2.MountFile]:
        """The files a function's container sees by their absolute paths."""
        found: dict[str, api_pb2.MountFile] = {}
        for layer in self.layers(function.image_id):
            if layer.context_mount_id:
                for target in _copied(layer):
                    for file in self.mounts[layer.context_mount_id]:
                        found[str(target / file.filename.lstrip("/"))] = file
        for mount in function.mount_ids:
            for file in self.mounts[mount]:
                found[str(PurePosixPath("/root") / file.filename)] = file
        return found

    def layout(self, app: App) -> api_pb2.AppLayout:
        """What a container is told of its app."""
        layout = api_pb2.AppLayout(function_ids=app.functions, class_ids=app.classes)
        for function in self.functions.values():
            if function.app == app.id:
                layout.objects.add(object_id=function.id, function_handle_metadata=function.handle)
                for needed in function.ranks[0].object_dependencies if function.ranks else ():
                    self._describe(layout.objects.add(object_id=needed.object_id))
        for name in app.classes.values():
            layout.objects.add(object_id=name, class_handle_metadata=api_pb2.ClassHandleMetadata())
        return layout

    def _describe(self, found: api_pb2.Object) -> None:
        if found.object_id in self.mounts:
            found.mount_handle_metadata.SetInParent()
        elif found.object_id in self.volumes:
            found.volume_metadata.CopyFrom(volume_metadata(self.volumes[found.object_id]))
        elif found.object_id in self.functions:
            found.function_handle_metadata.CopyFrom(self.functions[found.object_id].handle)


def volume_metadata(volume: Volume) -> api_pb2.VolumeMetadata:
    new = volume.version == 2
    version = api_pb2.VOLUME_FS_VERSION_V2 if new else api_pb2.VOLUME_FS_VERSION_V1
    return api_pb2.VolumeMetadata(version=version, name=volume.name)


def _copied(layer: api_pb2.Image) -> list[PurePosixPath]:
    """Where a layer copies its whole context to: ``COPY . /target``."""
    lines = [line.split() for line in layer.dockerfile_commands]
    return [PurePosixPath(line[2]) for line in lines if line[:2] == ["COPY", "."]]
