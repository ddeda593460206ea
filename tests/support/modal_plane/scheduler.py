"""Which container runs which input: queues, starts, retries, time limits, ends."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from modal_proto import api_pb2

from tests.support.modal_plane.container import (
    Container,
    ContainerSettings,
    prepare_container,
    start_container,
)
from tests.support.modal_plane.state import CallInput, DeployedFunction, PlaneState

Result = api_pb2.GenericResult
MAX_CONTAINER_LOSSES = 2
"""An input whose container died is given to another so often."""
SCALEDOWN_SECONDS = 60.0
CANCELLED_MESSAGE = "Input was cancelled by user"
UNSPECIFIED_FORMAT = api_pb2.DATA_FORMAT_UNSPECIFIED


class ContainerScheduler:
    """The containers of every function, and the inputs that wait for one."""

    def __init__(self, state: PlaneState, settings: ContainerSettings, max_containers: int) -> None:
        self._state = state
        self._settings = settings
        self._max_containers = max_containers
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.containers: dict[str, Container] = {}

    def _create_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def live_containers(self, function: str = "") -> list[Container]:
        """The containers that have not ended, of one function or of all."""
        containers = [c for c in self.containers.values() if not c.has_ended]
        return [c for c in containers if function in ("", c.function.id)]

    def enqueue(self, call_input: CallInput) -> None:
        """Let an input wait for a container, and start one if none is free."""
        self._state.queues.setdefault(call_input.call.function, deque()).append(call_input)
        self.scale_up(self._state.find_function(call_input.call.function))
        self._state.changes.notify()

    def scale_up(self, function: DeployedFunction) -> None:
        """Start containers until all waiting inputs have one, or there are enough."""
        if self._closing:
            return
        scaling = function.message.autoscaler_settings
        live = [c for c in self.live_containers(function.id) if not c.is_stopping]
        waiting = len(self._state.queues.get(function.id, ()))
        free_slots = sum(container.free_slots for container in live)
        limit = min(scaling.max_containers or self._max_containers, self._max_containers)
        count = len(live)
        while count < limit and (waiting > free_slots or count < scaling.min_containers):
            container = prepare_container(self._state, function, self._settings)
            self.containers[container.id] = container
            self._create_task(self._run(container))
            free_slots += container.free_slots
            count += 1

    async def _run(self, container: Container) -> None:
        await start_container(self._state, container, self._settings)
        process = container.process
        assert process is not None
        startup = asyncio.get_running_loop().call_later(
            container.function.message.startup_timeout_secs or 300, self._kill_unstarted, container
        )
        code = await process.wait()
        startup.cancel()
        container.kill_stray_processes()
        container.exit_code = code
        container.remove_files()
        reason = f"container {container.id} exited with status {code}"
        if not (container.is_ready or container.is_stopping):
            last = container.log.read_text(errors="replace")[-2000:]
            status = Result.GENERIC_STATUS_INTERNAL_FAILURE
            self.fail_waiting_inputs(
                container, Result(status=status, exception=f"{reason}: {last}")
            )
        for call_input in list(container.running_inputs.values()):
            self._requeue_lost_input(call_input, reason)
        container.running_inputs.clear()
        self._state.changes.notify()
        self.scale_up(container.function)

    def _kill_unstarted(self, container: Container) -> None:
        if not container.is_ready:
            container.kill()

    def _requeue_lost_input(self, call_input: CallInput, reason: str) -> None:
        """A container died under an input: another one gets it, a few times."""
        call_input.container = ""
        if call_input.cancelled:
            self.finish_input(
                call_input,
                Result(status=Result.GENERIC_STATUS_TERMINATED, exception=CANCELLED_MESSAGE),
            )
        elif call_input.lost_containers < MAX_CONTAINER_LOSSES:
            call_input.lost_containers += 1
            self.enqueue(call_input)
        elif not call_input.done:
            status = Result.GENERIC_STATUS_INTERNAL_FAILURE
            self.finish_input(call_input, Result(status=status, exception=reason))

    async def take_input(self, container: Container) -> CallInput | None:
        """The next input for a container; ``None`` when it should end."""
        queue = self._state.queues.setdefault(container.function.id, deque())
        scaling = container.function.message.autoscaler_settings
        window = scaling.scaledown_window or SCALEDOWN_SECONDS
        is_min_container = (
            len(self.live_containers(container.function.id)) <= scaling.min_containers
        )

        def has_work() -> bool:
            return bool(queue) or container.is_stopping

        is_awake = await self._state.changes.wait_until(
            has_work, 3600 if is_min_container else window
        )
        if container.is_stopping or (not is_awake and not container.running_inputs):
            container.is_stopping = True
            return None
        return self._assign_input(container, queue.popleft())

    def _assign_input(self, container: Container, call_input: CallInput) -> CallInput:
        call_input.container = container.id
        container.running_inputs[call_input.id] = call_input
        container.served_count += 1
        attempt = call_input.attempts
        seconds = container.function.message.timeout_secs or 300
        asyncio.get_running_loop().call_later(
            seconds, self._time_out_input, call_input, attempt, container
        )
        return call_input

    def _time_out_input(self, call_input: CallInput, attempt: int, container: Container) -> None:
        if (
            call_input.done
            or call_input.attempts != attempt
            or call_input.container != container.id
        ):
            return
        seconds = container.function.message.timeout_secs
        container.running_inputs.pop(call_input.id, None)
        reason = f"Task's current input hit its timeout of {seconds}s"
        self.record_output(
            call_input, Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=reason)
        )
        container.kill()

    def record_output(
        self,
        call_input: CallInput,
        result: Result,
        data_format: api_pb2.DataFormat.ValueType = UNSPECIFIED_FORMAT,
    ) -> None:
        """An attempt's result: final, or another attempt follows by the function's policy."""
        container = self.containers.get(call_input.container)
        if container is not None:
            container.running_inputs.pop(call_input.id, None)
        if call_input.done:
            return
        policy = self._state.find_function(call_input.call.function).message.retry_policy
        retryable_statuses = (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT)
        if (
            result.status in retryable_statuses
            and call_input.attempts < policy.retries
            and not call_input.cancelled
        ):
            delay = (
                policy.initial_delay_ms * (policy.backoff_coefficient or 1) ** call_input.attempts
            )
            call_input.attempts += 1
            call_input.container = ""
            seconds = min(delay, policy.max_delay_ms or delay) / 1000
            asyncio.get_running_loop().call_later(seconds, self.enqueue, call_input)
        else:
            self.finish_input(call_input, result, data_format)

    def finish_input(
        self,
        call_input: CallInput,
        result: Result,
        data_format: api_pb2.DataFormat.ValueType = UNSPECIFIED_FORMAT,
    ) -> None:
        """The input's last word."""
        if call_input.done:
            return
        call_input.done = True
        if result.status == Result.GENERIC_STATUS_TERMINATED and not result.exception:
            result.exception = CANCELLED_MESSAGE
        call_input.call.outputs.append(
            api_pb2.FunctionGetOutputsItem(
                result=result,
                idx=call_input.index,
                input_id=call_input.id,
                data_format=data_format,
                task_id=call_input.container,
                output_created_at=time.time(),
                retry_count=call_input.attempts,
            )
        )
        self._state.changes.notify()

    def cancel_input(self, call_input: CallInput, terminate: bool) -> None:
        """Cancel an input: taken from the queue, interrupted, or killed with its container."""
        if call_input.done:
            return
        call_input.cancelled = True
        container = self.containers.get(call_input.container)
        if container is None or container.has_ended:
            queue = self._state.queues.get(call_input.call.function, deque())
            if call_input in queue:
                queue.remove(call_input)
            self.finish_input(
                call_input,
                Result(status=Result.GENERIC_STATUS_TERMINATED, exception=CANCELLED_MESSAGE),
            )
        elif terminate:
            container.kill()
        else:
            container.cancelled_inputs.append(call_input.id)
            self._state.changes.notify()

    def fail_waiting_inputs(self, container: Container, result: Result) -> None:
        """A container that cannot import its module fails what waits, or it would loop for ever."""
        container.is_stopping = True
        queue = self._state.queues.get(container.function.id, deque())
        while queue:
            self.finish_input(queue.popleft(), result)

    def stop_app(self, app: str) -> None:
        for container in self.live_containers():
            if container.function.app == app:
                container.is_stopping = True
        self._state.changes.notify()

    async def close(self, grace_seconds: float) -> None:
        """Let idle containers leave, kill the rest, leave nothing behind."""
        self._closing = True
        for container in self.live_containers():
            container.is_stopping = True
            if container.running_inputs or not container.is_ready:
                container.kill()
        self._state.changes.notify()
        await self._state.changes.wait_until(lambda: not self.live_containers(), grace_seconds)
        for container in self.live_containers():
            container.kill()
        await asyncio.gather(*self._tasks)
