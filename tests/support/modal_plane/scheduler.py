"""Which container runs which input: queues, starts, retries, time limits, ends."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from modal_proto import api_pb2

from tests.support.modal_plane.container import Container, Setting, prepare, start
from tests.support.modal_plane.state import Deployed, Job, Ledger

Result = api_pb2.GenericResult
MOST_LOST = 2
"""An input whose container died is given to another so often."""
SCALEDOWN = 60.0
CANCELLED = "Input was cancelled by user"
UNSPECIFIED = api_pb2.DATA_FORMAT_UNSPECIFIED


class Pools:
    """The containers of every function, and the inputs that wait for one."""

    def __init__(self, ledger: Ledger, setting: Setting, most: int) -> None:
        self._ledger = ledger
        self._setting = setting
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.containers: dict[str, Container] = {}

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def live(self, function: str = "") -> list[Container]:
        """The containers that have not ended, of one function or of all."""
        found = [c for c in self.containers.values() if not c.ended]
        return [c for c in found if function in ("", c.function.id)]

    def enqueue(self, job: Job) -> None:
        """Let an input wait for a container, and start one if none is free."""
        self._ledger.queues.setdefault(job.call.function, deque()).append(job)
        self.balance(self._ledger.function(job.call.function))
        self._ledger.bell.ring()

    def balance(self, function: Deployed) -> None:
        """Start containers until all waiting inputs have one, or there are enough."""
        if self._closing:
            return
        scaling = function.message.autoscaler_settings
        live = [c for c in self.live(function.id) if not c.stopping]
        waiting = len(self._ledger.queues.get(function.id, ()))
        free = sum(container.slots for container in live)
        most = min(scaling.max_containers or self._most, self._most)
        count = len(live)
        while count < most and (waiting > free or count < scaling.min_containers):
            container = prepare(self._ledger, function, self._setting)
            self.containers[container.id] = container
            self._later(self._run(container))
            free += container.slots
            count += 1

    async def _run(self, container: Container) -> None:
        await start(self._ledger, container, self._setting)
        process = container.process
        assert process is not None
        startup = asyncio.get_running_loop().call_later(
            container.function.message.startup_timeout_secs or 300, self._not_started, container
        )
        code = await process.wait()
        startup.cancel()
        container.sweep()
        container.exit_code = code
        container.clear()
        why = f"container {container.id} exited with status {code}"
        if not (container.ready or container.stopping):
            last = container.log.read_text(errors="replace")[-2000:]
            status = Result.GENERIC_STATUS_INTERNAL_FAILURE
            self.failed_to_start(container, Result(status=status, exception=f"{why}: {last}"))
        for job in list(container.running.values()):
            self._lost(job, why)
        container.running.clear()
        self._ledger.bell.ring()
        self.balance(container.function)

    def _not_started(self, container: Container) -> None:
        if not container.ready:
            container.kill()

    def _lost(self, job: Job, why: str) -> None:
        """A container died under an input: another one gets it, a few times."""
        job.container = ""
        if job.cancelled:
            self.finish(job, Result(status=Result.GENERIC_STATUS_TERMINATED, exception=CANCELLED))
        elif job.lost < MOST_LOST:
            job.lost += 1
            self.enqueue(job)
        elif not job.done:
            status = Result.GENERIC_STATUS_INTERNAL_FAILURE
            self.finish(job, Result(status=status, exception=why))

    async def take(self, container: Container, size: int, linger: float) -> list[Job] | None:
        """The next inputs for a container; ``None`` when it should end."""
        queue = self._ledger.queues.setdefault(container.function.id, deque())
        scaling = container.function.message.autoscaler_settings
        window = scaling.scaledown_window or SCALEDOWN
        keep = len(self.live(container.function.id)) <= scaling.min_containers

        def look() -> bool:
            return bool(queue) or container.stopping

        found = await self._ledger.bell.until(look, 3600 if keep else window)
        if not container.stopping and queue and size > 1:
            await self._ledger.bell.until(lambda: len(queue) >= size, linger)
        if container.stopping or (not found and not container.running):
            container.stopping = True
            return None
        return [self._hand(container, queue.popleft()) for _ in range(min(size or 1, len(queue)))]

    def _hand(self, container: Container, job: Job) -> Job:
        job.container = container.id
        container.running[job.id] = job
        container.served += 1
        attempt = job.attempts
        seconds = container.function.message.timeout_secs or 300
        asyncio.get_running_loop().call_later(seconds, self._overdue, job, attempt, container)
        return job

    def _overdue(self, job: Job, attempt: int, container: Container) -> None:
        if job.done or job.attempts != attempt or job.container != container.id:
            return
        seconds = container.function.message.timeout_secs
        container.running.pop(job.id, None)
        why = f"Task's current input hit its timeout of {seconds}s"
        self.output(job, Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=why))
        container.kill()

    def output(
        self,
        job: Job,
        result: Result,
        data_format: api_pb2.DataFormat.ValueType = UNSPECIFIED,
    ) -> None:
        """An attempt's result: final, or another attempt follows by the function's policy."""
        container = self.containers.get(job.container)
        if container is not None:
            container.running.pop(job.id, None)
        if job.done:
            return
        policy = self._ledger.function(job.call.function).message.retry_policy
        retried = (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT)
        if result.status in retried and job.attempts < policy.retries and not job.cancelled:
            delay = policy.initial_delay_ms * (policy.backoff_coefficient or 1) ** job.attempts
            job.attempts += 1
            job.container = ""
            seconds = min(delay, policy.max_delay_ms or delay) / 1000
            asyncio.get_running_loop().call_later(seconds, self.enqueue, job)
        else:
            self.finish(job, result, data_format)

    def finish(
        self,
        job: Job,
        result: Result,
        data_format: api_pb2.DataFormat.ValueType = UNSPECIFIED,
    ) -> None:
        """The input's last word."""
        if job.done:
            return
        job.done = True
        if result.status == Result.GENERIC_STATUS_TERMINATED and not result.exception:
            result.exception = CANCELLED
        job.call.outputs.append(
            api_pb2.FunctionGetOutputsItem(
                result=result,
                idx=job.index,
                input_id=job.id,
                data_format=data_format,
                task_id=job.container,
                output_created_at=time.time(),
                retry_count=job.attempts,
            )
        )
        self._ledger.bell.ring()

    def cancel(self, job: Job, terminate: bool) -> None:
        """Cancel an input: taken from the queue, interrupted, or killed with its container."""
        if job.done:
            return
        job.cancelled = True
        container = self.containers.get(job.container)
        if container is None or container.ended:
            queue = self._ledger.queues.get(job.call.function, deque())
            if job in queue:
                queue.remove(job)
            self.finish(job, Result(status=Result.GENERIC_STATUS_TERMINATED, exception=CANCELLED))
        elif terminate:
            container.kill()
        else:
            container.cancelled.append(job.id)
            self._ledger.bell.ring()

    def failed_to_start(self, container: Container, result: Result) -> None:
        """A container that cannot import its module fails what waits, or it would loop for ever."""
        container.stopping = True
        queue = self._ledger.queues.get(container.function.id, deque())
        while queue:
            self.finish(queue.popleft(), result)

    def stop_app(self, app: str) -> None:
        for container in self.live():
            if container.function.app == app:
                container.stopping = True
        self._ledger.bell.ring()

    async def close(self, grace: float) -> None:
        """Let idle containers leave, kill the rest, leave nothing behind."""
        self._closing = True
        for container in self.live():
            container.stopping = True
            if container.running or not container.ready:
                container.kill()
        self._ledger.bell.ring()
        await self._ledger.bell.until(lambda: not self.live(), grace)
        for container in self.live():
            container.kill()
        await asyncio.gather(*self._tasks)
