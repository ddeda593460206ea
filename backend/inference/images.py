"""Fetch the images of tasks, cache errors, and store reduced copies for detectors."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain import Control, ImageSize, Task
from backend.errors import ImageError
from backend.label_studio.image_fetcher import TaskImageFetcher
from backend.store.image_copies import MAX_EDGE_PIXELS, ImageCopies, shrink_to_limit
from backend.vision.encoders.embedding_cache import EmbeddingCache, ImageInfo
from backend.vision.images.decode import DecodedImage, decode_upright_image

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("prelabel")
FETCH_THREADS = 8
IMAGE_BATCH_SIZE = 32
RETRY_SECONDS = 300.0
"""Seconds before an unreadable image is fetched again."""


@dataclass(frozen=True)
class ImageSource:
    """An image of a task.

    Attributes:
        address: address in the task's data.
        task_id: id of a task that contains it.
    """

    address: str
    task_id: int


@dataclass(frozen=True)
class FetchedImage:
    """An image that was fetched.

    Attributes:
        address: address in the task's data.
        digest: SHA-256 of its bytes, hexadecimal.
        decoded: decoded image.
    """

    address: str
    digest: str
    decoded: DecodedImage


class ProjectImages:
    """The images of one project.

    Args:
        server: address of Label Studio, because servers may use the same relative addresses.
        fetcher: fetches the images.
        cache: cache of content hash and size by address.
        copies: reduced copies for detectors.
        max_pixels: maximum number of pixels, see `decode_upright_image`.
        clock: returns the time in seconds.
        batch_size: number of images in memory at a time.
    """

    def __init__(
        self,
        server: str,
        fetcher: TaskImageFetcher,
        cache: EmbeddingCache,
        copies: ImageCopies,
        max_pixels: int,
        clock: Callable[[], float] = time.monotonic,
        batch_size: int = IMAGE_BATCH_SIZE,
    ) -> None:
        self.batch_size = batch_size
        self._server = server
        self._fetcher = fetcher
        self._cache = cache
        self._copies = copies
        self._max_pixels = max_pixels
        self._clock = clock
        self._failures: dict[str, tuple[ImageError, float]] = {}
        self._prefetch_pool = ThreadPoolExecutor(1, "image-prefetch")
        self._prefetched: Future[ImageBatch] | None = None

    @property
    def errors(self) -> dict[str, ImageError]:
        """Address → error of the last attempt, for images that could not be read."""
        return {address: error for address, (error, _) in self._failures.items()}

    def cached_facts(self, addresses: Iterable[str]) -> dict[str, ImageInfo]:
        """Return address → content hash and size, for images that were fetched before."""
        keys = {self._key(address): address for address in addresses}
        return {keys[key]: fact for key, fact in self._cache.get_image_info(list(keys)).items()}

    def fetch(
        self, sources: Sequence[ImageSource], min_size: int
    ) -> tuple[list[FetchedImage], dict[str, ImageError]]:
        """Fetch images in parallel.

        Args:
            sources: images to fetch.
            min_size: minimum shorter side in pixels of a JPEG that is decoded at reduced size.

        Returns:
            the readable images, with a longer edge of at most ``MAX_EDGE_PIXELS``, and address →
            error for the others.
        """
        fetched: list[FetchedImage] = []
        errors: dict[str, ImageError] = {}
        with ThreadPoolExecutor(FETCH_THREADS) as pool:
            results = pool.map(lambda source: self._fetch_one(source, min_size), sources)
            for source, result in zip(sources, results, strict=True):
                if isinstance(result, ImageError):
                    errors[source.address] = result
                else:
                    fetched.append(result)
        self._cache_facts(fetched)
        return fetched, errors

    def iter_batches(
        self, sources: Iterable[ImageSource], next_sources: Iterable[ImageSource] = ()
    ) -> Iterator[ImageBatch]:
        """Yield images for detectors in batches; use stored copies if possible.

        Args:
            sources: images to load; duplicate addresses are loaded once.
            next_sources: images of the next call, prefetched while the last batch is processed.
        """
        unique = _unique_sources(sources)
        prefetched = self._take_prefetched()
        facts = self.cached_facts(source.address for source in unique)
        for start in range(0, len(unique), self.batch_size):
            batch = self._load_batch(unique[start : start + self.batch_size], facts, prefetched)
            if start + self.batch_size >= len(unique):
                self._prefetch(_unique_sources(next_sources))
            yield batch

    def _prefetch(self, sources: Sequence[ImageSource]) -> None:
        if sources:
            facts = self.cached_facts(source.address for source in sources)
            self._prefetched = self._prefetch_pool.submit(
                self._load_batch, sources, facts, EMPTY_BATCH
            )

    def _take_prefetched(self) -> ImageBatch:
        """Return the prefetched batch; an empty batch if prefetching failed."""
        future, self._prefetched = self._prefetched, None
        if future is None:
            return EMPTY_BATCH
        wait([future])
        return EMPTY_BATCH if future.exception() else future.result()

    def digests(self, addresses: Iterable[str]) -> dict[str, str]:
        """Return address → content hash of the images that were fetched before."""
        return {address: fact.digest for address, fact in self.cached_facts(addresses).items()}

    def load_copy(self, source: ImageSource) -> Image.Image:
        """Load one image in the size for detectors.

        Raises:
            ImageError: the image cannot be read.
        """
        batch = next(self.iter_batches([source]))
        if source.address in batch.errors:
            raise batch.errors[source.address]
        return batch.images[source.address]

    def _load_batch(
        self, sources: Sequence[ImageSource], facts: Mapping[str, ImageInfo], prefetched: ImageBatch
    ) -> ImageBatch:
        addresses = [source.address for source in sources if source.address in prefetched.images]
        images = {address: prefetched.images[address] for address in addresses}
        sizes = {address: prefetched.sizes[address] for address in addresses}
        for source in sources:
            if source.address in images:
                continue
            fact = facts.get(source.address)
            image = self._copies.get(fact.digest) if fact else None
            if fact and image:
                images[source.address] = image
                sizes[source.address] = ImageSize(fact.width, fact.height)
        missing = [source for source in sources if source.address not in images]
        fetched, errors = self.fetch(missing, MAX_EDGE_PIXELS)
        for fetched_image in fetched:
            images[fetched_image.address] = self._copies.put(
                fetched_image.digest, fetched_image.decoded.image, fetched_image.decoded.jpeg_bytes
            )
            sizes[fetched_image.address] = ImageSize(
                fetched_image.decoded.width, fetched_image.decoded.height
            )
        return ImageBatch(images, sizes, errors)

    def _cache_facts(self, fetched: Sequence[FetchedImage]) -> None:
        facts = {self._key(f.address): _image_facts(f) for f in fetched}
        if facts:
            self._cache.put_image_info(facts)

    def _key(self, address: str) -> str:
        return hashlib.sha256(
            f"{self._server} {address}".encode(errors="surrogatepass")
        ).hexdigest()

    def _fetch_one(self, source: ImageSource, min_size: int) -> FetchedImage | ImageError:
        """Return the image or its error, so that a bad image does not fail the batch."""
        error, failed_at = self._failures.get(source.address, (None, 0.0))
        if error and self._clock() - failed_at < RETRY_SECONDS:
            return error
        result = self._fetch_and_decode(source, min_size)
        if isinstance(result, ImageError):
            self._failures[source.address] = (result, self._clock())
        else:
            self._failures.pop(source.address, None)
        return result

    def _fetch_and_decode(self, source: ImageSource, min_size: int) -> FetchedImage | ImageError:
        try:
            content = self._fetcher.fetch(source.address, source.task_id)
            max_pixels = self._max_pixels
            # shrink while decoding: a batch of 32 images of 50 megapixels would take 4.8 GB
            decoded = decode_upright_image(
                content, max_pixels=max_pixels, min_side=min_size, shrink=shrink_to_limit
            )
            return FetchedImage(source.address, hashlib.sha256(content).hexdigest(), decoded)
        except ImageError as error:
            return error
        except Exception as error:  # a bug; it costs this image, not the project's round
            log.exception("An image of task %s cannot be read.", source.task_id)
            return ImageError("image cannot be read", type(error).__name__)


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images, by address.

    Attributes:
        images: upright RGB images with a longer edge of at most ``MAX_EDGE_PIXELS`` pixels.
        sizes: sizes of the upright originals in pixels.
        errors: reasons why images could not be read.
    """

    images: Mapping[str, Image.Image]
    sizes: Mapping[str, ImageSize]
    errors: Mapping[str, ImageError]


EMPTY_BATCH = ImageBatch({}, {}, {})


def image_sources(tasks: Iterable[Task], controls: Iterable[Control]) -> list[ImageSource]:
    """Return the images of tasks that the given controls refer to."""
    keys = {control.image_key for control in controls}
    return [
        ImageSource(task.images[key], task.id)
        for task in tasks
        for key in keys & task.images.keys()
    ]


def _unique_sources(sources: Iterable[ImageSource]) -> list[ImageSource]:
    return list({source.address: source for source in sources}.values())


def _image_facts(fetched: FetchedImage) -> ImageInfo:
    return ImageInfo(fetched.digest, fetched.decoded.width, fetched.decoded.height)
