"""Images of tasks → embeddings, through the cache: only what is new is fetched and encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.arrays import Floats
from backend.callbacks import ProgressCallback
from backend.domain import ImageSize, Task
from backend.errors import ImageError
from backend.inference.images import Fetched, Pictures, Source
from backend.vision.encoders.base import Encoder
from backend.vision.encoders.embedding_cache import EmbeddingCache

AT_LEAST = 512
"""Pixels a JPEG's shorter side keeps while decoding: every encoder reduces further."""


@dataclass(frozen=True)
class Embedded:
    """What became of a set of images, by address.

    Attributes:
        vectors: address → (d,) float32 of unit length.
        sizes: address → pixels of the upright image.
        failed: address → why it could not be read.
    """

    vectors: Mapping[str, Floats]
    sizes: Mapping[str, ImageSize]
    failed: Mapping[str, ImageError]


NO_IMAGES = Embedded({}, {}, {})


class Embedder:
    """Embeds the images of one project with one encoder.

    Args:
        pictures: of the project.
        encoder: turns them into vectors.
        cache: keeps the vectors.
    """

    def __init__(self, pictures: Pictures, encoder: Encoder, cache: EmbeddingCache) -> None:
        self._pictures = pictures
        self._encoder = encoder
        self._cache = cache

    def embed(self, sources: Iterable[Source], progress: ProgressCallback) -> Embedded:
        """Embed images, reading those from the cache that were seen before.

        Args:
            sources: the images; the same address twice is one image.
            progress: told (done, of) after each batch of new images.
        """
        wanted = {source.address: source for source in sources}
        facts = self._pictures.known(wanted)
        digests = {address: fact.digest for address, fact in facts.items()}
        sizes = {address: ImageSize(fact.width, fact.height) for address, fact in facts.items()}
        vectors = self._cache.get(self._encoder.id, list(digests.values()))
        missing = [s for a, s in wanted.items() if digests.get(a) not in vectors]
        failed: dict[str, ImageError] = {}
        progress(0, len(missing))
        at_once = self._pictures.at_once
        for start in range(0, len(missing), at_once):
            fetched, errors = self._pictures.fetch(missing[start : start + at_once], AT_LEAST)
            failed |= errors
            vectors |= self._encode(fetched, vectors)
            digests |= {f.address: f.digest for f in fetched}
            sizes |= {f.address: ImageSize(f.picture.width, f.picture.height) for f in fetched}
            progress(min(start + at_once, len(missing)), len(missing))
        return Embedded(
            vectors={a: vectors[digest] for a, digest in digests.items() if a not in failed},
            sizes=sizes,
            failed=failed,
        )

    def _encode(self, fetched: Sequence[Fetched], have: Mapping[str, Floats]) -> dict[str, Floats]:
        new = {f.digest: f.picture.image for f in fetched if f.digest not in have}
        known = self._cache.get(self._encoder.id, list(new))
        new = {digest: image for digest, image in new.items() if digest not in known}
        if not new:
            return known
        vectors = self._encoder.encode_images(list(new.values()))
        self._cache.put(self._encoder.id, list(new), vectors)
        return known | dict(zip(new, vectors, strict=True))


def vectors_of(tasks: Iterable[Task], embedded: Embedded) -> dict[int, Floats]:
    """By task, what its first image that could be read looks like."""
    found = {}
    for task in tasks:
        known = (embedded.vectors.get(address) for address in task.images.values())
        vector = next((v for v in known if v is not None), None)
        if vector is not None:
            found[task.id] = vector
    return found
