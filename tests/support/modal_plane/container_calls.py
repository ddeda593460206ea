"""The container's side: hello, inputs, outputs, cancellations, checkpoints, its end."""

from __future__ import annotations

import json

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.support.modal_plane.container import RESTORE_STATE_PATH, Container
from tests.support.modal_plane.grpc_service import calling_container, make_not_found_error
from tests.support.modal_plane.scheduler import ContainerScheduler
from tests.support.modal_plane.state import CallInput, PlaneState

HEARTBEAT_SECONDS = 5.0
"""A heartbeat is held so long, and answered at once when an input is cancelled."""


class ContainerServicer:
    """Answers containers."""

    def __init__(self, state: PlaneState, scheduler: ContainerScheduler) -> None:
        self._state = state
        self._scheduler = scheduler

    def _find_container(self, name: str = "") -> Container:
        name = name or calling_container.get()
        if name not in self._scheduler.containers:
            raise make_not_found_error("Container", name)
        return self._scheduler.containers[name]

    async def ContainerHello(self, request: Empty) -> Empty:
        return Empty()

    async def ContainerHeartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest
    ) -> api_pb2.ContainerHeartbeatResponse:
        container = self._find_container()
        await self._state.changes.wait_until(
            lambda: bool(container.cancelled_inputs), HEARTBEAT_SECONDS
        )
        inputs, container.cancelled_inputs = container.cancelled_inputs, []
        event = api_pb2.CancelInputEvent(input_ids=inputs) if inputs else None
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=event)

    async def ContainerCheckpoint(self, request: api_pb2.ContainerCheckpointRequest) -> Empty:
        """Nothing is frozen: the container is told at once that it was restored."""
        container = self._find_container()
        state = json.dumps({"task_id": container.id})
        container.sandbox.host_path(RESTORE_STATE_PATH).write_text(state)
        return Empty()

    async def ContainerStop(
        self, request: api_pb2.ContainerStopRequest
    ) -> api_pb2.ContainerStopResponse:
        self._find_container(request.task_id).is_stopping = True
        self._state.changes.notify()
        return api_pb2.ContainerStopResponse()

    async def TaskResult(self, request: api_pb2.TaskResultRequest) -> Empty:
        container = self._find_container()
        if not container.is_ready:
            self._scheduler.fail_waiting_inputs(container, request.result)
        return Empty()

    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest
    ) -> api_pb2.FunctionGetInputsResponse:
        container = self._find_container()
        container.is_ready = True
        call_input = await self._scheduler.take_input(container)
        if call_input is None:
            return api_pb2.FunctionGetInputsResponse(
                inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)]
            )
        return api_pb2.FunctionGetInputsResponse(inputs=[_input_item(call_input)])

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest) -> Empty:
        for item in request.outputs:
            call_input = self._state.inputs[item.input_id]
            if item.retry_count == call_input.attempts:
                self._scheduler.record_output(call_input, item.result, item.data_format)
        self._state.changes.notify()
        return Empty()

    async def FunctionGetDynamicConcurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def FunctionUpdateSchedulingParams(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        function = self._state.find_function(request.function_id)
        function.message.autoscaler_settings.MergeFrom(request.settings)
        self._scheduler.scale_up(function)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(
            current_settings=function.message.autoscaler_settings
        )


def _input_item(call_input: CallInput) -> api_pb2.FunctionGetInputsItem:
    return api_pb2.FunctionGetInputsItem(
        input_id=call_input.id,
        input=call_input.message,
        function_call_id=call_input.call.id,
        function_call_invocation_type=call_input.call.invocation,
        retry_count=call_input.attempts,
    )
