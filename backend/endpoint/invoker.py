"""One invocation from its bytes to its answer: read, decode, look, tell, note."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from backend.domain import ImageSize
from backend.endpoint.capture_recorder import Invocation
from backend.endpoint.corrections import Correction, correction_regions
from backend.endpoint.functions import FunctionRegistry, LoadedVersion
from backend.endpoint.post_response import PostResponseTasks
from backend.endpoint.problems import ProblemError, unreadable_image
from backend.endpoint.responses import ResponseOptions, build_response
from backend.errors import ImageError
from backend.inference.predict_image import ImagePrediction
from backend.store.image_copies import shrink_to_limit
from backend.vision.images.decode import DecodedImage, decode_upright_image

PLACEHOLDER_SIZE = ImageSize(100, 100)
RESPONSE_TIMEOUT_SECONDS = 120.0
"""That a caller waits for the model at most: a cold start elsewhere takes most of a minute."""


@dataclass(frozen=True)
class InvocationRequest:
    """What a caller wants.

    Attributes:
        request_id: its id.
        function: whose.
        version: by name; the live one when empty.
        external_id: the caller's name for the picture; may be empty.
        capture: the picture may be kept.
        options: what is told.
    """

    request_id: str
    function: str
    version: str
    external_id: str
    capture: bool
    options: ResponseOptions


class Invoker:
    """Answers.

    Args:
        functions: that answer.
        post_response: told of each answer.
        max_pixels: of an image.
        thread_count: that decode.
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
        """Let the threads end."""
        self._decode_executor.shutdown(wait=False, cancel_futures=True)

    async def invoke(
        self, invocation_request: InvocationRequest, content: bytes, started_at: float
    ) -> dict[str, Any]:
        """The answer to one image.

        Args:
            invocation_request: by whom and for what.
            content: the image's bytes.
            started_at: when the request came, on the performance counter.

        Raises:
            ProblemError: the function, the version or the image cannot be used.
        """
        read_at = time.perf_counter()
        ready = await self.functions.find_version(
            invocation_request.function, invocation_request.version
        )
        decoded_image = await self._decode(content, ready.loaded)
        decoded_at = time.perf_counter()
        (prediction,) = await _with_timeout(ready.batcher.submit([decoded_image]))
        predicted_at = time.perf_counter()
        response = build_response(ready.loaded, prediction, invocation_request.options)
        self._submit_invocation(
            invocation_request, ready.loaded, prediction, content, decoded_image
        )
        timing = {
            "read": read_at - started_at,
            "decode": decoded_at - read_at,
            "predict": predicted_at - decoded_at,
        }
        return {
            **response,
            **_response_metadata(invocation_request, ready.loaded, timing, started_at),
        }

    async def invoke_batch(
        self,
        invocation_request: InvocationRequest,
        contents: Sequence[bytes | ProblemError],
        started_at: float,
    ) -> dict[str, Any]:
        """The answers to several images; one that cannot be used costs no other.

        Raises:
            ProblemError: the function, the version, or none of the images can be used.
        """
        read_at = time.perf_counter()
        ready = await self.functions.find_version(
            invocation_request.function, invocation_request.version
        )
        decoded_results = await asyncio.gather(
            *(self._decode_or_problem(raw_content, ready.loaded) for raw_content in contents)
        )
        decoded_images = [item for item in decoded_results if isinstance(item, DecodedImage)]
        if not decoded_images:
            raise next(item for item in decoded_results if isinstance(item, ProblemError))
        predict_started_at = time.perf_counter()
        predictions = iter(await _with_timeout(ready.batcher.submit(decoded_images)))
        predicted_at = time.perf_counter()
        results = []
        for number, (content, decoded_image) in enumerate(
            zip(contents, decoded_results, strict=True)
        ):
            item = replace(
                invocation_request,
                request_id=f"{invocation_request.request_id}-{number}",
                external_id=_numbered_external_id(invocation_request, number),
            )
            if isinstance(decoded_image, ProblemError) or isinstance(content, ProblemError):
                problem = decoded_image if isinstance(decoded_image, ProblemError) else content
                assert isinstance(problem, ProblemError)  # noqa: S101 - one of the two is
                results.append({"error": problem.to_json(item.request_id)})
                continue
            prediction = next(predictions)
            results.append(build_response(ready.loaded, prediction, invocation_request.options))
            self._submit_invocation(item, ready.loaded, prediction, content, decoded_image)
        timing = {
            "read": read_at - started_at,
            "decode": predict_started_at - read_at,
            "predict": predicted_at - predict_started_at,
        }
        return {
            "results": results,
            **_response_metadata(invocation_request, ready.loaded, timing, started_at),
        }

    async def correct(
        self, invocation_request: InvocationRequest, correction: Correction, content: bytes | None
    ) -> None:
        """Note a person's answer to a picture.

        Args:
            invocation_request: with the caller's name for it.
            correction: the answer.
            content: the picture, where the caller sends it along.

        Raises:
            ProblemError: the picture is not here, or the answer is none of the function's.
        """
        ready = await self.functions.find_version(invocation_request.function)
        loaded = ready.loaded
        correction_regions(
            loaded, correction, PLACEHOLDER_SIZE
        )  # so that a wrong one is told of at once
        region_factory = lambda size: correction_regions(loaded, correction, size)  # noqa: E731
        if await self._post_response.correct(
            loaded, invocation_request.external_id, region_factory
        ):
            return
        if content is None:
            raise ProblemError(
                404,
                "no-sample",
                f"The last picture named {invocation_request.external_id[:80]!r} was not kept: send it along as "
                "`data`.",
            )
        decoded_image = await self._decode(content, loaded)
        (prediction,) = await ready.batcher.submit([decoded_image])
        await self._post_response.store_corrected(
            _build_invocation(invocation_request, loaded, prediction, content, decoded_image),
            region_factory,
        )

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
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._decode_executor, read_image, content, self._max_pixels, loaded.min_pixels
            )
        except ImageError as error:
            raise unreadable_image(error) from error

    def _submit_invocation(
        self,
        invocation_request: InvocationRequest,
        loaded: LoadedVersion,
        prediction: ImagePrediction,
        content: bytes,
        decoded_image: DecodedImage,
    ) -> None:
        invocation = _build_invocation(
            invocation_request, loaded, prediction, content, decoded_image
        )
        live = self.functions.live_version(invocation_request.function) is loaded
        self._post_response.submit(invocation, capture=invocation_request.capture, live=live)


