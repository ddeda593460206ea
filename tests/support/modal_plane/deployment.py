"""The calls of ``modal deploy``: apps, functions, classes, images, mounts."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.support.modal_plane.grpc_service import not_found
from tests.support.modal_plane.scheduler import Pools
from tests.support.modal_plane.state import App, Deployed, Ledger

IMAGE_BUILDER = "2026.10"
SUCCESS = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS


class AppDesk:
    """Apps come, are published, and go."""

    def __init__(self, ledger: Ledger, pools: Pools) -> None:
        self._ledger = ledger
        self._pools = pools

    async def ClientHello(self, request: Empty) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version=IMAGE_BUILDER)

    async def AuthTokenGet(
        self, request: api_pb2.AuthTokenGetRequest
    ) -> api_pb2.AuthTokenGetResponse:
        return api_pb2.AuthTokenGetResponse(token="e30.e30.e30")

    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        settings = api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER)
        name = request.deployment_name or "main"
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-1",
            metadata=api_pb2.EnvironmentMetadata(name=name, settings=settings),
        )

    async def WorkspaceNameLookup(self, request: Empty) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="local", username="local")

    async def AppCreate(self, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        app = App(self._ledger.new("ap"), request.description)
        app.ephemeral = request.app_state != api_pb2.APP_STATE_INITIALIZING
        self._ledger.apps[app.id] = app
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=f"local://{app.id}")

    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        known = [a.id for a in self._ledger.apps.values() if a.published and a.name == request.name]
        return api_pb2.AppGetByDeploymentNameResponse(app_id=known[0] if known else "")

    async def AppGetLayout(
        self, request: api_pb2.AppGetLayoutRequest
    ) -> api_pb2.AppGetLayoutResponse:
        app = self._ledger.apps[request.app_id]
        return api_pb2.AppGetLayoutResponse(app_layout=self._ledger.layout(app))

    async def AppHeartbeat(self, request: api_pb2.AppHeartbeatRequest) -> Empty:
        return Empty()

    async def AppPublish(self, request: api_pb2.AppPublishRequest) -> api_pb2.AppPublishResponse:
        """The new version serves from now on; containers of the old one finish what they do."""
        app = self._ledger.apps[request.app_id]
        app.name = request.name or app.name
        app.functions = dict(request.function_ids)
        app.classes = dict(request.class_ids)
        app.published = True
        self._pools.stop_app(app.id)
        for name in app.functions.values():
            self._pools.balance(self._ledger.function(name))
        return api_pb2.AppPublishResponse(url=f"local://{app.id}", deployed_at=time.time())

    async def AppClientDisconnect(self, request: api_pb2.AppClientDisconnectRequest) -> Empty:
        """The end of a ``modal run``; a deployed app stays."""
        app = self._ledger.apps.get(request.app_id)
        if app is not None and app.ephemeral:
            app.published = False
            self._pools.stop_app(app.id)
        return Empty()

    async def AppGetLogs(
        self, request: api_pb2.AppGetLogsRequest
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """No logs are streamed, only the end of an app; a container's log is in its facts."""
        app = self._ledger.apps[request.app_id]
        await self._ledger.bell.until(lambda: not app.published, request.timeout)
        if not app.published:
            yield api_pb2.TaskLogsBatch(app_done=True)

    async def AppStop(self, request: api_pb2.AppStopRequest) -> Empty:
        self._ledger.apps[request.app_id].published = False
        self._pools.stop_app(request.app_id)
        return Empty()


