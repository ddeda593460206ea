"""The caller's side of a function call: put inputs, ask for outputs, cancel, stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.support.modal_plane.scheduler import ContainerScheduler
from tests.support.modal_plane.state import Call, CallInput, PlaneState

LONG_POLL_SECONDS = 50.0
"""A question that waits for an output is answered within so many seconds."""


class FunctionCallServicer:
    """Answers whoever calls functions, in a container or outside."""

    def __init__(self, state: PlaneState, scheduler: ContainerScheduler) -> None:
        self._state = state
        self._scheduler = scheduler

    async def FunctionMap(self, request: api_pb2.FunctionMapRequest) -> api_pb2.FunctionMapResponse:
        function = self._state.find_function(request.function_id)
        call = self.open_call(
            function.id, request.function_call_type, request.function_call_invocation_type
        )
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=self._put_inputs(call, request.pipelined_inputs),
            retry_policy=function.message.retry_policy,
            function_call_jwt=call.id,
            max_inputs_outstanding=1000,
        )

    def open_call(
        self,
        function: str,
        kind: api_pb2.FunctionCallType.ValueType,
        invocation: api_pb2.FunctionCallInvocationType.ValueType,
    ) -> Call:
        call = Call(self._state.new_id("fc"), function, kind, invocation)
        self._state.calls[call.id] = call
        return call

    async def FunctionPutInputs(
        self, request: api_pb2.FunctionPutInputsRequest
    ) -> api_pb2.FunctionPutInputsResponse:
        call = self._state.find_call(request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=self._put_inputs(call, request.inputs))

    def _put_inputs(
        self, call: Call, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        responses = []
        for item in items:
            call_input = self.put_input(call, item.input, item.idx)
            responses.append(
                api_pb2.FunctionPutInputsResponseItem(
                    idx=item.idx, input_id=call_input.id, input_jwt=call_input.id
                )
            )
        return responses

    def put_input(self, call: Call, message: api_pb2.FunctionInput, index: int = 0) -> CallInput:
        call_input = CallInput(self._state.new_id("in"), call, index, message)
        call.inputs[call_input.id] = call_input
        self._state.inputs[call_input.id] = call_input
        self._scheduler.enqueue(call_input)
        return call_input

    async def FunctionFinishInputs(self, request: api_pb2.FunctionFinishInputsRequest) -> Empty:
        return Empty()

    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self._state.find_call(request.function_call_id)
        seen_count = int(request.last_entry_id.partition("-")[0] or 0)
        first = request.start_idx if request.HasField("start_idx") else 0
        last = request.end_idx if request.HasField("end_idx") else 2**31

        def new_outputs() -> list[api_pb2.FunctionGetOutputsItem]:
            return [item for item in call.outputs[seen_count:] if first <= item.idx <= last]

        outputs = await self._state.changes.wait_until(
            new_outputs, min(request.timeout, LONG_POLL_SECONDS)
        )
        return api_pb2.FunctionGetOutputsResponse(
            outputs=outputs,
            idxs=[item.idx for item in outputs],
            last_entry_id=f"{len(call.outputs)}-0",
            num_unfinished_inputs=call.unfinished_count,
        )

    async def FunctionCallFromId(
        self, request: api_pb2.FunctionCallFromIdRequest
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self._state.find_call(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.id, num_inputs=len(call.inputs)
        )

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest) -> Empty:
        call = self._state.find_call(request.function_call_id)
        for call_input in list(call.inputs.values()):
            self._scheduler.cancel_input(call_input, request.terminate_containers)
        return Empty()

    async def FunctionCallGetDataIn(
        self, request: api_pb2.FunctionCallGetDataRequest
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self._state.find_call(request.function_call_id)
        async for chunk in self.stream_chunks(call, call.incoming, request.last_index):
            yield chunk

    async def stream_chunks(
        self, call: Call, source: list[api_pb2.DataChunk], last_index: int
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """The chunks after the one numbered ``last_index``, until the call is done."""
        position = 0

        def has_news() -> bool:
            return len(source) > position or bool(call.inputs and not call.unfinished_count)

        while await self._state.changes.wait_until(has_news, LONG_POLL_SECONDS) and position < len(
            source
        ):
            for chunk in source[position:]:
                position += 1
                if chunk.index > last_index:
                    yield chunk

    async def FunctionCallPutDataOut(self, request: api_pb2.FunctionCallPutDataRequest) -> Empty:
        call = self._state.find_call(request.function_call_id)
        call.outgoing.extend(request.data_chunks)
        self._state.changes.notify()
        return Empty()

    def feed_asgi_message(self, call: Call, data: bytes) -> None:
        """Put a message of the asgi protocol into a call's stream."""
        index = len(call.incoming) + 1
        chunk = api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, data=data, index=index)
        call.incoming.append(chunk)
        self._state.changes.notify()