async def _with_timeout(predictions: Awaitable[list[ImagePrediction]]) -> list[ImagePrediction]:
    """What was said; whoever waited too long is told so."""
    try:
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            return await predictions
    except TimeoutError as error:
        message = (
            f"There was no answer within {RESPONSE_TIMEOUT_SECONDS:.0f} seconds: ask again later."
        )
        raise ProblemError(503, "slow-answer", message, {"retry-after": "10"}) from error


def read_image(content: bytes, max_pixels: int, min_pixels: int) -> DecodedImage:
    """An image as versions look at it.

    Args:
        content: the file's bytes.
        max_pixels: see ``decode_upright_image``.
        min_pixels: what the version wants, see :class:`LoadedVersion`.

    Raises:
        ImageError: it cannot be read.
    """
    return decode_upright_image(
        content, max_pixels=max_pixels, min_side=min_pixels, shrink=shrink_to_limit
    )


def _build_invocation(
    invocation_request: InvocationRequest,
    loaded: LoadedVersion,
    prediction: ImagePrediction,
    content: bytes,
    decoded_image: DecodedImage,
) -> Invocation:
    external_id = invocation_request.external_id
    return Invocation(
        invocation_request.request_id,
        loaded,
        prediction,
        content,
        decoded_image.image,
        external_id,
        time.time(),
    )


def _numbered_external_id(invocation_request: InvocationRequest, number: int) -> str:
    return f"{invocation_request.external_id}-{number}" if invocation_request.external_id else ""


def _response_metadata(
    invocation_request: InvocationRequest,
    loaded: LoadedVersion,
    timing: dict[str, float],
    started_at: float,
) -> dict[str, Any]:
    timing = {**timing, "total": time.perf_counter() - started_at}
    return {
        "function": invocation_request.function,
        "version": loaded.card.version,
        "requestId": invocation_request.request_id,
        "externalId": invocation_request.external_id or None,
        "milliseconds": {name: round(seconds * 1000, 2) for name, seconds in timing.items()},
    }
