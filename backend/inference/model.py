"""The model of a version: a head per control of choices, a detector per control of regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.domain import ChoicePrediction, Control, ImageSize, LabelSet
from backend.errors import DamagedFileError
from backend.store.files import write_json
from backend.store.record_files import read_record

if TYPE_CHECKING:
    from backend.vision.detection.feature_network import FeatureRunner
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.trained_detector import Detector
    from backend.vision.detection.yoloe import OpenVocabulary
    from backend.vision.heads.head import Head

CONTROLS_FILE = "controls.json"
MODEL_FIX = "train again or roll back"
MULTIPLE_LABEL_THRESHOLD = 0.5
"""Minimum probability of a predicted label of a several-of-many control."""


@dataclass(frozen=True)
class Model:
    """The heads and detectors of a version.

    Attributes:
        heads: control of choices → head; a control without training labels may have none.
        detectors: control of boxes or points → detector; may be missing likewise.
        thresholds: control → label → minimum confidence of published labels, 0 by default.
        controls: controls of the config that the version was trained with, so that it can be served
            without Label Studio. Empty in versions of early releases.
    """

    heads: Mapping[str, Head]
    detectors: Mapping[str, Detector] = field(default_factory=dict)
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()

    def probabilities(self, control: str, vectors: Floats) -> Floats:
        """Return calibrated probabilities, (n, K) float32 in the order of the head's labels.

        Args:
            control: name of a control with a head.
            vectors: (n, d) float32 embeddings of unit length.
        """
        return np.asarray(self.heads[control].probabilities(vectors), dtype=np.float32)

    def labels(self, control: str) -> tuple[str, ...]:
        """Return the label names of a control's head."""
        return self.heads[control].labels


def choose_labels(ranked: Mapping[str, float], min_probability: float | None) -> dict[str, float]:
    """Return the labels with a minimum probability, or only the best label.

    Args:
        ranked: label → probability, best first.
        min_probability: minimum probability; None returns only the best label.
    """
    if min_probability is None:
        return dict(list(ranked.items())[:1])
    return {label: value for label, value in ranked.items() if value >= min_probability}


def predict_labels(
    control: Control, labels: tuple[str, ...], probabilities: Floats
) -> dict[str, float]:
    """Return the predicted labels of a control of choices with their confidence, highest first.

    Args:
        control: control in the current config; removed labels are never predicted.
        labels: K label names.
        probabilities: (K,) float32, probability of each label, 0 to 1.

    Returns:
        the best label for one-of-many; all labels with at least ``MULTIPLE_LABEL_THRESHOLD`` for
        several-of-many.
    """
    current_labels = frozenset(control.label_names)
    ranked = sorted(
        (
            (name, float(p))
            for name, p in zip(labels, probabilities, strict=True)
            if name in current_labels
        ),
        key=lambda pair: -pair[1],
    )
    minimum = MULTIPLE_LABEL_THRESHOLD if control.multiple else None
    return choose_labels(dict(ranked), minimum)


def predict_choice(
    control: Control, labels: tuple[str, ...], probabilities: Floats, size: ImageSize
) -> ChoicePrediction:
    """Return the prediction for a control of choices; see :func:`predict_labels`."""
    return ChoicePrediction(control.name, predict_labels(control, labels, probabilities), size)


def apply_thresholds(choice: ChoicePrediction, thresholds: Mapping[str, float]) -> ChoicePrediction:
    """Return a prediction without the labels below their thresholds."""
    labels = {n: p for n, p in choice.labels.items() if p >= thresholds.get(n, 0.0)}
    return replace(choice, labels=labels)


def chosen_labels(choice: ChoicePrediction) -> LabelSet:
    """Return the predicted labels as a set, to compare them with annotated ones."""
    return frozenset(choice.labels)


def save_model(model: Model, folder: Path) -> None:
    """Write a model into an empty folder, with a numbered subfolder per head and detector."""
    for kind, names, save in _saved_parts(model):
        for index, name in enumerate(names):
            (folder / f"{kind}-{index}").mkdir()
            save(name, folder / f"{kind}-{index}")
        write_json(folder / f"{kind}s.json", names)
    write_json(folder / "thresholds.json", model.thresholds)
    write_json(folder / CONTROLS_FILE, [asdict(control) for control in model.controls])


def load_model(
    folder: Path,
    load_runner: Callable[[DetectionNetwork, int, str], NetworkRunner],
    load_feature_runner: Callable[[DetectionNetwork, int, str], FeatureRunner],
    load_prompt_network: Callable[[str], OpenVocabulary],
) -> Model:
    """Load a model.

    Args:
        folder: folder written by `save_model`.
        load_runner: loads the runner of a detection network.
        load_feature_runner: loads the runner for the features of a detection network.
        load_prompt_network: loads the open-vocabulary network by its file name.

    Raises:
        PrelabelError: a file is missing or damaged.
    """
    detector_names = _load_names(folder, "finder")
    loaded_detectors: dict[str, Detector] = {}
    for index, name in enumerate(detector_names):
        from backend.vision.detection.probe_detector import is_probe, load_probe_detector
        from backend.vision.detection.prompted_detector import is_prompted, load_prompted_detector
        from backend.vision.detection.trained_detector import load_trained_detector

        detector_folder = folder / f"finder-{index}"
        if is_prompted(detector_folder):
            detector: Detector = load_prompted_detector(
                detector_folder, load_prompt_network, load_runner
            )
        elif is_probe(detector_folder):
            detector = load_probe_detector(detector_folder, load_feature_runner)
        else:
            detector = load_trained_detector(detector_folder, load_runner)
        loaded_detectors[name] = detector
    controls, file = load_controls(folder), folder / "thresholds.json"
    thresholds = read_record(file, dict[str, dict[str, float]], advice=MODEL_FIX)
    if thresholds is None and controls:  # early releases wrote neither
        raise DamagedFileError(f"{file} is missing: {MODEL_FIX}.")
    return Model(load_heads(folder), loaded_detectors, thresholds or {}, controls)


def load_heads(folder: Path) -> dict[str, Head]:
    """Load only the heads of a model (kilobytes), without its detectors (megabytes).

    Returns:
        control → head.

    Raises:
        PrelabelError: a file is missing or damaged.
    """
    from backend.vision.heads.head import load_head

    names = _load_names(folder, "head")
    return {name: load_head(folder / f"head-{index}") for index, name in enumerate(names)}


def load_controls(folder: Path) -> tuple[Control, ...]:
    """Load the controls that a model was trained for; empty in early releases."""
    return read_record(folder / CONTROLS_FILE, tuple[Control, ...], advice=MODEL_FIX) or ()


def _load_names(folder: Path, kind: str) -> tuple[str, ...]:
    """Load the names of the controls with a head or detector, in the order of its subfolders."""
    file = folder / f"{kind}s.json"
    names = read_record(file, tuple[str, ...], advice=MODEL_FIX) or ()
    if len(names) != len(list(folder.glob(f"{kind}-*/"))):
        raise DamagedFileError(f"{file} is damaged (it does not name all models): {MODEL_FIX}.")
    return names


def _saved_parts(model: Model) -> list[tuple[str, list[str], Callable[[str, Path], None]]]:
    def write_head(name: str, folder: Path) -> None:
        from backend.vision.heads.head import save_head

        save_head(model.heads[name], folder)

    def write_detector(name: str, folder: Path) -> None:
        model.detectors[name].save(folder)

    return [
        ("head", list(model.heads), write_head),
        ("finder", list(model.detectors), write_detector),
    ]
