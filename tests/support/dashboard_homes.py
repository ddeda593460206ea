"""Homes of made-up projects, for the dashboard: every field filled, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.json_records import from_json
from backend.records import ProjectStatus
from backend.store.audit_predictions import (
    AuditAnswer,
    AuditPredictions,
    AuditRegion,
    save_audit_predictions,
)
from backend.store.captures import Capture, CaptureStore
from backend.store.label_examples import LabelExample, LabelExamples, save_label_examples
from backend.store.projects import ProjectStore
from backend.store.queue_front import (
    QueuedTask,
    QueueFront,
    StoredLabelError,
    StoredLabelErrors,
)
from backend.store.versions import VersionCard, VersionStore
from tests.support.harness import make_png

Json = dict[str, Any]
PLANT_LABELS = ["healthy", "wilting", "dead"]


def make_figure(
    count: int, value: float, low: float, high: float, metric: str = "accuracy"
) -> Json:
    return {"n": count, "value": value, "low": low, "high": high, "metric": metric}


UNKNOWN_FIGURE: Json = {"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "accuracy"}


def make_project_status(id: int = 1, **overrides: Any) -> ProjectStatus:
    """Return the status of a project before its first round; overrides are JSON."""
    row = {
        "id": id,
        "server": "http://label.example",
        "number": id,
        "title": "",
        "version": None,
        "round": {"state": "idle", "progress": 0.0, "detail": None, "error": None},
        "tasks": 0,
        "labels": 0,
        "waiting": 0,
        "audit": UNKNOWN_FIGURE,
        "controls": [],
        "left_out": {},
        "estimate": {},
        "outlook": {},
        "accepting": {},
        "held": {},
        "accepted": 0,
        "versions": [],
        **overrides,
    }
    return from_json(ProjectStatus, row)


def make_card_json(number: int, labels: int, promoted: bool = True) -> Json:
    """Return the ``card.json`` of a version whose accuracy grows with its labels."""
    value = round(0.97 - 0.5 / (1 + labels / 20), 3)
    audit = max(1, labels // 8)
    half_width = 0.9 / audit**0.5
    correct, wrong = round(audit * value), audit - round(audit * value)
    return {
        "version": f"v{number}-0123abcd",
        "identity": f"0123abcd{number}",
        "number": number,
        "parent": f"v{number - 1}-0123abcd" if number else None,
        "created": f"2026-11-{1 + number % 28:02}T08:15:00+00:00",
        "labels": {"train": labels, "audit": audit},
        "audit": make_figure(
            audit, value, max(0.0, value - half_width), min(1.0, value + half_width / 2)
        ),
        "controls": {
            "plant": {
                "kind": "linear head",
                "examples": {"healthy": labels // 2, "wilting": labels // 3, "dead": 2},
                "audit": make_figure(audit, value, 0.5, 0.99),
                "figures": {
                    "macro_f1": make_figure(audit, value, 0.5, 0.99, "macro F1"),
                    "labels": {
                        "healthy": {
                            "precision": make_figure(14, 0.93, 0.69, 0.99, "precision"),
                            "recall": make_figure(15, 0.87, 0.62, 0.96, "recall"),
                        },
                        "wilting": {
                            "precision": make_figure(9, 0.78, 0.45, 0.94, "precision"),
                            "recall": make_figure(8, 0.88, 0.53, 0.98, "recall"),
                        },
                        "dead": {"precision": {**UNKNOWN_FIGURE}, "recall": {**UNKNOWN_FIGURE}},
                    },
                    "confusion": {
                        "healthy": {"healthy": correct, "wilting": wrong, "": 1},
                        "wilting": {"wilting": 7, "healthy": 1},
                    },
                },
            },
            "leaves": {
                "kind": "fine-tuned",
                "examples": {"leaf": 120},
                "audit": make_figure(audit, 0.81, 0.7, 0.9, "F1"),
                "shown": 0.3,
                "figures": {
                    "counting": make_figure(audit, 0.12, 0.05, 0.19, "counting error"),
                    "labels": {
                        "leaf": {
                            "there": 50,
                            "precision": 0.8,
                            "recall": 0.82,
                            "intervals": {
                                "precision": make_figure(20, 0.8, 0.7, 0.9, "precision"),
                                "recall": make_figure(20, 0.82, 0.7, 0.9, "recall"),
                            },
                        }
                    },
                },
            },
        },
        "encoder": {"setting": "auto", "id": "x", "name": "ViT-B-32-256/datacomp_s34b_b86k"},
        "seconds": {"train": 1.2, "total": 3.4},
        "seed": 0,
        "packages": {"prelabel": "0.1.0", "torch": "2.9.1"},
        "promotion": {
            "promoted": promoted,
            "reason": "Not worse on 20 audit images." if promoted else "Held back: it is worse.",
            "evidence": {},
        },
        "detector": {"setting": "builtin", "id": "y"},
        "estimate": make_figure(
            labels, value - 0.05, value - 0.12, value, "accuracy by cross-validation"
        ),
        "outlook": {
            "sentence": "About 40 to 90 more labels are expected to bring the accuracy from 90% "
            "to 95%.",
            "labels": [{"label": "dead", "more": 12}],
            "stop": False,
            "agreement": 0.93,
            "curve": [
                {
                    "labels": round(labels * (1 + step / 2)),
                    "value": min(0.98, value + 0.01 * step),
                    "low": max(0.0, value - 0.03),
                    "high": min(1.0, value + 0.02 + 0.01 * step),
                }
                for step in range(5)
            ],
            "from": "audit set",
        },
    }


def make_card(number: int, labels: int, promoted: bool = True, **overrides: Any) -> VersionCard:
    """Return a version whose accuracy grows with its labels."""
    row = make_card_json(number, labels, promoted)
    return replace(from_json(VersionCard, row), **overrides)


CONTROL_DESCRIPTIONS: list[Json] = [
    {"name": "plant", "type": "Choices", "choice": "single", "labels": PLANT_LABELS},
    {"name": "leaves", "type": "RectangleLabels", "labels": ["leaf"], "smart": True},
]


def make_full_home(
    home: Path, versions: int = 6, title: str = "Greenhouse", id: int = 1
) -> ProjectStatus:
    """Make a project with every file in its folder, and return its status."""
    projects = ProjectStore(home)
    projects.register("http://label.example", id)
    folder = projects.folder(str(id))
    version_store = VersionStore(folder)
    for number in range(versions):
        version_card = make_card(number, 10 + 40 * number, promoted=number != versions - 1)
        version_store.save(version_card, {}, lambda folder: None)
        if number != versions - 1:
            version_store.promote(version_card.version, by="the loop", reason="Not worse.")
    front = QueueFront(folder)
    reasons = ("uncertain", "audit", "sought", "unlike", "uncertain", "typical")
    front.save_tasks(
        [
            QueuedTask(40 + n, why, 0.83 if n == 0 else 0.0)  # type: ignore[arg-type]
            for n, why in enumerate(reasons)
        ]
    )
    for task in (40, 41, 42, 43, 7):
        front.save_thumbnail(str(task), make_jpeg(task))
    save_audit(folder)
    suspect = StoredLabelError(7, "healthy", "wilting", 0.08, "wrong label", "plant")
    front.save_label_errors(StoredLabelErrors("v1-0123abcd", (suspect,)))
    captures = CaptureStore(folder)
    for number, why in enumerate(("uncertain", "random", "rare")):
        capture = Capture(f"req-{number}", 1.79e9 + number, why, "v4-0123abcd")
        captures.add(capture, make_png("red", number))
    captures.record_import(capture, 44, has_annotation=False)
    front.save_thumbnail("capture-req-0", make_jpeg(3))
    live_version = f"v{versions - 2}-0123abcd"
    return make_project_status(
        id,
        title=title,
        version=live_version,
        tasks=600,
        labels=180,
        waiting=3,
        controls=CONTROL_DESCRIPTIONS,
        left_out={"rotated box": 3},
        accepted=12,
        accepting={"level": None, "reason": "Stopped: people corrected 4 of 20 accepted answers."},
        round={
            "state": "training",
            "progress": 0.4,
            "detail": "leaves: epoch 4, less than a minute left",
            "error": None,
        },
    )


def make_answers(version: int) -> AuditPredictions:
    """Predictions of a version for 20 audit images, all with a plant and some with leaves.

    Later versions are better: of the tasks 100 to 119, the first ``8 - version`` are wrong.
    """
    tasks: dict[int, dict[str, AuditAnswer]] = {}
    for task in range(100, 120):
        given = "healthy" if task % 2 else "wilting"
        other = "wilting" if task % 2 else "healthy"
        predicted = other if task - 100 < 8 - version else given
        tasks[task] = {"plant": AuditAnswer((given,), (predicted,))}
    tasks[101]["leaves"] = AuditAnswer(
        regions=(
            AuditRegion("correct", "leaf", 0.1, 0.1, 0.4, 0.5),
            AuditRegion("missed", "leaf", 0.5, 0.5, 0.9, 0.9),
            AuditRegion("false", "leaf", 0.6, 0.1, 0.9, 0.3),
            AuditRegion("missed", "leaf", 0.2, 0.8, 0.2, 0.8),
            AuditRegion("false", "leaf", 0.4, 0.8, 0.4, 0.8),
            AuditRegion("correct", "leaf", 0.3, 0.6, 0.3, 0.6),
        )
    )
    return AuditPredictions(tasks)


def save_audit(folder: Path) -> None:
    """Save predictions for audit images with each version, and examples of the labels."""
    versions, front = VersionStore(folder), QueueFront(folder)
    for card in versions.cards():
        save_audit_predictions(make_answers(card.number), versions.path(card.version))
    boxes = ((0.1, 0.1, 0.4, 0.5),)
    examples: dict[str, dict[str, tuple[LabelExample, ...]]] = {
        "plant": {
            "healthy": tuple(LabelExample(task) for task in range(60, 64)),
            "wilting": (LabelExample(64),),
        },
        "leaves": {"leaf": (LabelExample(60, boxes),)},
    }
    save_label_examples(LabelExamples(examples), folder)
    for task in (60, 61, 62, *range(100, 106)):
        front.save_thumbnail(str(task), make_jpeg(task))


def make_jpeg(number: int) -> bytes:
    """A small picture."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.open(io.BytesIO(make_png("red" if number % 2 else "blue", number, 120))).save(
        file, "JPEG"
    )
    return file.getvalue()
