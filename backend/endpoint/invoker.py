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
from backend.endpoint.corrections import Correction, regions_of
from backend.endpoint.functions import Functions, Loaded
from backend.endpoint.post_response import Desk
from backend.endpoint.problems import Problem, unreadable
from backend.endpoint.responses import Wish, answer
from backend.errors import ImageError
from backend.inference.predict_image import Said
from backend.store.image_copies import reduced
from backend.vision.images.decode import Picture, decode

ANY_SIZE = ImageSize(100, 100)
ANSWER_SECONDS = 120.0
"""That a caller waits for the model at most: a cold start elsewhere takes most of a minute."""


@dataclass(frozen=True)
class Asked:
    """What a caller wants.

    Attributes:
        request: its id.
        function: whose.
        version: by name; the live one when empty.
        external: the caller's name for the picture; may be empty.
        capture: the picture may be kept.
        wish: what is told.
    """

    request: str
    function: str
    version: str
    external: str
    capture: bool
    wish: Wish


class Invoker:
    """Answers.

    Args:
        functions: that answer.
        desk: told of each answer.
        max_pixels: of an image.
        threads: that decode.
    """

    def __init__(self, functions: Functions, desk: Desk, max_pixels: int, threads: int) -> None:
        self.functions = functions
        self._desk = desk
        self._max_pixels = max_pixels
        self._decoders = ThreadPoolExecutor(threads, "decoding")

    def stop(self) -> None:
        """Let the threads end."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def one(self, asked: Asked, content: bytes, began: float) -> dict[str, Any]:
        """The answer to one image.

        Args:
            asked: by whom and for what.
            content: the image's bytes.
            began: when the request came, on the performance counter.

        Raises:
            Problem: the function, the version or the image cannot be used.
        """
        read = time.perf_counter()
        ready = await self.functions.get(asked.function, asked.version)
        picture = await self._decode(content, ready.loaded)
        decoded = time.perf_counter()
        (said,) = await _in_time(ready.batcher.ask([picture]))
        looked = time.perf_counter()
        told = answer(ready.loaded, said, asked.wish)
        self._note(asked, ready.loaded, said, content, picture)
        timing = {"read": read - began, "decode": decoded - read, "predict": looked - decoded}
        return {**told, **_about(asked, ready.loaded, timing, began)}

    async def several(
        self, asked: Asked, contents: Sequence[bytes | Problem], began: float
    ) -> dict[str, Any]:
        """The answers to several images; one that cannot be used costs no other.

        Raises:
            Problem: the function, the version, or none of the images can be used.
        """
        read = time.perf_counter()
        ready = await self.functions.get(asked.function, asked.version)
        decoded = await asyncio.gather(*(self._or_problem(c, ready.loaded) for c in contents))
        pictures = [one for one in decoded if isinstance(one, Picture)]
        if not pictures:
            raise next(one for one in decoded if isinstance(one, Problem))
        began_look = time.perf_counter()
        said = iter(await _in_time(ready.batcher.ask(pictures)))
        looked = time.perf_counter()
        results = []
        for number, (content, picture) in enumerate(zip(contents, decoded, strict=True)):
            one = replace(asked, request=f"{asked.request}-{number}", external=_nth(asked, number))
            if isinstance(picture, Problem) or isinstance(content, Problem):
                problem = picture if isinstance(picture, Problem) else content
                assert isinstance(problem, Problem)  # noqa: S101 - one of the two is
                results.append({"error": problem.json(one.request)})
                continue
            answered = next(said)
            results.append(answer(ready.loaded, answered, asked.wish))
            self._note(one, ready.loaded, answered, content, picture)
        timing = {"read": read - began, "decode": began_look - read, "predict": looked - began_look}
        return {"results": results, **_about(asked, ready.loaded, timing, began)}

    async def correct(self, asked: Asked, correction: Correction, content: bytes | None) -> None:
        """Note a person's answer to a picture.

        Args:
            asked: with the caller's name for it.
            correction: the answer.
            content: the picture, where the caller sends it along.

        Raises:
            Problem: the picture is not here, or the answer is none of the function's.
        """
        ready = await self.functions.get(asked.function)
        loaded = ready.loaded
        regions_of(loaded, correction, ANY_SIZE)  # so that a wrong one is told of at once
        regions = lambda size: regions_of(loaded, correction, size)  # noqa: E731
        if await self._desk.correct(loaded, asked.external, regions):
            return
        if content is None:
            raise Problem(
                404,
                "no-sample",
                f"The last picture named {asked.external[:80]!r} was not kept: send it along as "
                "`data`.",
            )
        picture = await self._decode(content, loaded)
        (said,) = await ready.batcher.ask([picture])
        await self._desk.keep(_invocation(asked, loaded, said, content, picture), regions)

    async def _or_problem(self, content: bytes | Problem, loaded: Loaded) -> Picture | Problem:
        if isinstance(content, Problem):
            return content
        try:
            return await self._decode(content, loaded)
        except Problem as problem:
            return problem

    async def _decode(self, content: bytes, loaded: Loaded) -> Picture:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._decoders, read_picture, content, self._max_pixels, loaded.at_least
            )
        except ImageError as error:
            raise unreadable(error) from error

    def _note(
        self, asked: Asked, loaded: Loaded, said: Said, content: bytes, picture: Picture
    ) -> None:
        invocation = _invocation(asked, loaded, said, content, picture)
        live = self.functions.live(asked.function) is loaded
        self._desk.note(invocation, capture=asked.capture, live=live)


async def _in_time(looking: Awaitable[list[Said]]) -> list[Said]:
    """What was said; whoever waited too long is told so."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await looking
    except TimeoutError as error:
        told = f"There was no answer within {ANSWER_SECONDS:.0f} seconds: ask again later."
        raise Problem(503, "slow-answer", told, {"retry-after": "10"}) from error


def read_picture(content: bytes, max_pixels: int, at_least: int) -> Picture:
    """An image as versions look at it.

    Args:
        content: the file's bytes.
        max_pixels: see ``decode``.
        at_least: what the version wants, see :class:`Loaded`.

    Raises:
        ImageError: it cannot be read.
    """
    return decode(content, max_pixels=max_pixels, at_least=at_least, shrink=reduced)


def _invocation(
    asked: Asked, loaded: Loaded, said: Said, content: bytes, picture: Picture
) -> Invocation:
    external = asked.external
    return Invocation(asked.request, loaded, said, content, picture.image, external, time.time())


def _nth(asked: Asked, number: int) -> str:
    return f"{asked.external}-{number}" if asked.external else ""


def _about(asked: Asked, loaded: Loaded, timing: dict[str, float], began: float) -> dict[str, Any]:
    timing = {**timing, "total": time.perf_counter() - began}
    return {
        "function": asked.function,
        "version": loaded.card.version,
        "requestId": asked.request,
        "externalId": asked.external or None,
        "milliseconds": {name: round(seconds * 1000, 2) for name, seconds in timing.items()},
    }
