"""The reference for drift detection: label counts and embeddings of a version's audit set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.arrays import Floats
from backend.errors import StoreError
from backend.store.files import disk_errors, read_json, write_json

MAX_REFERENCE_VECTORS = 2000
"""Maximum number of stored embeddings."""
LABEL_MIX_FILE, AUDIT_VECTORS_FILE = "mix.json", "audit.npz"


@dataclass(frozen=True)
class DriftReference:
    """The audit set of a version.

    Attributes:
        label_counts: by control, then by label.
        vectors: (n, d) float32 of unit length; n is 0 without a choices control.
    """

    label_counts: Mapping[str, Mapping[str, int]]
    vectors: Floats


EMPTY_REFERENCE = DriftReference({}, np.zeros((0, 0), dtype=np.float32))


def save_reference(reference: DriftReference, folder: Path) -> None:
    """Save a reference in a version's folder."""
    write_json(folder / LABEL_MIX_FILE, reference.label_counts)
    with disk_errors(folder):
        np.savez_compressed(
            folder / AUDIT_VECTORS_FILE,
            vectors=reference.vectors[:MAX_REFERENCE_VECTORS].astype(np.float16),
        )


def load_reference(folder: Path) -> DriftReference:
    """Load the reference of a version; it is empty for versions of old releases.

    Raises:
        StoreError: a file is damaged.
    """
    label_counts = read_json(folder / LABEL_MIX_FILE)
    if label_counts is None:
        return EMPTY_REFERENCE
    try:
        with disk_errors(folder), np.load(folder / AUDIT_VECTORS_FILE, allow_pickle=False) as file:
            return DriftReference(label_counts, file["vectors"].astype(np.float32))
    except (ValueError, KeyError, EOFError) as error:
        raise StoreError(f"{folder / AUDIT_VECTORS_FILE} is damaged: train again.") from error
