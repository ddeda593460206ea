"""Compare the product's selection policy with scikit-activeml's strategies, on real images.

    uv run --with scikit-activeml python -m benchmarks.selection_strategies \\
        IMAGES/sign_digits IMAGES/playing_cards --encoder WEIGHTS-cls.pt [--seeds 5]

Each folder holds ``images/`` and ``annotations.json`` (``{"images": [{"file", "labels", "boxes":
[{"label", "x", "y", "w", "h"}]}]}``). Where images have boxes, their crops are classified. A head
is trained after every 10 labels, the product's for all strategies, and its balanced accuracy is
measured on images outside the pool. *Rare* makes each class rarer than the one before, down to
0.05. Strategies that need a trained head start with 10 random images. Embeddings are projected onto
128 principal components, which makes the run about five times faster, and stored in the folder for
temporary files.

Goal: on each set the mean of the curve is not below that of any strategy by more than 0.5 points,
and on average over all sets it is the highest. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.arrays import Floats
from backend.vision.encoders.load import load_encoder
from backend.vision.heads.head import Head
from benchmarks.selection import (
    BATCH_SIZE,
    SelectionPolicy,
    accuracy_curve,
    count_classes,
    select_by_margin,
    select_by_policy,
    select_randomly,
    split_images,
    train_product_head,
)

MAX_LABELS, RARE_SHARE = 150, 0.05
TABLE_LABEL_COUNTS = (20, 40, 60, 100, 150)
MAX_POOL_SIZE = 600
POOL_SHARES = {"balanced": 0.6, "rare": 0.7}
"""Share of the images in the pool; with *rare*, most of them are left out afterwards."""
MAX_LABELED_SHARE = 0.6
"""Share of a small pool from which all strategies label the same images."""
TOLERANCE = 0.005
ENCODED_AT_ONCE = 64
COMPONENT_COUNT = 128
"""Principal components that embeddings are projected onto."""
STRATEGY_NAMES = (
    "random",
    "margin",
    "policy",
    "TypiClust",
    "BADGE",
    "DropQuery",
    "CoreSet",
    "ProbCover",
    "Falcun",
    "MaxHerding",
)

NEEDS_HEAD = ("BADGE", "DropQuery", "Falcun")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--encoder", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGY_NAMES))
    parser.add_argument("--mixes", nargs="+", default=list(POOL_SHARES))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    sets = {
        f"{folder.name}, {Path(encoder).stem}": embed_folder(folder, encoder)
        for encoder in options.encoder
        for folder in options.folders
    }
    seeds = range(options.first, options.first + options.seeds)
    means: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for title, file in sets.items():
            for mix in options.mixes:
                curves = {
                    name: [pool.submit(strategy_curve, name, file, mix, seed) for seed in seeds]
                    for name in options.strategies
                }
                runs = {
                    name: shorten([future.result() for future in futures])
                    for name, futures in curves.items()
                }
                print_strategy_table(f"{title}, {mix}", runs, seeds)
                means[f"{title}, {mix}"] = {name: table.mean() for name, table in runs.items()}
    print_summary(means)
    missed = list(missed_goals(means))
    for line in missed:
        print(f"missed: {line}")
    sys.exit(1 if missed else 0)


def embed_folder(folder: Path, encoder: str) -> Path:
    """Return a file with the embeddings and labels of a folder, from the last run if possible."""
    file = Path(tempfile.gettempdir()) / f"prelabel-{folder.name}-{Path(encoder).stem}.npz"
    if not file.exists():
        loaded_encoder = load_encoder(encoder, log=print)
        images, labels = zip(*read_examples(folder), strict=True)
        batches = range(0, len(images), ENCODED_AT_ONCE)
        vectors = [
            loaded_encoder.encode_images(list(images[i : i + ENCODED_AT_ONCE])) for i in batches
        ]
        x = project_onto_components(np.concatenate(vectors))
        np.savez(file, x=x, y=np.unique(labels, return_inverse=True)[1])
    return file


def project_onto_components(vectors: Floats) -> Floats:
    """Return vectors of unit length in the space of the principal components."""
    centred = vectors - vectors.mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:COMPONENT_COUNT]
    projected = centred @ components.T
    norms = np.linalg.norm(projected, axis=1, keepdims=True)
    return np.asarray(projected / norms, dtype=np.float32)


def read_examples(folder: Path) -> Iterator[tuple[Image.Image, str]]:
    """Return images with their label; crops of the boxes where there are any."""
    for row in json.loads((folder / "annotations.json").read_text())["images"]:
        image = Image.open(folder / "images" / row["file"]).convert("RGB")
        if row["labels"] and not row["boxes"]:
            yield image, row["labels"][0]
        for box in row["boxes"]:
            left, top, width, height = (int(box[side]) for side in "xywh")
            yield image.crop((left, top, left + width + 1, top + height + 1)), box["label"]


def strategy_curve(name: str, file: Path, mix: str, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    arrays = np.load(file)
    x, y = arrays["x"].astype(np.float32), arrays["y"]
    pool_size = round(len(x) * POOL_SHARES[mix])
    pool_size = min(pool_size, MAX_POOL_SIZE) if mix == "balanced" else pool_size
    split = split_images(x, y, mix, rng, pool_size, RARE_SHARE)
    max_labels = min(MAX_LABELS, int(MAX_LABELED_SHARE * len(split[0][0])))
    policy = find_policy(name, seed)
    return accuracy_curve(policy, train_product_head, split, rng, max_labels=max_labels)


def shorten(curves: Sequence[list[float]]) -> Any:
    """Return the curves as an array; small pools differ in size, and so in the last label."""
    length = min(map(len, curves))
    return np.array([curve[:length] for curve in curves])


def find_policy(name: str, seed: int) -> SelectionPolicy:
    own = {"random": select_randomly, "margin": select_by_margin, "policy": select_by_policy}
    return own.get(name) or make_library_policy(name, seed)


def make_library_policy(name: str, seed: int) -> SelectionPolicy:
    """Return a policy that asks a strategy of scikit-activeml."""
    from skactiveml import pool as strategies
    from skactiveml.base import SkactivemlClassifier

    class HeadClassifier(SkactivemlClassifier):  # type: ignore[misc]
        """The product's head as scikit-activeml calls it."""

        def __init__(self, head: Head, classes: Sequence[int]) -> None:
            super().__init__(classes=classes)
            self.head = head

        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> HeadClassifier:
            self._validate_data(X, y)
            return self

        def predict_proba(self, X: Any) -> Any:
            probabilities = self.head.probabilities(np.asarray(X, dtype=np.float32))
            return probabilities.astype(np.float64)

    factories = {
        "TypiClust": strategies.TypiClust,
        "BADGE": strategies.Badge,
        "DropQuery": strategies.DropQuery,
        "CoreSet": strategies.CoreSet,
        "ProbCover": strategies.ProbCover,
        "Falcun": strategies.Falcun,
        "MaxHerding": strategies.MaxHerding,
    }
    strategy = factories[name](random_state=seed)

    def select(
        x: Floats, open_rows: list[int], learned_rows: list[int], head: Any, y: Any, _: Any
    ) -> list[int]:
        answers = np.full(len(x), np.nan)
        answers[learned_rows] = y[learned_rows]
        arguments: dict[str, Any] = {}
        if name in NEEDS_HEAD:
            if head is None:
                return open_rows
            classifier = HeadClassifier(head, range(count_classes(y))).fit(x, answers)
            arguments = {"clf": classifier, "fit_clf": False}
        selected = strategy.query(
            x, answers, candidates=np.array(open_rows), batch_size=BATCH_SIZE, **arguments
        )
        return [int(row) for row in selected]

    return select


