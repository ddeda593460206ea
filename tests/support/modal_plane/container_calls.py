"""The container's side: hello, inputs, outputs, cancellations, checkpoints, its end."""

from __future__ import annotations

import json

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.support.modal_plane.container import RESTORED, Container
from tests.support.modal_plane.grpc_service import caller, not_found
from tests.support.modal_plane.scheduler import Pools
from tests.support.modal_plane.state import Job, Ledger

HEARTBEAT = 5.0
"""A heartbeat is held so long, and answered at once when an input is cancelled."""


class ContainerDesk:
    """Answers containers."""

    def __init__(self, ledger: Ledger, pools: Pools) -> None:
        self._ledger = ledger
        self._pools = pools

    def _container(self, name: str = "") -> Container:
        name = name or caller.get()
        if name not in self._pools.containers:
            raise not_found("Container", name)
        return self._pools.containers[name]

    async def ContainerHello(self, request: Empty) -> Empty:
        self._container().events.append("hello")
        return Empty()

    async def ContainerHeartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest
    ) -> api_pb2.ContainerHeartbeatResponse:
        container = self._container()
        await self._ledger.bell.until(lambda: bool(container.cancelled), HEARTBEAT)
        inputs, container.cancelled = container.cancelled, []
        event = api_pb2.CancelInputEvent(input_ids=inputs) if inputs else None
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=event)

    async def ContainerCheckpoint(self, request: api_pb2.ContainerCheckpointRequest) -> Empty:
        """Nothing is frozen: the container is told at once that it was restored."""
        container = self._container()
        container.events.append("checkpoint")
        state = json.dumps({"task_id": container.id})
        container.room.host(RESTORED).write_text(state)
        return Empty()

    async def ContainerStop(
        self, request: api_pb2.ContainerStopRequest
    ) -> api_pb2.ContainerStopResponse:
        self._container(request.task_id).stopping = True
        self._ledger.bell.ring()
        return api_pb2.ContainerStopResponse()

    async def TaskResult(self, request: api_pb2.TaskResultRequest) -> Empty:
        container = self._container()
        container.events.append(f"failed: {request.result.exception}")
        if not container.ready:
            self._pools.failed_to_start(container, request.result)
        return Empty()

    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest
    ) -> api_pb2.FunctionGetInputsResponse:
        container = self._container()
        if not container.ready:
            container.ready = True
            container.events.append("ready")
        linger = request.batch_linger_ms / 1000
        jobs = await self._pools.take(container, request.batch_max_size, linger)
        if jobs is None:
            end = api_pb2.FunctionGetInputsItem(kill_switch=True)
            return api_pb2.FunctionGetInputsResponse(inputs=[end])
        return api_pb2.FunctionGetInputsResponse(inputs=[_item(job) for job in jobs])

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest) -> Empty:
        for item in request.outputs:
            job = self._ledger.jobs[item.input_id]
            if item.retry_count == job.attempts:
                self._pools.output(job, item.result, item.data_format)
        self._ledger.bell.ring()
        return Empty()

    async def FunctionGetDynamicConcurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def FunctionUpdateSchedulingParams(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        function = self._ledger.function(request.function_id)
        function.message.autoscaler_settings.MergeFrom(request.settings)
        self._pools.balance(function)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(
            current_settings=function.message.autoscaler_settings
        )


def _item(job: Job) -> api_pb2.FunctionGetInputsItem:
    return api_pb2.FunctionGetInputsItem(
        input_id=job.id,
        input=job.message,
        function_call_id=job.call.id,
        function_call_invocation_type=job.call.invocation,
        retry_count=job.attempts,
    )
