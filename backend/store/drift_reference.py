"""The reference for drift detection: label counts and embeddings of a version's audit set."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from backend.arrays import Floats
from backend.errors import DamagedFileError
from backend.store.files import disk_errors, write_json
from backend.store.record_files import log_once, read_record

MAX_REFERENCE_VECTORS = 2000
"""Maximum number of stored embeddings."""
DRIFT_CONSEQUENCE = "drift is not measured until the next version"
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
    """Load the reference of a version.

    It is empty for versions of old releases, and if a file is damaged: then drift is not measured
    until the next version.
    """
    file = folder / AUDIT_VECTORS_FILE
    try:
        label_counts = read_record(
            folder / LABEL_MIX_FILE, dict[str, dict[str, int]], advice=DRIFT_CONSEQUENCE
        )
        if label_counts is None:
            return EMPTY_REFERENCE
        with np.load(file, allow_pickle=False) as arrays:
            vectors = arrays["vectors"].astype(np.float32)
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError("the vectors have the wrong shape")
        return DriftReference(label_counts, vectors)
    except DamagedFileError as error:
        log_once(str(error))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        log_once(f"{file} is damaged ({error}): {DRIFT_CONSEQUENCE}.")
    return EMPTY_REFERENCE