def print_strategy_table(title: str, runs: dict[str, Any], seeds: range) -> None:
    print(f"\n{title}, balanced accuracy in %, mean of seeds {seeds[0]} to {seeds[-1]}")
    length = next(iter(runs.values())).shape[1]
    shown = [count for count in TABLE_LABEL_COUNTS if count <= BATCH_SIZE * length]
    header = "".join(f"{count:>7}" for count in shown)
    print(f"{'labels':<12}{header}{f'10–{BATCH_SIZE * length}':>9}{'± error':>9}")
    for name, table in runs.items():
        mean = 100 * table.mean(axis=0)
        cells = "".join(f"{mean[count // BATCH_SIZE - 1]:>7.1f}" for count in shown)
        error = 100 * table.mean(axis=1).std(ddof=1) / len(table) ** 0.5 if len(table) > 1 else 0.0
        print(f"{name:<12}{cells}{mean.mean():>9.1f}{error:>9.1f}", flush=True)


def print_summary(means: dict[str, dict[str, float]]) -> None:
    """Print the mean of the curve of each strategy on each set."""
    print(f"\nmean of the curve in %\n{'':<44}" + "".join(f"{n:>11}" for n in first_row(means)))
    for title, row in means.items():
        print(f"{title:<44}" + "".join(f"{100 * value:>11.1f}" for value in row.values()))
    totals = overall_means(means).values()
    print(f"{'mean of all':<44}" + "".join(f"{100 * value:>11.1f}" for value in totals))


def missed_goals(means: dict[str, dict[str, float]]) -> Iterator[str]:
    for title, row in means.items():
        for name, value in row.items():
            if row["policy"] < value - TOLERANCE:
                yield f"{title}: {100 * (value - row['policy']):.1f} points below {name}"
    totals = overall_means(means)
    if totals["policy"] < max(totals.values()):
        yield "the mean over all sets is not the highest"


def overall_means(means: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        name: float(np.mean([row[name] for row in means.values()])) for name in first_row(means)
    }


def first_row(means: dict[str, dict[str, float]]) -> dict[str, float]:
    return next(iter(means.values()))


if __name__ == "__main__":
    main()
