"""Predictions of single images, and the labels that count as given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.arrays import Floats
from backend.domain import Control, ImageSize, Label, Region, Task
from backend.endpoint.prometheus_metrics import DriftMonitor
from backend.inference.embed import EMPTY_EMBEDDINGS, EmbeddingResult
from backend.inference.model import Model
from backend.inference.predict_image import (
    ImagePrediction,
    PredictedLabel,
    labels_of,
    predict_images,
    to_task_prediction,
)
from backend.label_studio.labeling_config import LabelingConfig
from backend.learning.audit import is_audit
from backend.loop.evaluate.drift_reference import build_reference
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation, ProjectFingerprint
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.vision.heads.head import Head
from backend.vision.images.decode import DecodedImage

PROJECT = "1.0"
CONTROL = Control("colors", "image", "image", (Label("red"), Label("green")), multiple=True)
COLORS = {"yellow": (255, 255, 0), "red": (255, 0, 0), "lime": (0, 255, 0), "black": (0, 0, 0)}
BOTH, RED, GREEN, NEITHER = 20, 20, 10, 10


class ColorEncoder:
    """Embeds an image as its red and green channel, -1 to 1."""

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        pixels = np.array([np.asarray(image)[0, 0, :2] for image in images], dtype=np.float32)
        return pixels / 127.5 - 1


def head() -> Head:
    """Gives each label whose channel is bright."""
    weight = np.array([[6, 0], [0, 6]], dtype=np.float32)
    bias = np.zeros(2, dtype=np.float32)
    return Head(("red", "green"), True, weight, bias, 1.0, 0.0, "none", "none", "text", 0)


def images() -> list[Image.Image]:
    counts = zip(COLORS, (BOTH, RED, GREEN, NEITHER), strict=True)
    return [Image.new("RGB", (4, 4), COLORS[name]) for name, count in counts for _ in range(count)]


def test_production_and_drift_reference_count_the_same_labels_of_several_of_many(
    tmp_path: Path,
) -> None:
    model = Model({"colors": head()}, controls=(CONTROL,))
    encoder: Any = ColorEncoder()
    audit = [task for task in range(1000) if is_audit(PROJECT, task)][: len(images())]
    tasks = tuple(Task(id, {"image": str(id)}) for id in audit)
    vectors = dict(zip(map(str, audit), encoder.encode_images(images()), strict=True))
    observation = Observation(
        ProjectFingerprint("", 0, 0, "", "", "", "", ""),
        PROJECT,
        LabelingConfig((CONTROL,), {}),
        tasks,
        Counter(),
    )
    session = ProjectSession(Resources(Settings(home=tmp_path)), ProjectRecord("1", "", 1))
    trainer = ModelTrainer(session, observation, None, EMPTY_EMBEDDINGS)
    embeddings = EmbeddingResult(vectors, {}, {})
    reference = build_reference(observation, trainer, model, embeddings)

    predictions = predict_images(
        model, encoder, [DecodedImage(image, image.width, image.height) for image in images()]
    )
    given = Counter(label.label for p in predictions for label in labels_of(p))
    assert given == {"red": BOTH + RED, "green": BOTH + GREEN}
    assert reference.label_counts == {"colors": dict(given)}
    monitor = DriftMonitor("colors", reference)
    for prediction in predictions:
        monitor.add_prediction(prediction)
    assert monitor.drift_figures().labels == 0


def test_labels_count_from_their_threshold_or_from_the_one_that_is_asked_for() -> None:
    corner = Region("leaf", 0, 0, 0.1, 0.1)
    prediction = ImagePrediction(
        ImageSize(10, 10),
        label_probabilities={
            "one": {"red": 0.4, "green": 0.35, "blue": 0.25},
            "several": {"wet": 0.7, "warm": 0.5, "loud": 0.4},
        },
        regions={"box": ((corner, corner), (0.8, 0.3))},
        thresholds={"several": 0.5, "box": 0.5},
    )
    assert labels_of(prediction) == [
        PredictedLabel("one", "red", 0.4),
        PredictedLabel("several", "wet", 0.7),
        PredictedLabel("several", "warm", 0.5),
        PredictedLabel("box", "leaf", 0.8),
    ]
    assert [given.label for given in labels_of(prediction, 0.35)] == [
        *("red", "green", "wet", "warm", "loud"),
        "leaf",
    ]


def test_a_task_gets_the_labels_that_the_image_got() -> None:
    model = Model({"colors": head()}, controls=(CONTROL,))
    encoder: Any = ColorEncoder()
    yellow = images()[0]
    (prediction,) = predict_images(model, encoder, [DecodedImage(yellow, 40, 30)])
    task = to_task_prediction(prediction, model.controls, 7)
    assert (task.task_id, task.choices[0].size) == (7, ImageSize(40, 30))
    assert set(task.choices[0].labels) == {label.label for label in labels_of(prediction)}
