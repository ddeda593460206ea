"""What is stored: volumes as folders, dictionaries, secrets, and blobs behind addresses."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Status
from modal_proto import api_pb2

from tests.support.modal_plane.container import Container
from tests.support.modal_plane.grpc_service import (
    calling_container,
    make_grpc_error,
    make_not_found_error,
)
from tests.support.modal_plane.state import (
    PlaneState,
    Volume,
    VolumeCall,
    make_volume_metadata,
)
from tests.support.modal_plane.volume_view import VolumeView

BLOCK_BYTES = 8 * 1024 * 1024
CREATION_TYPES = (
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
)


class VolumeServicer:
    """Volumes of version 2; commits and reloads are recorded."""

    def __init__(self, state: PlaneState, containers: Mapping[str, Container]) -> None:
        self._state = state
        self._containers = containers

    def _record_call(self, kind: str, volume: Volume) -> None:
        self._state.volume_calls.append(VolumeCall(kind, volume.name, calling_container.get()))

    def _views(self, volume: str) -> list[VolumeView]:
        """The volume as the calling container has mounted it."""
        container = self._containers.get(calling_container.get())
        return (
            [v for v in container.volume_views if v.volume_id == volume]
            if container is not None
            else []
        )

    async def VolumeGetOrCreate(
        self, request: api_pb2.VolumeGetOrCreateRequest
    ) -> api_pb2.VolumeGetOrCreateResponse:
        volumes = [v for v in self._state.volumes.values() if v.name == request.deployment_name]
        if not (volumes or request.object_creation_type in CREATION_TYPES):
            raise make_not_found_error("Volume", request.deployment_name)
        if not volumes:
            name = self._state.new_id("vo")
            folder = self._state.folder / "volumes" / name
            folder.mkdir()
            volumes = [Volume(name, request.deployment_name, folder)]
            self._state.volumes[name] = volumes[0]
        metadata = make_volume_metadata(volumes[0])
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volumes[0].id, version=metadata.version, metadata=metadata
        )

    async def VolumeGetById(
        self, request: api_pb2.VolumeGetByIdRequest
    ) -> api_pb2.VolumeGetByIdResponse:
        volume = self._state.find_volume(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(
            volume_id=volume.id, metadata=make_volume_metadata(volume)
        )

    async def VolumeHeartbeat(self, request: api_pb2.VolumeHeartbeatRequest) -> Empty:
        return Empty()

    async def VolumeCommit(
        self, request: api_pb2.VolumeCommitRequest
    ) -> api_pb2.VolumeCommitResponse:
        for view in self._views(request.volume_id):
            view.commit()
        self._record_call("commit", self._state.find_volume(request.volume_id))
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest) -> Empty:
        """Refused while the container has files of the volume open, as the real one."""
        volume = self._state.find_volume(request.volume_id)
        container = self._containers.get(calling_container.get())
        open_paths = container.open_files(volume.id) if container is not None else []
        if open_paths:
            reason = f"there are open files preventing the operation: {', '.join(open_paths)}"
            raise make_grpc_error(Status.FAILED_PRECONDITION, reason)
        for view in self._views(volume.id):
            view.reload()
        self._record_call("reload", volume)
        return Empty()

    async def VolumePutFiles2(
        self, request: api_pb2.VolumePutFiles2Request
    ) -> api_pb2.VolumePutFiles2Response:
        """Files are made of blocks; the ones not yet uploaded are asked for."""
        volume = self._state.find_volume(request.volume_id)
        response = api_pb2.VolumePutFiles2Response()
        for number, file in enumerate(request.files):
            for index, block in enumerate(file.blocks):
                name = f"block-{block.contents_sha256.hex()}"
                if not self._state.blob_path(name).exists():
                    url = f"{self._state.web_url}/blob/{name}"
                    response.missing_blocks.add(file_index=number, block_index=index, put_url=url)
        if not response.missing_blocks:
            for file in request.files:
                target = _prepare_target(
                    volume, file.path, request.disallow_overwrite_existing_files
                )
                self._write_blocks(target, file)
            self._record_call("write", volume)
        return response

    def _write_blocks(self, target: Path, file: api_pb2.VolumePutFiles2Request.File) -> None:
        """Write a file's blocks; a block may lack its last zeros."""
        with target.open("wb") as out:
            for index, block in enumerate(file.blocks):
                out.seek(index * BLOCK_BYTES)
                out.write(
                    self._state.blob_path(f"block-{block.contents_sha256.hex()}").read_bytes()
                )
            out.truncate(file.size)

    async def VolumeListFiles2(
        self, request: api_pb2.VolumeListFiles2Request
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        volume = self._state.find_volume(request.volume_id)
        entries = _list_entries(volume, request.path, request.recursive)
        yield api_pb2.VolumeListFiles2Response(entries=entries)

    async def VolumeGetFile2(
        self, request: api_pb2.VolumeGetFile2Request
    ) -> api_pb2.VolumeGetFile2Response:
        volume = self._state.find_volume(request.volume_id)
        path = volume.path(request.path)
        if not path.is_file():
            raise make_not_found_error("File", request.path)
        size = path.stat().st_size
        end = min(size, request.start + request.len) if request.len else size
        address = f"{self._state.web_url}/volume/{volume.id}/{path.relative_to(volume.folder)}"
        urls, start = [], request.start
        while start < end:
            stop = min(end, (start // BLOCK_BYTES + 1) * BLOCK_BYTES)
            urls.append(f"{address}?start={start}&stop={stop}")
            start = stop
        return api_pb2.VolumeGetFile2Response(
            get_urls=urls, size=size, start=request.start, len=end - request.start
        )

    async def VolumeRemoveFile2(self, request: api_pb2.VolumeRemoveFile2Request) -> Empty:
        volume = self._state.find_volume(request.volume_id)
        path = volume.path(request.path)
        if not path.exists():
            raise make_not_found_error("File", request.path)
        if path.is_dir() and not request.recursive:
            raise make_grpc_error(Status.INVALID_ARGUMENT, f"{request.path} is a directory")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        self._record_call("remove", volume)
        return Empty()


def _prepare_target(volume: Volume, inside: str, fail_if_exists: bool) -> Path:
    target = volume.path(inside)
    if target.exists() and fail_if_exists:
        raise make_grpc_error(Status.ALREADY_EXISTS, f"{inside} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _list_entries(volume: Volume, inside: str, recursive: bool) -> list[api_pb2.FileEntry]:
    top = volume.path(inside)
    if not top.exists():
        raise make_not_found_error("Path", inside)
    paths = [top] if top.is_file() else sorted(top.rglob("*") if recursive else top.iterdir())
    return [_file_entry(volume, path) for path in paths]


def _file_entry(volume: Volume, path: Path) -> api_pb2.FileEntry:
    stored = path.stat()
    return api_pb2.FileEntry(
        path=str(path.relative_to(volume.folder)),
        type=api_pb2.FileEntry.DIRECTORY if path.is_dir() else api_pb2.FileEntry.FILE,
        mtime=int(stored.st_mtime),
        size=stored.st_size if path.is_file() else 0,
    )


class SecretServicer:
    """Secrets, made from a dictionary with a deployment."""

    def __init__(self, state: PlaneState) -> None:
        self._state = state

    async def SecretGetOrCreate(
        self, request: api_pb2.SecretGetOrCreateRequest
    ) -> api_pb2.SecretGetOrCreateResponse:
        name = self._state.new_id("st")
        self._state.secrets[name] = dict(request.env_dict)
        metadata = api_pb2.SecretMetadata(keys=request.env_dict)
        return api_pb2.SecretGetOrCreateResponse(secret_id=name, metadata=metadata)


class DictServicer:
    """``modal.Dict``: keys and values are bytes that only the client understands."""

    def __init__(self, state: PlaneState) -> None:
        self._state = state
        self._ids_by_name: dict[str, str] = {}
        self._dicts: dict[str, dict[bytes, bytes]] = {}

    async def DictGetOrCreate(
        self, request: api_pb2.DictGetOrCreateRequest
    ) -> api_pb2.DictGetOrCreateResponse:
        deployment_name = request.deployment_name
        name = self._ids_by_name.get(deployment_name, "")
        if not name:
            if request.object_creation_type not in CREATION_TYPES:
                raise make_not_found_error("Dict", deployment_name)
            name = self._ids_by_name[deployment_name] = self._state.new_id("di")
            self._dicts[name] = {entry.key: entry.value for entry in request.data}
        metadata = api_pb2.DictMetadata(name=deployment_name)
        return api_pb2.DictGetOrCreateResponse(dict_id=name, metadata=metadata)

    async def DictHeartbeat(self, request: api_pb2.DictHeartbeatRequest) -> Empty:
        return Empty()

    async def DictUpdate(self, request: api_pb2.DictUpdateRequest) -> api_pb2.DictUpdateResponse:
        stored = self._dicts[request.dict_id]
        created = False
        for entry in request.updates:
            if not (request.if_not_exists and entry.key in stored):
                created |= entry.key not in stored
                stored[entry.key] = entry.value
        return api_pb2.DictUpdateResponse(created=created)

    async def DictGet(self, request: api_pb2.DictGetRequest) -> api_pb2.DictGetResponse:
        stored = self._dicts[request.dict_id]
        return api_pb2.DictGetResponse(found=request.key in stored, value=stored.get(request.key))

    async def DictPop(self, request: api_pb2.DictPopRequest) -> api_pb2.DictPopResponse:
        value = self._dicts[request.dict_id].pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)


class BlobServicer:
    """Large values: uploaded to and fetched from an address of the plane's own HTTP server."""

    def __init__(self, state: PlaneState) -> None:
        self._state = state

    async def BlobCreate(self, request: api_pb2.BlobCreateRequest) -> api_pb2.BlobCreateResponse:
        name = self._state.new_id("bl")
        urls = api_pb2.UploadUrlList(items=[f"{self._state.web_url}/blob/{name}"])
        return api_pb2.BlobCreateResponse(blob_id=name, blob_ids=[name], upload_urls=urls)

    async def BlobGet(self, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        url = f"{self._state.web_url}/blob/{request.blob_id}"
        return api_pb2.BlobGetResponse(download_url=url)
