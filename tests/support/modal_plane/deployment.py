"""The calls of ``modal deploy``: apps, functions, classes, images, mounts."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.support.modal_plane.grpc_service import make_not_found_error
from tests.support.modal_plane.scheduler import ContainerScheduler
from tests.support.modal_plane.state import App, DeployedFunction, PlaneState

IMAGE_BUILDER_VERSION = "2026.10"
SUCCESS_STATUS = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS


class AppServicer:
    """Create, publish and look up apps."""

    def __init__(self, state: PlaneState, scheduler: ContainerScheduler) -> None:
        self._state = state
        self._scheduler = scheduler

    async def ClientHello(self, request: Empty) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version=IMAGE_BUILDER_VERSION)

    async def AuthTokenGet(
        self, request: api_pb2.AuthTokenGetRequest
    ) -> api_pb2.AuthTokenGetResponse:
        return api_pb2.AuthTokenGetResponse(token="e30.e30.e30")

    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        settings = api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER_VERSION)
        name = request.deployment_name or "main"
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-1",
            metadata=api_pb2.EnvironmentMetadata(name=name, settings=settings),
        )

    async def WorkspaceNameLookup(self, request: Empty) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="local", username="local")

    async def AppCreate(self, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        app = App(self._state.new_id("ap"), request.description)
        self._state.apps[app.id] = app
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=f"local://{app.id}")

    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        app_ids = [
            a.id for a in self._state.apps.values() if a.published and a.name == request.name
        ]
        return api_pb2.AppGetByDeploymentNameResponse(app_id=app_ids[0] if app_ids else "")

    async def AppGetLayout(
        self, request: api_pb2.AppGetLayoutRequest
    ) -> api_pb2.AppGetLayoutResponse:
        app = self._state.apps[request.app_id]
        return api_pb2.AppGetLayoutResponse(app_layout=self._state.app_layout(app))

    async def AppHeartbeat(self, request: api_pb2.AppHeartbeatRequest) -> Empty:
        return Empty()

    async def AppPublish(self, request: api_pb2.AppPublishRequest) -> api_pb2.AppPublishResponse:
        """The new version serves from now on; containers of the old one finish what they do."""
        app = self._state.apps[request.app_id]
        app.name = request.name or app.name
        app.functions = dict(request.function_ids)
        app.classes = dict(request.class_ids)
        app.published = True
        self._scheduler.stop_app(app.id)
        for name in app.functions.values():
            self._scheduler.scale_up(self._state.find_function(name))
        return api_pb2.AppPublishResponse(url=f"local://{app.id}", deployed_at=time.time())


class FunctionServicer:
    """Define functions and classes, and look them up by name."""

    def __init__(
        self, state: PlaneState, open_web_endpoint: Callable[[str], Awaitable[str]]
    ) -> None:
        self._state = state
        self._open_web_endpoint = open_web_endpoint

    async def FunctionPrecreate(
        self, request: api_pb2.FunctionPrecreateRequest
    ) -> api_pb2.FunctionPrecreateResponse:
        name = request.existing_function_id or self._state.new_id("fu")
        handle = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
            app_id=request.app_id,
            definition_id=self._state.new_id("de"),
        )
        if request.webhook_config.type:
            handle.web_url = await self._open_web_endpoint(name)
        for method, definition in request.method_definitions.items():
            handle.method_handle_metadata[method].CopyFrom(_method_handle(method, definition))
        existing = self._state.functions.get(name)
        ranks = existing.gpu_variants if existing is not None else []
        self._state.functions[name] = DeployedFunction(name, request.app_id, handle, ranks)
        return api_pb2.FunctionPrecreateResponse(function_id=name, handle_metadata=handle)

    async def FunctionCreate(
        self, request: api_pb2.FunctionCreateRequest
    ) -> api_pb2.FunctionCreateResponse:
        ranked = sorted(request.function_data.ranked_functions, key=lambda each: each.rank)
        ranks = [each.function for each in ranked] or [request.function]
        function = self._state.find_function(request.existing_function_id)
        function.gpu_variants = ranks
        for rank in ranks:
            rank.web_url = function.handle.web_url
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=ranks[0],
            function_data=_function_data(function),
            handle_metadata=function.handle,
        )

    async def FunctionGet(self, request: api_pb2.FunctionGetRequest) -> api_pb2.FunctionGetResponse:
        app = self._state.find_app(request.app_name)
        if request.object_tag not in app.functions:
            raise make_not_found_error("Function", request.object_tag)
        return self._function_response(app.functions[request.object_tag])

    async def FunctionGetById(
        self, request: api_pb2.FunctionGetByIdRequest
    ) -> api_pb2.FunctionGetResponse:
        return self._function_response(request.function_id)

    def _function_response(self, name: str) -> api_pb2.FunctionGetResponse:
        function = self._state.find_function(name)
        return api_pb2.FunctionGetResponse(
            function_id=name, handle_metadata=function.handle, function=_function_data(function)
        )

    async def ClassCreate(self, request: api_pb2.ClassCreateRequest) -> api_pb2.ClassCreateResponse:
        name = request.existing_class_id or self._state.new_id("cs")
        self._state.classes[name] = request.app_id
        handle = api_pb2.ClassHandleMetadata()
        return api_pb2.ClassCreateResponse(class_id=name, handle_metadata=handle)

    async def ClassGet(self, request: api_pb2.ClassGetRequest) -> api_pb2.ClassGetResponse:
        app = self._state.find_app(request.app_name)
        if request.object_tag not in app.classes:
            raise make_not_found_error("Cls", request.object_tag)
        name = app.classes[request.object_tag]
        return api_pb2.ClassGetResponse(
            class_id=name, handle_metadata=api_pb2.ClassHandleMetadata()
        )


class ImageServicer:
    """Images are remembered, never built; mounts are files by their content."""

    def __init__(self, state: PlaneState) -> None:
        self._state = state
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        self._metadata = api_pb2.ImageMetadata(
            python_version_info=minor, image_builder_version=IMAGE_BUILDER_VERSION, workdir="/root"
        )

    async def ImageGetOrCreate(
        self, request: api_pb2.ImageGetOrCreateRequest
    ) -> api_pb2.ImageGetOrCreateResponse:
        serialized = request.image.SerializeToString(deterministic=True)
        name = f"im-{hashlib.sha256(serialized).hexdigest()[:16]}"
        self._state.images[name] = request.image
        result = api_pb2.GenericResult(status=SUCCESS_STATUS)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=name, result=result, metadata=self._metadata
        )

    async def ImageJoinStreaming(
        self, request: api_pb2.ImageJoinStreamingRequest
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        result = api_pb2.GenericResult(status=SUCCESS_STATUS)
        yield api_pb2.ImageJoinStreamingResponse(result=result, metadata=self._metadata, eof=True)

    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        hashes = request.sha256_hex_hashes
        missing = [sha for sha in hashes if not self._state.content_path(sha).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(
        self, request: api_pb2.MountPutFileRequest
    ) -> api_pb2.MountPutFileResponse:
        target = self._state.content_path(request.sha256_hex)
        kind = request.WhichOneof("data_oneof")
        if kind == "data":
            target.write_bytes(request.data)
        elif kind == "data_blob_id":
            target.write_bytes(self._state.blob_path(request.data_blob_id).read_bytes())
        return api_pb2.MountPutFileResponse(exists=target.exists())

    async def MountGetOrCreate(
        self, request: api_pb2.MountGetOrCreateRequest
    ) -> api_pb2.MountGetOrCreateResponse:
        """A mount; one of a name that nobody uploaded, as Modal's own client, is empty."""
        deployment_name = request.deployment_name
        name = self._state.named_mounts.get(deployment_name, "") or self._state.new_id("mo")
        if deployment_name:
            self._state.named_mounts[deployment_name] = name
        if request.files or name not in self._state.mounts:
            self._state.mounts[name] = list(request.files)
        checksum = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        handle = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return api_pb2.MountGetOrCreateResponse(mount_id=name, handle_metadata=handle)


def _method_handle(
    name: str, definition: api_pb2.MethodDefinition
) -> api_pb2.FunctionHandleMetadata:
    return api_pb2.FunctionHandleMetadata(
        function_name=definition.function_name,
        function_type=definition.function_type,
        function_schema=definition.function_schema,
        supported_input_formats=definition.supported_input_formats,
        supported_output_formats=definition.supported_output_formats,
        is_method=True,
        use_method_name=name,
    )


def _function_data(function: DeployedFunction) -> api_pb2.FunctionData:
    """What every GPU type of a function has in common, and the function once per GPU type."""
    message = function.message
    data = api_pb2.FunctionData(
        module_name=message.module_name,
        function_name=message.function_name,
        function_type=message.function_type,
        timeout_secs=message.timeout_secs,
        startup_timeout_secs=message.startup_timeout_secs,
        web_url=message.web_url,
        webhook_config=message.webhook_config,
        method_definitions=message.method_definitions,
        is_class=message.is_class,
        is_method=message.is_method,
        autoscaler_settings=message.autoscaler_settings,
    )
    for rank, each in enumerate(function.gpu_variants):
        data.ranked_functions.add(rank=rank, function=each)
    return data
