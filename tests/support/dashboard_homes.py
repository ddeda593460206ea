"""Homes of made-up projects, for the dashboard: every field filled, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.store.captures import Capture, Captures
from backend.store.files import write_json
from backend.store.projects import Projects
from backend.store.queue_front import SUSPECTS, Asked, Front
from backend.store.versions import Card, Versions
from tests.support.harness import png

Json = dict[str, Any]
LABELS = ["healthy", "wilting", "dead"]


def figure(n: int, value: float, low: float, high: float, metric: str = "accuracy") -> Json:
    return {"n": n, "value": value, "low": low, "high": high, "metric": metric}


UNKNOWN: Json = {"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "accuracy"}


def state(id: int = 1, **more: Any) -> Json:
    """A project as the service shows it; nothing is known of it yet."""
    return {
        "id": id,
        "server": "http://label.example",
        "number": id,
        "title": "",
        "version": None,
        "round": {"state": "idle", "progress": 0.0, "detail": None, "error": None},
        "tasks": 0,
        "labels": 0,
        "waiting": 0,
        "audit": UNKNOWN,
        "controls": [],
        "left_out": {},
        "estimate": {},
        "outlook": {},
        "accepting": {},
        "held": {},
        "accepted": 0,
        "versions": [],
        **more,
    }


def card(number: int, labels: int, promoted: bool = True, **more: Any) -> Card:
    """A version whose figure grows with its labels."""
    value = round(0.97 - 0.5 / (1 + labels / 20), 3)
    audit = max(1, labels // 8)
    half = 0.9 / audit**0.5
    right, missed = round(audit * value), audit - round(audit * value)
    return Card(
        version=f"v{number}-0123abcd",
        identity=f"0123abcd{number}",
        number=number,
        parent=f"v{number - 1}-0123abcd" if number else None,
        created=f"2026-11-{1 + number % 28:02}T08:15:00+00:00",
        labels={"train": labels, "audit": audit},
        audit=figure(audit, value, max(0.0, value - half), min(1.0, value + half / 2)),
        controls={
            "plant": {
                "kind": "linear head",
                "examples": {"healthy": labels // 2, "wilting": labels // 3, "dead": 2},
                "audit": figure(audit, value, 0.5, 0.99),
                "figures": {
                    "macro_f1": figure(audit, value, 0.5, 0.99, "macro F1"),
                    "labels": {
                        "healthy": {
                            "precision": figure(14, 0.93, 0.69, 0.99, "precision"),
                            "recall": figure(15, 0.87, 0.62, 0.96, "recall"),
                        },
                        "wilting": {
                            "precision": figure(9, 0.78, 0.45, 0.94, "precision"),
                            "recall": figure(8, 0.88, 0.53, 0.98, "recall"),
                        },
                        "dead": {"precision": {**UNKNOWN}, "recall": {**UNKNOWN}},
                    },
                    "confusion": {
                        "healthy": {"healthy": right, "wilting": missed, "": 1},
                        "wilting": {"wilting": 7, "healthy": 1},
                    },
                },
            },
            "leaves": {
                "kind": "fine-tuned",
                "examples": {"leaf": 120},
                "audit": figure(audit, 0.81, 0.7, 0.9, "F1"),
                "shown": 0.3,
                "figures": {
                    "counting": figure(audit, 0.12, 0.05, 0.19, "counting error"),
                    "labels": {
                        "leaf": {
                            "there": 50,
                            "precision": 0.8,
                            "recall": 0.82,
                            "intervals": {
                                "precision": figure(20, 0.8, 0.7, 0.9, "precision"),
                                "recall": figure(20, 0.82, 0.7, 0.9, "recall"),
                            },
                        }
                    },
                },
            },
        },
        encoder={"setting": "auto", "id": "x", "name": "ViT-B-32-256/datacomp_s34b_b86k"},
        seconds={"train": 1.2, "total": 3.4},
        seed=0,
        packages={"prelabel": "0.1.0", "torch": "2.9.1"},
        promotion={
            "promoted": promoted,
            "reason": "Not worse on 20 audit images." if promoted else "Held back: it is worse.",
            "evidence": {},
        },
        detector={"setting": "builtin", "id": "y"},
        estimate=figure(labels, value - 0.05, value - 0.12, value, "accuracy by cross-validation"),
        outlook={
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
            "from": "audit slice",
        },
        **more,
    )


CONTROLS = [
    {"name": "plant", "type": "Choices", "choice": "single", "labels": LABELS},
    {"name": "leaves", "type": "RectangleLabels", "labels": ["leaf"], "smart": True},
]


def full(home: Path, versions: int = 6, title: str = "Greenhouse", id: int = 1) -> Json:
    """A project with everything in its folder; its state."""
    projects = Projects(home)
    projects.register("http://label.example", id)
    folder = projects.folder(str(id))
    kept = Versions(folder)
    for number in range(versions):
        one = card(number, 10 + 40 * number, promoted=number != versions - 1)
        kept.save(one, {}, lambda folder: None)
        if number != versions - 1:
            kept.promote(one.version, by="the loop", reason="Not worse.")
    front = Front(folder)
    reasons = ("uncertain", "audit", "sought", "unlike", "uncertain", "typical")
    front.keep([Asked(40 + n, why, 0.83 if n == 0 else 0.0) for n, why in enumerate(reasons)])  # type: ignore[arg-type]
    for task in (40, 41, 42, 43, 7):
        front.keep_picture(str(task), jpeg(task))
    suspects = [
        {
            "task": 7,
            "control": "plant",
            "given": "healthy",
            "suggested": "wilting",
            "quality": 0.08,
            "why": "wrong label",
        }
    ]
    write_json(folder / SUSPECTS, {"version": "v1-0123abcd", "suspects": suspects})
    captures = Captures(folder)
    for number, why in enumerate(("uncertain", "random", "rare")):
        capture = Capture(f"req-{number}", 1.79e9 + number, why, "v4-0123abcd")
        captures.keep(capture, png("red", number))
    captures.returned(capture, 44, annotated=False)
    front.keep_picture("capture-req-0", jpeg(3))
    live = f"v{versions - 2}-0123abcd"
    return state(
        id,
        title=title,
        version=live,
        tasks=600,
        labels=180,
        waiting=3,
        controls=CONTROLS,
        left_out={"rotated box": 3},
        accepted=12,
        accepting={"level": None, "reason": "Stopped: people corrected 4 of 20 accepted answers."},
        round={
            "state": "training",
            "progress": 0.4,
            "detail": "leaves: epoch 4 of 10, about 30 s left",
            "error": None,
        },
    )


def jpeg(number: int) -> bytes:
    """A small picture."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.open(io.BytesIO(png("red" if number % 2 else "blue", number, 120))).save(file, "JPEG")
    return file.getvalue()