class FunctionDesk:
    """Functions and classes are defined, found by name, and varied by parameters."""

    def __init__(self, ledger: Ledger, open_site: Callable[[str, str], Awaitable[str]]) -> None:
        self._ledger = ledger
        self._open_site = open_site

    async def FunctionPrecreate(
        self, request: api_pb2.FunctionPrecreateRequest
    ) -> api_pb2.FunctionPrecreateResponse:
        name = request.existing_function_id or self._ledger.new("fu")
        handle = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
            app_id=request.app_id,
            definition_id=self._ledger.new("de"),
        )
        if request.webhook_config.type:
            handle.web_url = await self._open_site(name, "")
        for method, definition in request.method_definitions.items():
            web = definition.webhook_config.type
            url = await self._open_site(name, method) if web else ""
            handle.method_handle_metadata[method].CopyFrom(_method(method, definition, url))
        known = self._ledger.functions.get(name)
        ranks = known.ranks if known is not None else []
        self._ledger.functions[name] = Deployed(name, request.app_id, handle, ranks)
        return api_pb2.FunctionPrecreateResponse(function_id=name, handle_metadata=handle)

    async def FunctionCreate(
        self, request: api_pb2.FunctionCreateRequest
    ) -> api_pb2.FunctionCreateResponse:
        ranked = sorted(request.function_data.ranked_functions, key=lambda each: each.rank)
        ranks = [each.function for each in ranked] or [request.function]
        function = self._ledger.function(request.existing_function_id)
        function.ranks = ranks
        function.handle.class_parameter_info.CopyFrom(ranks[0].class_parameter_info)
        for rank in ranks:
            rank.web_url = function.handle.web_url
            for method, known in function.handle.method_handle_metadata.items():
                rank.method_definitions[method].web_url = known.web_url
        for varied in self._ledger.functions.values():
            if varied.base == function.id:
                varied.ranks = [_with_options(rank, varied.options) for rank in ranks]
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=ranks[0],
            function_data=_data(function),
            handle_metadata=function.handle,
        )

    async def FunctionGet(self, request: api_pb2.FunctionGetRequest) -> api_pb2.FunctionGetResponse:
        app = self._ledger.app(request.app_name)
        if request.object_tag not in app.functions:
            raise not_found("Function", request.object_tag)
        return self._found(app.functions[request.object_tag])

    async def FunctionGetById(
        self, request: api_pb2.FunctionGetByIdRequest
    ) -> api_pb2.FunctionGetResponse:
        return self._found(request.function_id)

    def _found(self, name: str) -> api_pb2.FunctionGetResponse:
        function = self._ledger.function(name)
        return api_pb2.FunctionGetResponse(
            function_id=name, handle_metadata=function.handle, function=_data(function)
        )

    async def FunctionBindParams(
        self, request: api_pb2.FunctionBindParamsRequest
    ) -> api_pb2.FunctionBindParamsResponse:
        base = self._ledger.function(request.function_id)
        wanted = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()[:16]
        name = f"fu-{wanted}"
        if name not in self._ledger.functions:
            handle = api_pb2.FunctionHandleMetadata()
            handle.CopyFrom(base.handle)
            handle.base_function_id = base.id
            options = request.function_options
            ranks = [_with_options(rank, options) for rank in base.ranks]
            self._ledger.functions[name] = Deployed(
                name, base.app, handle, ranks, base.id, request.serialized_params, options
            )
        handle = self._ledger.functions[name].handle
        return api_pb2.FunctionBindParamsResponse(bound_function_id=name, handle_metadata=handle)

    async def ClassCreate(self, request: api_pb2.ClassCreateRequest) -> api_pb2.ClassCreateResponse:
        name = request.existing_class_id or self._ledger.new("cs")
        self._ledger.classes[name] = request.app_id
        handle = api_pb2.ClassHandleMetadata()
        return api_pb2.ClassCreateResponse(class_id=name, handle_metadata=handle)

    async def ClassGet(self, request: api_pb2.ClassGetRequest) -> api_pb2.ClassGetResponse:
        app = self._ledger.app(request.app_name)
        if request.object_tag not in app.classes:
            raise not_found("Cls", request.object_tag)
        name = app.classes[request.object_tag]
        return api_pb2.ClassGetResponse(
            class_id=name, handle_metadata=api_pb2.ClassHandleMetadata()
        )


