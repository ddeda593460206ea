"""Images of tasks: fetched once, a bad one remembered, a copy kept where detectors need it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain import ImageSize
from backend.errors import ImageError
from backend.label_studio.image_fetcher import Images
from backend.store.image_copies import LONGEST, PictureFiles, reduced
from backend.vision.encoders.embedding_cache import EmbeddingCache, ImageFacts
from backend.vision.images.decode import Picture, decode

if TYPE_CHECKING:
    from PIL import Image

FETCHERS = 8
BATCH = 32
RETRY_SECONDS = 300.0


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
class Fetched:
    """An image that was read.

    Attributes:
        address: as it stands in the task's data.
        digest: SHA-256 of its bytes, hexadecimal.
        picture: decoded.
    """

    address: str
    digest: str
    picture: Picture


class Pictures:
    """The images of one project.

    Args:
        server: tells equal addresses of different servers apart.
        images: fetches them.
        cache: remembers what an address held.
        files: copies for detectors.
        max_pixels: see :func:`backend.vision.images.decode.decode`.
        clock: seconds; an unreadable image is not asked for again before RETRY_SECONDS.
        at_once: images that are in memory together.
    """

    def __init__(
        self,
        server: str,
        images: Images,
        cache: EmbeddingCache,
        files: PictureFiles,
        max_pixels: int,
        clock: Callable[[], float] = time.monotonic,
        at_once: int = BATCH,
    ) -> None:
        self.at_once = at_once
        self._server = server
        self._images = images
        self._cache = cache
        self._files = files
        self._max_pixels = max_pixels
        self._clock = clock
        self._bad: dict[str, tuple[ImageError, float]] = {}
        self._background = ThreadPoolExecutor(1, "fetching ahead")
        self._coming: Future[Batch] | None = None

    @property
    def failed(self) -> dict[str, ImageError]:
        """Images that could not be read when they were last asked for, by address."""
        return {address: error for address, (error, _) in self._bad.items()}

    def known(self, addresses: Iterable[str]) -> dict[str, ImageFacts]:
        """What is known of addresses without asking for them again."""
        keys = {self._key(address): address for address in addresses}
        return {keys[key]: fact for key, fact in self._cache.facts(list(keys)).items()}

    def fetch(
        self, sources: Sequence[Source], at_least: int
    ) -> tuple[list[Fetched], dict[str, ImageError]]:
        """Read images, several at a time.

        Args:
            sources: the images.
            at_least: pixels a JPEG's shorter side keeps while decoding.

        Returns:
            those that could be read, their longer edge at most ``LONGEST`` pixels; and by address
            why the others could not.
        """
        fetched: list[Fetched] = []
        errors: dict[str, ImageError] = {}
        with ThreadPoolExecutor(FETCHERS) as pool:
            found = pool.map(lambda source: self._one(source, at_least), sources)
            for source, one in zip(sources, found, strict=True):
                if isinstance(one, ImageError):
                    errors[source.address] = one
                else:
                    fetched.append(one)
        self._remember(fetched)
        return fetched, errors

    def batches(self, sources: Iterable[Source], ahead: Iterable[Source] = ()) -> Iterator[Batch]:
        """Images as detectors look at them, part by part, from the copies where they are there.

        Args:
            sources: the images; the same address twice is one image.
            ahead: what the next call will ask for, a few: fetched while the last part is looked at.
        """
        wanted = _once(sources)
        arrived = self._arrived()
        facts = self.known(source.address for source in wanted)
        for start in range(0, len(wanted), self.at_once):
            batch = self._batch(wanted[start : start + self.at_once], facts, arrived)
            if start + self.at_once >= len(wanted):
                self._fetch_ahead(_once(ahead))
            yield batch

    def _fetch_ahead(self, sources: Sequence[Source]) -> None:
        if sources:
            facts = self.known(source.address for source in sources)
            self._coming = self._background.submit(self._batch, sources, facts, NOTHING)

    def _arrived(self) -> Batch:
        """What was fetched ahead; nothing where that failed: it is then asked for again."""
        coming, self._coming = self._coming, None
        if coming is None:
            return NOTHING
        wait([coming])
        return NOTHING if coming.exception() else coming.result()

    def digests(self, addresses: Iterable[str]) -> dict[str, str]:
        """By address, the hash of the bytes that it held; of those that were read before."""
        return {address: fact.digest for address, fact in self.known(addresses).items()}

    def copy(self, source: Source) -> Image.Image:
        """One image as detectors look at it.

        Raises:
            ImageError: it cannot be read.
        """
        batch = next(self.batches([source]))
        if source.address in batch.failed:
            raise batch.failed[source.address]
        return batch.images[source.address]

    def _batch(
        self, part: Sequence[Source], facts: Mapping[str, ImageFacts], arrived: Batch
    ) -> Batch:
        addresses = [source.address for source in part if source.address in arrived.images]
        images = {address: arrived.images[address] for address in addresses}
        sizes = {address: arrived.sizes[address] for address in addresses}
        for source in part:
            if source.address in images:
                continue
            fact = facts.get(source.address)
            image = self._files.get(fact.digest) if fact else None
            if fact and image:
                images[source.address] = image
                sizes[source.address] = ImageSize(fact.width, fact.height)
        missing = [source for source in part if source.address not in images]
        fetched, failed = self.fetch(missing, LONGEST)
        for one in fetched:
            images[one.address] = self._files.put(one.digest, one.picture.image, one.picture.file)
            sizes[one.address] = ImageSize(one.picture.width, one.picture.height)
        return Batch(images, sizes, failed)

    def _remember(self, fetched: Sequence[Fetched]) -> None:
        facts = {self._key(f.address): _facts(f) for f in fetched}
        if facts:
            self._cache.remember(facts)

    def _key(self, address: str) -> str:
        return hashlib.sha256(f"{self._server} {address}".encode()).hexdigest()

    def _one(self, source: Source, at_least: int) -> Fetched | ImageError:
        """One image, or why not: a bad one costs one prediction, never the batch."""
        error, at = self._bad.get(source.address, (None, 0.0))
        if error and self._clock() - at < RETRY_SECONDS:
            return error
        found = self._read(source, at_least)
        if isinstance(found, ImageError):
            self._bad[source.address] = (found, self._clock())
        else:
            self._bad.pop(source.address, None)
        return found

    def _read(self, source: Source, at_least: int) -> Fetched | ImageError:
        try:
            content = self._images.fetch(source.address, source.task)
            most = self._max_pixels
            # reduced now, and not when 31 others of 50 megapixels are in memory as well
            picture = decode(content, max_pixels=most, at_least=at_least, shrink=reduced)
            return Fetched(source.address, hashlib.sha256(content).hexdigest(), picture)
        except ImageError as error:
            return error


@dataclass(frozen=True)
class Batch:
    """Some images, by address.

    Attributes:
        images: RGB, upright, the longer edge at most ``LONGEST`` pixels.
        sizes: pixels of the upright original.
        failed: why an image could not be read.
    """

    images: Mapping[str, Image.Image]
    sizes: Mapping[str, ImageSize]
    failed: Mapping[str, ImageError]


NOTHING = Batch({}, {}, {})


def _once(sources: Iterable[Source]) -> list[Source]:
    return list({source.address: source for source in sources}.values())


def _facts(fetched: Fetched) -> ImageFacts:
    return ImageFacts(fetched.digest, fetched.picture.width, fetched.picture.height)
