"""Embed the images of tasks; fetch and encode only images that are not cached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.arrays import Floats
from backend.callbacks import ProgressCallback
from backend.domain import ImageSize, Task
from backend.errors import ImageError
from backend.inference.images import FetchedImage, ImageSource, ProjectImages
from backend.vision.encoders.base import Encoder
from backend.vision.encoders.embedding_cache import EmbeddingCache

MIN_DECODE_SIZE = 512
"""Minimum shorter side in pixels of a JPEG decoded at reduced size; encoders resize further."""


@dataclass(frozen=True)
class EmbeddingResult:
    """Embeddings of images, by address.

    Attributes:
        vectors: address → (d,) float32 of unit length.
        sizes: address → size of the upright image in pixels.
        errors: address → reason why the image could not be read.
    """

    vectors: Mapping[str, Floats]
    sizes: Mapping[str, ImageSize]
    errors: Mapping[str, ImageError]


EMPTY_EMBEDDINGS = EmbeddingResult({}, {}, {})


class Embedder:
    """Embeds the images of one project with one encoder.

    Args:
        images: images of the project.
        encoder: encoder of the images.
        cache: cache of embeddings by content hash and encoder.
    """

    def __init__(self, images: ProjectImages, encoder: Encoder, cache: EmbeddingCache) -> None:
        self._images = images
        self._encoder = encoder
        self._cache = cache

    def embed(
        self,
        sources: Iterable[ImageSource],
        progress: ProgressCallback = lambda done, total: None,
    ) -> EmbeddingResult:
        """Embed images; use cached embeddings if possible.

        Args:
            sources: images; duplicate addresses are embedded once.
            progress: called with (done, total) after each batch of new images.
        """
        unique_sources = {source.address: source for source in sources}
        facts = self._images.cached_facts(unique_sources)
        digests = {address: fact.digest for address, fact in facts.items()}
        sizes = {address: ImageSize(fact.width, fact.height) for address, fact in facts.items()}
        vectors = self._cache.get_vectors(self._encoder.id, list(digests.values()))
        missing = [s for a, s in unique_sources.items() if digests.get(a) not in vectors]
        all_errors: dict[str, ImageError] = {}
        progress(0, len(missing))
        batch_size = self._images.batch_size
        for start in range(0, len(missing), batch_size):
            fetched, errors = self._images.fetch(
                missing[start : start + batch_size], MIN_DECODE_SIZE
            )
            all_errors |= errors
            vectors |= self._encode_missing(fetched, vectors)
            digests |= {f.address: f.digest for f in fetched}
            sizes |= {f.address: ImageSize(f.decoded.width, f.decoded.height) for f in fetched}
            progress(min(start + batch_size, len(missing)), len(missing))
        return EmbeddingResult(
            vectors={a: vectors[digest] for a, digest in digests.items() if a not in all_errors},
            sizes=sizes,
            errors=all_errors,
        )

    def _encode_missing(
        self, fetched: Sequence[FetchedImage], existing: Mapping[str, Floats]
    ) -> dict[str, Floats]:
        new = {f.digest: f.decoded.image for f in fetched if f.digest not in existing}
        cached = self._cache.get_vectors(self._encoder.id, list(new))
        new = {digest: image for digest, image in new.items() if digest not in cached}
        if not new:
            return cached
        vectors = self._encoder.encode_images(list(new.values()))
        self._cache.put_vectors(self._encoder.id, list(new), vectors)
        return cached | dict(zip(new, vectors, strict=True))


def task_vectors(tasks: Iterable[Task], embeddings: EmbeddingResult) -> dict[int, Floats]:
    """Return task id → embedding of its first readable image."""
    vectors = {}
    for task in tasks:
        candidates = (embeddings.vectors.get(address) for address in task.images.values())
        vector = next((v for v in candidates if v is not None), None)
        if vector is not None:
            vectors[task.id] = vector
    return vectors