class ImageDesk:
    """Images are remembered, never built; mounts are files by their content."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        self._metadata = api_pb2.ImageMetadata(
            python_version_info=minor, image_builder_version=IMAGE_BUILDER, workdir="/root"
        )

    async def ImageGetOrCreate(
        self, request: api_pb2.ImageGetOrCreateRequest
    ) -> api_pb2.ImageGetOrCreateResponse:
        known = request.image.SerializeToString(deterministic=True)
        name = f"im-{hashlib.sha256(known).hexdigest()[:16]}"
        self._ledger.images[name] = request.image
        result = api_pb2.GenericResult(status=SUCCESS)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=name, result=result, metadata=self._metadata
        )

    async def ImageJoinStreaming(
        self, request: api_pb2.ImageJoinStreamingRequest
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        result = api_pb2.GenericResult(status=SUCCESS)
        yield api_pb2.ImageJoinStreamingResponse(result=result, metadata=self._metadata, eof=True)

    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        hashes = request.sha256_hex_hashes
        missing = [sha for sha in hashes if not self._ledger.content(sha).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(
        self, request: api_pb2.MountPutFileRequest
    ) -> api_pb2.MountPutFileResponse:
        target = self._ledger.content(request.sha256_hex)
        kind = request.WhichOneof("data_oneof")
        if kind == "data":
            target.write_bytes(request.data)
        elif kind == "data_blob_id":
            target.write_bytes(self._ledger.blob(request.data_blob_id).read_bytes())
        return api_pb2.MountPutFileResponse(exists=target.exists())

    async def MountGetOrCreate(
        self, request: api_pb2.MountGetOrCreateRequest
    ) -> api_pb2.MountGetOrCreateResponse:
        """A mount; one of a name that nobody uploaded, as Modal's own client, is empty."""
        named = request.deployment_name
        name = self._ledger.named_mounts.get(named, "") or self._ledger.new("mo")
        if named:
            self._ledger.named_mounts[named] = name
        if request.files or name not in self._ledger.mounts:
            self._ledger.mounts[name] = list(request.files)
        checksum = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        handle = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return api_pb2.MountGetOrCreateResponse(mount_id=name, handle_metadata=handle)


def _method(
    name: str, definition: api_pb2.MethodDefinition, url: str
) -> api_pb2.FunctionHandleMetadata:
    return api_pb2.FunctionHandleMetadata(
        function_name=definition.function_name,
        function_type=definition.function_type,
        function_schema=definition.function_schema,
        supported_input_formats=definition.supported_input_formats,
        supported_output_formats=definition.supported_output_formats,
        is_method=True,
        use_method_name=name,
        web_url=url,
    )


def _data(function: Deployed) -> api_pb2.FunctionData:
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
        class_parameter_info=message.class_parameter_info,
        autoscaler_settings=message.autoscaler_settings,
        schedule=message.schedule,
    )
    for rank, each in enumerate(function.ranks):
        data.ranked_functions.add(rank=rank, function=each)
    return data


def _with_options(function: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    """A copy of a function as ``with_options`` or ``with_concurrency`` vary it."""
    varied = api_pb2.Function()
    varied.CopyFrom(function)
    if options.HasField("resources"):
        varied.resources.MergeFrom(options.resources)
    if options.HasField("retry_policy"):
        varied.retry_policy.CopyFrom(options.retry_policy)
    if options.replace_secret_ids:
        varied.ClearField("secret_ids")
    varied.secret_ids.extend(options.secret_ids)
    if options.replace_volume_mounts:
        varied.ClearField("volume_mounts")
    varied.volume_mounts.extend(options.volume_mounts)
    for name in ("timeout_secs", "max_concurrent_inputs", "target_concurrent_inputs"):
        if options.HasField(name):
            setattr(varied, name, getattr(options, name))
    scaling = varied.autoscaler_settings
    if options.HasField("concurrency_limit"):
        scaling.max_containers = options.concurrency_limit
    if options.HasField("task_idle_timeout_secs"):
        scaling.scaledown_window = options.task_idle_timeout_secs
    return varied
