"""The caller's side of a function call: put inputs, ask for outputs, cancel, stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.support.modal_plane.scheduler import Pools
from tests.support.modal_plane.state import Call, Job, Ledger

LONG = 50.0
"""A question that waits for an output is answered within so many seconds."""


class CallDesk:
    """Answers whoever calls functions, in a container or outside."""

    def __init__(self, ledger: Ledger, pools: Pools) -> None:
        self._ledger = ledger
        self._pools = pools

    async def FunctionMap(self, request: api_pb2.FunctionMapRequest) -> api_pb2.FunctionMapResponse:
        function = self._ledger.function(request.function_id)
        call = self.open(
            function.id, request.function_call_type, request.function_call_invocation_type
        )
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=self._put(call, request.pipelined_inputs),
            retry_policy=function.message.retry_policy,
            function_call_jwt=call.id,
            max_inputs_outstanding=1000,
        )

    def open(
        self,
        function: str,
        kind: api_pb2.FunctionCallType.ValueType,
        invocation: api_pb2.FunctionCallInvocationType.ValueType,
    ) -> Call:
        call = Call(self._ledger.new("fc"), function, kind, invocation)
        self._ledger.calls[call.id] = call
        return call

    async def FunctionPutInputs(
        self, request: api_pb2.FunctionPutInputsRequest
    ) -> api_pb2.FunctionPutInputsResponse:
        call = self._ledger.call(request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=self._put(call, request.inputs))

    def _put(
        self, call: Call, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        found = []
        for item in items:
            job = self.put(call, item.input, item.idx)
            found.append(
                api_pb2.FunctionPutInputsResponseItem(
                    idx=item.idx, input_id=job.id, input_jwt=job.id
                )
            )
        return found

    def put(self, call: Call, message: api_pb2.FunctionInput, index: int = 0) -> Job:
        job = Job(self._ledger.new("in"), call, index, message)
        call.jobs[job.id] = job
        self._ledger.jobs[job.id] = job
        self._pools.enqueue(job)
        return job

    async def FunctionFinishInputs(self, request: api_pb2.FunctionFinishInputsRequest) -> Empty:
        return Empty()

    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self._ledger.call(request.function_call_id)
        seen = int(request.last_entry_id.partition("-")[0] or 0)
        first = request.start_idx if request.HasField("start_idx") else 0
        last = request.end_idx if request.HasField("end_idx") else 2**31

        def look() -> list[api_pb2.FunctionGetOutputsItem]:
            return [item for item in call.outputs[seen:] if first <= item.idx <= last]

        outputs = await self._ledger.bell.until(look, min(request.timeout, LONG))
        return api_pb2.FunctionGetOutputsResponse(
            outputs=outputs,
            idxs=[item.idx for item in outputs],
            last_entry_id=f"{len(call.outputs)}-0",
            num_unfinished_inputs=call.unfinished,
        )

    async def FunctionCallFromId(
        self, request: api_pb2.FunctionCallFromIdRequest
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self._ledger.call(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.id, num_inputs=len(call.jobs)
        )

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest) -> Empty:
        call = self._ledger.call(request.function_call_id)
        for job in list(call.jobs.values()):
            self._pools.cancel(job, request.terminate_containers)
        return Empty()

    async def FunctionCallGetDataOut(
        self, request: api_pb2.FunctionCallGetDataRequest
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self._ledger.call(request.function_call_id)
        async for chunk in self.chunks(call, call.outgoing, request.last_index):
            yield chunk

    async def FunctionCallGetDataIn(
        self, request: api_pb2.FunctionCallGetDataRequest
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self._ledger.call(request.function_call_id)
        async for chunk in self.chunks(call, call.incoming, request.last_index):
            yield chunk

    async def chunks(
        self, call: Call, source: list[api_pb2.DataChunk], seen: int
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """The chunks after the one numbered ``seen``, until the call is done."""
        position = 0

        def look() -> bool:
            return len(source) > position or bool(call.jobs and not call.unfinished)

        while await self._ledger.bell.until(look, LONG) and position < len(source):
            for chunk in source[position:]:
                position += 1
                if chunk.index > seen:
                    yield chunk

    async def FunctionCallPutDataOut(self, request: api_pb2.FunctionCallPutDataRequest) -> Empty:
        call = self._ledger.call(request.function_call_id)
        call.outgoing.extend(request.data_chunks)
        self._ledger.bell.ring()
        return Empty()

    def feed(self, call: Call, data: bytes) -> None:
        """Put a message of the asgi protocol into a call's stream."""
        index = len(call.incoming) + 1
        chunk = api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, data=data, index=index)
        call.incoming.append(chunk)
        self._ledger.bell.ring()

    async def TaskList(self, request: api_pb2.TaskListRequest) -> api_pb2.TaskListResponse:
        response = api_pb2.TaskListResponse()
        for container in self._pools.live():
            response.tasks.add(task_id=container.id, enqueued_at=container.started, app_id="")
        return response
