"""Images of tasks → embeddings, through the cache: only what is new is fetched and encoded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.domain import ImageSize
from backend.errors import ImageError
from backend.label_studio.images import Images
from backend.vision.cache import EmbeddingCache, ImageFacts
from backend.vision.decode import Picture, decode
from backend.vision.encoder import Encoder

Vector = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
FETCHERS = 8
BATCH = 32
RETRY_SECONDS = 300.0
AT_LEAST = 512
"""Pixels a JPEG's shorter side keeps while decoding: every encoder reduces further."""


@dataclass(frozen=True)
class Source:
    """An image of a task.

    Attributes:
        address: as it stands in the task's data.
        task: the number of a task that shows it.
    """

    address: str
    task: int


@dataclass(frozen=True)
class Embedded:
    """What became of a set of images, by address.

    Attributes:
        vectors: address → (d,) float32 of unit length.
        sizes: address → pixels of the upright image.
        failed: address → why it could not be read.
    """

    vectors: Mapping[str, Vector]
    sizes: Mapping[str, ImageSize]
    failed: Mapping[str, ImageError]


@dataclass(frozen=True)
class _Fetched:
    address: str
    digest: str
    picture: Picture


class Embedder:
    """Embeds the images of one project with one encoder.

    Args:
        server: tells equal addresses of different servers apart.
        images: fetches them.
        encoder: turns them into vectors.
        cache: keeps the vectors.
        max_pixels: see :func:`backend.vision.decode.decode`.
        clock: seconds; an unreadable image is not asked for again before RETRY_SECONDS.
    """

    def __init__(
        self,
        server: str,
        images: Images,
        encoder: Encoder,
        cache: EmbeddingCache,
        max_pixels: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._images = images
        self._encoder = encoder
        self._cache = cache
        self._max_pixels = max_pixels
        self._clock = clock
        self._bad: dict[str, tuple[ImageError, float]] = {}

    def embed(self, sources: Iterable[Source], progress: Progress) -> Embedded:
        """Embed images, reading those from the cache that were seen before.

        Args:
            sources: the images; the same address twice is one image.
            progress: told (done, of) after each batch of new images.
        """
        wanted = {source.address: source for source in sources}
        facts = self._known(wanted)
        vectors = self._cache.get(self._encoder.id, [fact.digest for fact in facts.values()])
        missing = [s for a, s in wanted.items() if a not in facts or facts[a].digest not in vectors]
        failed: dict[str, ImageError] = {}
        progress(0, len(missing))
        for start in range(0, len(missing), BATCH):
            fetched, errors = self._fetch(missing[start : start + BATCH])
            failed |= errors
            vectors |= self._encode(fetched, vectors)
            new = {f.address: _facts(f) for f in fetched}
            self._remember(new)
            facts |= new
            progress(min(start + BATCH, len(missing)), len(missing))
        return Embedded(
            vectors={a: vectors[fact.digest] for a, fact in facts.items() if a not in failed},
            sizes={a: ImageSize(fact.width, fact.height) for a, fact in facts.items()},
            failed=failed,
        )

    def _known(self, addresses: Iterable[str]) -> dict[str, ImageFacts]:
        keys = {self._key(address): address for address in addresses}
        return {keys[key]: fact for key, fact in self._cache.facts(list(keys)).items()}

    def _remember(self, facts: Mapping[str, ImageFacts]) -> None:
        self._cache.remember({self._key(address): fact for address, fact in facts.items()})

    def _key(self, address: str) -> str:
        return hashlib.sha256(f"{self._server} {address}".encode()).hexdigest()

    def _fetch(self, sources: Sequence[Source]) -> tuple[list[_Fetched], dict[str, ImageError]]:
        fetched: list[_Fetched] = []
        errors: dict[str, ImageError] = {}
        with ThreadPoolExecutor(FETCHERS) as pool:
            for source, found in zip(sources, pool.map(self._one, sources), strict=True):
                if isinstance(found, ImageError):
                    errors[source.address] = found
                else:
                    fetched.append(found)
        return fetched, errors

    def _one(self, source: Source) -> _Fetched | ImageError:
        """One image, or why not: a bad one costs one prediction, never the batch."""
        error, at = self._bad.get(source.address, (None, 0.0))
        if error and self._clock() - at < RETRY_SECONDS:
            return error
        found = self._read(source)
        if isinstance(found, ImageError):
            self._bad[source.address] = (found, self._clock())
        return found

    def _read(self, source: Source) -> _Fetched | ImageError:
        try:
            content = self._images.fetch(source.address, source.task)
            picture = decode(content, max_pixels=self._max_pixels, at_least=AT_LEAST)
            return _Fetched(source.address, hashlib.sha256(content).hexdigest(), picture)
        except ImageError as error:
            return error

    def _encode(self, fetched: Sequence[_Fetched], have: Mapping[str, Vector]) -> dict[str, Vector]:
        new = {f.digest: f.picture.image for f in fetched if f.digest not in have}
        known = self._cache.get(self._encoder.id, list(new))
        new = {digest: image for digest, image in new.items() if digest not in known}
        if not new:
            return known
        vectors = self._encoder.encode_images(list(new.values()))
        self._cache.put(self._encoder.id, list(new), vectors)
        return known | dict(zip(new, vectors, strict=True))


def _facts(fetched: _Fetched) -> ImageFacts:
    return ImageFacts(fetched.digest, fetched.picture.width, fetched.picture.height)
