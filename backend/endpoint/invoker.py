"""Process an invocation after its body is read: decode, predict, build the response, capture."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from backend.domain import ImageSize
from backend.endpoint.capture_recorder import Invocation
from backend.endpoint.corrections import correction_regions
from backend.endpoint.functions import FunctionRegistry, LoadedVersion
from backend.endpoint.post_response import PostResponseTasks
from backend.endpoint.problems import ProblemError, unreadable_image
from backend.endpoint.responses import DEFAULT_OPTIONS, ResponseOptions, build_response
from backend.endpoint.schemas import Correction, HttpJsonObject
from backend.errors import ImageError
from backend.inference.predict_image import ImagePrediction
from backend.store.image_copies import shrink_to_limit
from backend.vision.images.decode import DecodedImage, decode_upright_image

PLACEHOLDER_SIZE = ImageSize(100, 100)
RESPONSE_TIMEOUT_SECONDS = 120.0
"""Time limit of a prediction; a cold start on Modal takes up to a minute."""


@dataclass(frozen=True)
class InvocationRequest:
    """The parameters of a request.

    Attributes:
        request_id: id of the request.
        function: id of the function.
        external_id: the caller's id for the image; may be empty.
        version: name of the version; empty for the live one.
        capture: whether the image may be stored for labeling.
        options: options of the response.
    """

    request_id: str
    function: str
    external_id: str = ""
    version: str = ""
    capture: bool = True
    options: ResponseOptions = DEFAULT_OPTIONS

    def item(self, number: int) -> InvocationRequest:
        """Return the parameters of one image of a batch."""
        external_id = f"{self.external_id}-{number}" if self.external_id else ""
        return replace(self, request_id=f"{self.request_id}-{number}", external_id=external_id)


class Invoker:
    """Process invocations and corrections.

    Args:
        functions: the registry of functions.
        post_response: receives every prediction.
        max_pixels: maximum number of pixels of an image.
        thread_count: number of threads that decode images.
    """

    def __init__(
        self,
        functions: FunctionRegistry,
        post_response: PostResponseTasks,
        max_pixels: int,
        thread_count: int,
    ) -> None:
        self.functions = functions
        self._post_response = post_response
        self._max_pixels = max_pixels
        self._decode_executor = ThreadPoolExecutor(thread_count, "decoding")

    def stop(self) -> None:
        """Shut down the decoding threads."""
        self._decode_executor.shutdown(wait=False, cancel_futures=True)

    async def invoke(
        self, request: InvocationRequest, content: bytes, started_at: float
    ) -> HttpJsonObject:
        """Return the response to one image.

        Args:
            request: parameters of the request.
            content: bytes of the image.
            started_at: ``time.perf_counter()`` at the arrival of the request.

        Raises:
            ProblemError: the function, version or image cannot be used.
        """
        timer = _StepTimer(started_at)
        timer.finish("read")
        ready = await self.functions.find_version(request.function, request.version)
        image = await self._decode(content, ready.loaded)
        timer.finish("decode")
        (prediction,) = await _with_timeout(ready.batcher.submit([image]))
        timer.finish("predict")
        response = build_response(ready.loaded, prediction, request.options)
        self._submit_capture(request, ready.loaded, prediction, content, image)
        return {**response, **_response_metadata(request, ready.loaded, timer)}

    async def invoke_batch(
        self,
        request: InvocationRequest,
        contents: Sequence[bytes | ProblemError],
        started_at: float,
    ) -> HttpJsonObject:
        """Return the response to several images, with an error for each unreadable one.

        Raises:
            ProblemError: the function or version cannot be used, or all images are unreadable.
        """
        timer = _StepTimer(started_at)
        timer.finish("read")
        ready = await self.functions.find_version(request.function, request.version)
        images = await asyncio.gather(
            *(self._decode_or_problem(content, ready.loaded) for content in contents)
        )
        decoded = [image for image in images if isinstance(image, DecodedImage)]
        if not decoded:
            raise next(image for image in images if isinstance(image, ProblemError))
        timer.finish("decode")
        predictions = iter(await _with_timeout(ready.batcher.submit(decoded)))
        timer.finish("predict")
        results: list[HttpJsonObject] = []
        for number, (content, image) in enumerate(zip(contents, images, strict=True)):
            item = request.item(number)
            if isinstance(image, ProblemError):
                results.append({"error": image.to_json(item.request_id)})
            elif isinstance(content, bytes):
                prediction = next(predictions)
                results.append(build_response(ready.loaded, prediction, request.options))
                self._submit_capture(item, ready.loaded, prediction, content, image)
        return {"results": results, **_response_metadata(request, ready.loaded, timer)}

    async def correct(
        self, request: InvocationRequest, correction: Correction, content: bytes | None
    ) -> None:
        """Store the correction of an image.

        Args:
            request: parameters with the external id.
            correction: the correction.
            content: bytes of the image, if the caller sent it.

        Raises:
            ProblemError: the image was not captured, or the correction does not fit the function.
        """
        ready = await self.functions.find_version(request.function)
        loaded = ready.loaded
        correction_regions(loaded, correction, PLACEHOLDER_SIZE)  # reject an invalid one early

        def make_regions(size: ImageSize) -> list[HttpJsonObject]:
            return correction_regions(loaded, correction, size)

        if await self._post_response.correct(loaded, request.external_id, make_regions):
            return
        if content is None:
            raise ProblemError(
                404,
                "no-sample",
                f"The last image with the external id {request.external_id[:80]!r} was not "
                "captured: send it as `data`.",
            )
        image = await self._decode(content, loaded)
        (prediction,) = await ready.batcher.submit([image])
        invocation = _build_invocation(request, loaded, prediction, content, image)
        await self._post_response.store_corrected(invocation, make_regions)

    async def _decode_or_problem(
        self, content: bytes | ProblemError, loaded: LoadedVersion
    ) -> DecodedImage | ProblemError:
        if isinstance(content, ProblemError):
            return content
        try:
            return await self._decode(content, loaded)
        except ProblemError as problem:
            return problem

    async def _decode(self, content: bytes, loaded: LoadedVersion) -> DecodedImage:
        arguments = (content, self._max_pixels, loaded.min_pixels)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decode_executor, read_image, *arguments)
        except ImageError as error:
            raise unreadable_image(error) from error

    def _submit_capture(
        self,
        request: InvocationRequest,
        loaded: LoadedVersion,
        prediction: ImagePrediction,
        content: bytes,
        image: DecodedImage,
    ) -> None:
        invocation = _build_invocation(request, loaded, prediction, content, image)
        is_live = self.functions.live_version(request.function) is loaded
        self._post_response.submit(invocation, capture=request.capture, live=is_live)


class _StepTimer:
    """Durations of the steps of a request, in milliseconds."""

    def __init__(self, started_at: float) -> None:
        self._started_at = self._step_started_at = started_at
        self.milliseconds: dict[str, float] = {}

    def finish(self, step: str) -> None:
        now = time.perf_counter()
        self.milliseconds[step] = round((now - self._step_started_at) * 1000, 2)
        self._step_started_at = now

    def total(self) -> float:
        return round((time.perf_counter() - self._started_at) * 1000, 2)


async def _with_timeout(predictions: Awaitable[list[ImagePrediction]]) -> list[ImagePrediction]:
    try:
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            return await predictions
    except TimeoutError as error:
        message = f"The model took longer than {RESPONSE_TIMEOUT_SECONDS:.0f} seconds: try again."
        raise ProblemError(503, "slow-answer", message, {"retry-after": "10"}) from error


def read_image(content: bytes, max_pixels: int, min_pixels: int) -> DecodedImage:
    """Decode an image for a version.

    Args:
        content: bytes of the file.
        max_pixels: maximum number of pixels; larger images are rejected.
        min_pixels: see :attr:`LoadedVersion.min_pixels`.

    Raises:
        ImageError: the image cannot be read.
    """
    return decode_upright_image(
        content,
        max_pixels=max_pixels,
        min_side=min_pixels,
        shrink=shrink_to_limit,
        accept_truncated=False,  # of an upload, it is a failed transfer
    )


def _build_invocation(
    request: InvocationRequest,
    loaded: LoadedVersion,
    prediction: ImagePrediction,
    content: bytes,
    image: DecodedImage,
) -> Invocation:
    external_id, now = request.external_id, time.time()
    return Invocation(
        request.request_id, loaded, prediction, content, image.image, external_id, now
    )


def _response_metadata(
    request: InvocationRequest, loaded: LoadedVersion, timer: _StepTimer
) -> HttpJsonObject:
    return {
        "function": request.function,
        "version": loaded.card.version,
        "requestId": request.request_id,
        "externalId": request.external_id or None,
        "milliseconds": {**timer.milliseconds, "total": timer.total()},
    }
