"""What a version's audit slice looks like, kept beside it: production is compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.arrays import Floats
from backend.errors import StoreError
from backend.store.files import explained, read_json, write_json

MOST = 2000
"""Vectors that are kept."""
MIX, VECTORS = "mix.json", "audit.npz"


@dataclass(frozen=True)
class Reference:
    """The audit slice of a version.

    Attributes:
        mix: by control, label → how often.
        vectors: (n, d) float32 of unit length; n is 0 where no control has choices.
    """

    mix: Mapping[str, Mapping[str, int]]
    vectors: Floats


NOTHING = Reference({}, np.zeros((0, 0), dtype=np.float32))


def save_reference(reference: Reference, folder: Path) -> None:
    """Write it into a version's folder."""
    write_json(folder / MIX, reference.mix)
    with explained(folder):
        np.savez_compressed(folder / VECTORS, vectors=reference.vectors[:MOST].astype(np.float16))


def load_reference(folder: Path) -> Reference:
    """Read it; an empty one where a version of old has none.

    Raises:
        StoreError: a file is damaged.
    """
    mix = read_json(folder / MIX)
    if mix is None:
        return NOTHING
    try:
        with explained(folder), np.load(folder / VECTORS, allow_pickle=False) as file:
            return Reference(mix, file["vectors"].astype(np.float32))
    except (ValueError, KeyError, EOFError) as error:
        raise StoreError(f"{folder / VECTORS} is damaged: train again.") from error
