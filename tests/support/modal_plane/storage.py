"""What is stored: volumes as folders, dictionaries, secrets, and blobs behind addresses."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Status
from modal_proto import api_pb2

from tests.support.modal_plane.container import Container
from tests.support.modal_plane.grpc_service import caller, not_found, refuse
from tests.support.modal_plane.state import Ledger, Secret, Volume, VolumeCall, volume_metadata
from tests.support.modal_plane.volume_view import View

BLOCK = 8 * 1024 * 1024
CREATING = (
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
)


class VolumeDesk:
    """Volumes of both versions; commits and reloads are remembered."""

    def __init__(self, ledger: Ledger, containers: Mapping[str, Container]) -> None:
        self._ledger = ledger
        self._containers = containers

    def _note(self, kind: str, volume: Volume) -> None:
        self._ledger.volume_calls.append(VolumeCall(kind, volume.name, caller.get()))

    def _views(self, volume: str) -> list[View]:
        """The volume as the calling container has mounted it."""
        container = self._containers.get(caller.get())
        return [v for v in container.views if v.volume == volume] if container is not None else []

    async def VolumeGetOrCreate(
        self, request: api_pb2.VolumeGetOrCreateRequest
    ) -> api_pb2.VolumeGetOrCreateResponse:
        named = [v for v in self._ledger.volumes.values() if v.name == request.deployment_name]
        ephemeral = request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL
        if not (named or ephemeral or request.object_creation_type in CREATING):
            raise not_found("Volume", request.deployment_name)
        if ephemeral or not named:
            name = self._ledger.new("vo")
            version = 2 if request.version == api_pb2.VOLUME_FS_VERSION_V2 else 1
            folder = self._ledger.folder / "volumes" / name
            folder.mkdir()
            named = [Volume(name, request.deployment_name, version, folder)]
            self._ledger.volumes[name] = named[0]
        metadata = volume_metadata(named[0])
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=named[0].id, version=metadata.version, metadata=metadata
        )

    async def VolumeGetById(
        self, request: api_pb2.VolumeGetByIdRequest
    ) -> api_pb2.VolumeGetByIdResponse:
        volume = self._ledger.volume(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.id, metadata=volume_metadata(volume))

    async def VolumeHeartbeat(self, request: api_pb2.VolumeHeartbeatRequest) -> Empty:
        return Empty()

    async def VolumeDelete(self, request: api_pb2.VolumeDeleteRequest) -> Empty:
        shutil.rmtree(self._ledger.volume(request.volume_id).folder)
        del self._ledger.volumes[request.volume_id]
        return Empty()

    async def VolumeCommit(
        self, request: api_pb2.VolumeCommitRequest
    ) -> api_pb2.VolumeCommitResponse:
        for view in self._views(request.volume_id):
            view.commit()
        self._note("commit", self._ledger.volume(request.volume_id))
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest) -> Empty:
        """Refused while the container has files of the volume open, as the real one."""
        volume = self._ledger.volume(request.volume_id)
        container = self._containers.get(caller.get())
        found = container.open_files(volume.id) if container is not None else []
        if found:
            why = f"there are open files preventing the operation: {', '.join(found)}"
            raise refuse(Status.FAILED_PRECONDITION, why)
        for view in self._views(volume.id):
            view.reload()
        self._note("reload", volume)
        return Empty()

    async def VolumePutFiles(self, request: api_pb2.VolumePutFilesRequest) -> Empty:
        volume = self._ledger.volume(request.volume_id)
        for file in request.files:
            target = _room_for(volume, file.filename, request.disallow_overwrite_existing_files)
            shutil.copyfile(self._ledger.content(file.sha256_hex), target)
        self._note("write", volume)
        return Empty()

    async def VolumePutFiles2(
        self, request: api_pb2.VolumePutFiles2Request
    ) -> api_pb2.VolumePutFiles2Response:
        """Files are made of blocks; the ones not yet uploaded are asked for."""
        volume = self._ledger.volume(request.volume_id)
        response = api_pb2.VolumePutFiles2Response()
        for number, file in enumerate(request.files):
            for index, block in enumerate(file.blocks):
                name = f"block-{block.contents_sha256.hex()}"
                if not self._ledger.blob(name).exists():
                    url = f"{self._ledger.web}/blob/{name}"
                    response.missing_blocks.add(file_index=number, block_index=index, put_url=url)
        if not response.missing_blocks:
            for file in request.files:
                target = _room_for(volume, file.path, request.disallow_overwrite_existing_files)
                self._assemble(target, file)
            self._note("write", volume)
        return response

    def _assemble(self, target: Path, file: api_pb2.VolumePutFiles2Request.File) -> None:
        """Write a file's blocks; a block may lack its last zeros."""
        with target.open("wb") as out:
            for index, block in enumerate(file.blocks):
                out.seek(index * BLOCK)
                out.write(self._ledger.blob(f"block-{block.contents_sha256.hex()}").read_bytes())
            out.truncate(file.size)

    async def VolumeListFiles(
        self, request: api_pb2.VolumeListFilesRequest
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        volume = self._ledger.volume(request.volume_id)
        yield api_pb2.VolumeListFilesResponse(
            entries=_list(volume, request.path, request.recursive)
        )

    async def VolumeListFiles2(
        self, request: api_pb2.VolumeListFiles2Request
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        volume = self._ledger.volume(request.volume_id)
        entries = _list(volume, request.path, request.recursive)
        yield api_pb2.VolumeListFiles2Response(entries=entries)

    async def VolumeGetFile2(
        self, request: api_pb2.VolumeGetFile2Request
    ) -> api_pb2.VolumeGetFile2Response:
        volume = self._ledger.volume(request.volume_id)
        path = volume.path(request.path)
        if not path.is_file():
            raise not_found("File", request.path)
        size = path.stat().st_size
        end = min(size, request.start + request.len) if request.len else size
        address = f"{self._ledger.web}/volume/{volume.id}/{path.relative_to(volume.folder)}"
        urls, start = [], request.start
        while start < end:
            stop = min(end, (start // BLOCK + 1) * BLOCK)
            urls.append(f"{address}?start={start}&stop={stop}")
            start = stop
        return api_pb2.VolumeGetFile2Response(
            get_urls=urls, size=size, start=request.start, len=end - request.start
        )

    async def VolumeRemoveFile(self, request: api_pb2.VolumeRemoveFileRequest) -> Empty:
        return self._remove(request.volume_id, request.path, request.recursive)

    async def VolumeRemoveFile2(self, request: api_pb2.VolumeRemoveFile2Request) -> Empty:
        return self._remove(request.volume_id, request.path, request.recursive)

    def _remove(self, name: str, inside: str, recursive: bool) -> Empty:
        volume = self._ledger.volume(name)
        path = volume.path(inside)
        if not path.exists():
            raise not_found("File", inside)
        if path.is_dir() and not recursive:
            raise refuse(Status.INVALID_ARGUMENT, f"{inside} is a directory")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        self._note("remove", volume)
        return Empty()

    async def VolumeCopyFiles(self, request: api_pb2.VolumeCopyFilesRequest) -> Empty:
        return self._copy(request.volume_id, list(request.src_paths), request.dst_path)

    async def VolumeCopyFiles2(self, request: api_pb2.VolumeCopyFiles2Request) -> Empty:
        return self._copy(request.volume_id, list(request.src_paths), request.dst_path)

    def _copy(self, name: str, sources: list[str], target: str) -> Empty:
        volume = self._ledger.volume(name)
        into = volume.path(target)
        for source in map(volume.path, sources):
            end = into / source.name if into.is_dir() else into
            if source.is_dir():
                shutil.copytree(source, end, dirs_exist_ok=True)
            else:
                end.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, end)
        self._note("write", volume)
        return Empty()


def _room_for(volume: Volume, inside: str, only_new: bool) -> Path:
    target = volume.path(inside)
    if target.exists() and only_new:
        raise refuse(Status.ALREADY_EXISTS, f"{inside} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _list(volume: Volume, inside: str, recursive: bool) -> list[api_pb2.FileEntry]:
    top = volume.path(inside)
    if not top.exists():
        raise not_found("Path", inside)
    found = [top] if top.is_file() else sorted(top.rglob("*") if recursive else top.iterdir())
    return [_entry(volume, path) for path in found]


def _entry(volume: Volume, path: Path) -> api_pb2.FileEntry:
    known = path.stat()
    return api_pb2.FileEntry(
        path=str(path.relative_to(volume.folder)),
        type=api_pb2.FileEntry.DIRECTORY if path.is_dir() else api_pb2.FileEntry.FILE,
        mtime=int(known.st_mtime),
        size=known.st_size if path.is_file() else 0,
    )


class SecretDesk:
    """Secrets: made from a dictionary with a deployment, or known by name beforehand."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def SecretGetOrCreate(
        self, request: api_pb2.SecretGetOrCreateRequest
    ) -> api_pb2.SecretGetOrCreateResponse:
        secret = self._find(request.deployment_name)
        if secret is None:
            if request.deployment_name and request.object_creation_type not in CREATING:
                raise not_found("Secret", request.deployment_name)
            values = dict(request.env_dict)
            secret = Secret(self._ledger.new("st"), request.deployment_name, values)
            self._ledger.secrets[secret.id] = secret
        missing = [key for key in request.required_keys if key not in secret.values]
        if missing:
            raise refuse(Status.FAILED_PRECONDITION, f"secret lacks {', '.join(missing)}")
        metadata = api_pb2.SecretMetadata(name=secret.name, keys=secret.values)
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.id, metadata=metadata)

    def _find(self, name: str) -> Secret | None:
        return next((s for s in self._ledger.secrets.values() if name and s.name == name), None)


class DictDesk:
    """``modal.Dict``: keys and values are bytes that only the client understands."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._names: dict[str, str] = {}
        self._dicts: dict[str, dict[bytes, bytes]] = {}

    async def DictGetOrCreate(
        self, request: api_pb2.DictGetOrCreateRequest
    ) -> api_pb2.DictGetOrCreateResponse:
        named = request.deployment_name
        name = self._names.get(named, "")
        ephemeral = request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL
        if not name:
            if not ephemeral and request.object_creation_type not in CREATING:
                raise not_found("Dict", named)
            name = self._ledger.new("di")
            self._dicts[name] = {entry.key: entry.value for entry in request.data}
            if named:
                self._names[named] = name
        metadata = api_pb2.DictMetadata(name=named)
        return api_pb2.DictGetOrCreateResponse(dict_id=name, metadata=metadata)

    async def DictHeartbeat(self, request: api_pb2.DictHeartbeatRequest) -> Empty:
        return Empty()

    async def DictUpdate(self, request: api_pb2.DictUpdateRequest) -> api_pb2.DictUpdateResponse:
        known = self._dicts[request.dict_id]
        created = False
        for entry in request.updates:
            if not (request.if_not_exists and entry.key in known):
                created |= entry.key not in known
                known[entry.key] = entry.value
        return api_pb2.DictUpdateResponse(created=created)

    async def DictGet(self, request: api_pb2.DictGetRequest) -> api_pb2.DictGetResponse:
        known = self._dicts[request.dict_id]
        return api_pb2.DictGetResponse(found=request.key in known, value=known.get(request.key))

    async def DictPop(self, request: api_pb2.DictPopRequest) -> api_pb2.DictPopResponse:
        value = self._dicts[request.dict_id].pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    async def DictContains(
        self, request: api_pb2.DictContainsRequest
    ) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=request.key in self._dicts[request.dict_id])

    async def DictLen(self, request: api_pb2.DictLenRequest) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=len(self._dicts[request.dict_id]))

    async def DictClear(self, request: api_pb2.DictClearRequest) -> Empty:
        self._dicts[request.dict_id].clear()
        return Empty()

    async def DictContents(
        self, request: api_pb2.DictContentsRequest
    ) -> AsyncIterator[api_pb2.DictEntry]:
        for key, value in list(self._dicts[request.dict_id].items()):
            yield api_pb2.DictEntry(
                key=key if request.keys else b"", value=value if request.values else b""
            )


class BlobDesk:
    """Large values: uploaded to and fetched from an address of the plane's own HTTP server."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def BlobCreate(self, request: api_pb2.BlobCreateRequest) -> api_pb2.BlobCreateResponse:
        name = self._ledger.new("bl")
        urls = api_pb2.UploadUrlList(items=[f"{self._ledger.web}/blob/{name}"])
        return api_pb2.BlobCreateResponse(blob_id=name, blob_ids=[name], upload_urls=urls)

    async def BlobGet(self, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        url = f"{self._ledger.web}/blob/{request.blob_id}"
        return api_pb2.BlobGetResponse(download_url=url)
