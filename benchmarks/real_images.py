"""Measure the accuracy of the loop on real images, against logistic regression by hand.

    uv run python -m benchmarks.real_images FOLDER --encoder PATH-cls.pt --encoder builtin

FOLDER holds ``images/`` and ``annotations.json`` (``{"images": [{"file", "labels": [one]}]}``). A
simulated annotator labels the tasks that a real Label Studio serves. Accuracy is that of the pushed
predictions on all tasks without a label. The baseline is scikit-learn's LogisticRegression (C=100,
better than its default here) on the same embeddings and as many random labels, mean of ten draws.
Goal: more accurate than the baseline with the same number of labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from backend.vision.encoders.load import load_encoder
from benchmarks.servers import RunningStudio, running_backend, running_studio
from tests.support.harness import BackendServer, Json, LabelStudioUser, predicted_choice, wait_until

LABEL_COUNTS = (20, 60, 120)
BASELINE_DRAWS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", action="append", required=True)
    parser.add_argument("--every", type=int, default=10, help="labels between rounds")
    options = parser.parse_args()
    rows = json.loads((options.folder / "annotations.json").read_text())["images"]
    truth = {Path(row["file"]).stem: row["labels"][0] for row in rows}
    files = [options.folder / "images" / row["file"] for row in rows]
    with running_studio() as studio:
        print(f"{'encoder':<28}{'labels':>7}{'accuracy':>10}{'by hand':>9}{'seconds':>9}")
        for encoder in options.encoder:
            by_hand = baseline_accuracies(encoder, files, list(truth.values()))
            results = measure_loop(studio, encoder, files, truth, options.every)
            for labels, accuracy, seconds in results:
                figures = f"{accuracy:>10.3f}{by_hand[labels]:>9.3f}{seconds:>9.1f}"
                print(f"{Path(encoder).name:<28}{labels:>7}{figures}", flush=True)


def measure_loop(
    studio: RunningStudio,
    encoder: str,
    files: list[Path],
    truth: dict[str, str],
    labels_per_round: int,
) -> list[tuple[int, float, float]]:
    """Return (labels, accuracy, seconds since the first label) at each of ``LABEL_COUNTS``."""
    annotator, user, name = studio.annotator, studio.user, Path(encoder).stem
    settings = {"PRELABEL_ENCODER": encoder, "PRELABEL_RETRAIN_AFTER": str(labels_per_round)}
    results: list[tuple[int, float, float]] = []
    with running_backend(studio, name, **settings) as backend:
        project = annotator.create_project(f"real images {name}", make_label_config(truth))
        annotator.upload_images(project, files)
        annotator.connect_backend(project, backend.url)
        wait_for_labels(backend, project, 0)
        start, labeled = time.monotonic(), set()
        for label_count in range(1, max(LABEL_COUNTS) + 1):
            task = annotator.next_task(project)
            name = Path(task["data"]["image"]).stem.partition("-")[2]
            annotator.submit_annotation(
                task, [LabelStudioUser.make_choice_region([truth[name]], "label")]
            )
            labeled.add(task["id"])
            if label_count % labels_per_round == 0 or label_count in LABEL_COUNTS:
                version = wait_for_labels(backend, project, label_count)
            if label_count in LABEL_COUNTS:
                seconds = time.monotonic() - start
                predicted_labels = {
                    p["task"]: predicted_choice(p)
                    for p in user.list_predictions(project)
                    if p["model_version"] == version
                }
                names = {
                    t["id"]: Path(t["data"]["image"]).stem.partition("-")[2]
                    for t in list_all_tasks(user, project)
                }
                correct = [
                    predicted_labels[t] == truth[n] for t, n in names.items() if t not in labeled
                ]
                results.append((label_count, float(np.mean(correct)), seconds))
        return results


def wait_for_labels(backend: BackendServer, project: int, labels: int) -> str:
    if labels:
        event = {"action": "START_TRAINING", "project": {"id": project}}
        backend.http.post("/webhook", json=event)

    def check() -> str:
        state = backend.project(project)
        if state and state["round"]["error"]:
            sys.exit(state["round"]["error"])
        done = state and state["round"]["state"] == "idle" and state["version"]
        has_labels = done and state["labels"] >= labels and not state["waiting"]
        return str(state["version"]) if has_labels else ""

    return str(wait_until(f"round at {labels}", check, seconds=300))


def list_all_tasks(user: LabelStudioUser, project: int) -> list[Json]:
    rows: list[Json] = []
    for page in range(1, 100):
        parameters: Json = {"project": project, "page": page, "page_size": 500}
        parameters["include"] = "id,data"
        answer = user.http.get("/api/tasks/", params=parameters)
        rows += answer.json()["tasks"] if answer.status_code == 200 else []
        if answer.status_code != 200 or len(answer.json()["tasks"]) < 500:
            break
    return rows


def make_label_config(truth: dict[str, str]) -> str:
    choices = "".join(f'<Choice value="{name}"/>' for name in sorted(set(truth.values())))
    return (
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="label" toName="image">{choices}</Choices></View>'
    )


def baseline_accuracies(encoder: str, files: list[Path], labels: list[str]) -> dict[int, float]:
    """Return the baseline's accuracy for each number of random labels."""
    from sklearn.linear_model import LogisticRegression

    loaded_encoder = load_encoder(encoder, log=print)
    vectors = loaded_encoder.encode_images([Image.open(file).convert("RGB") for file in files])
    truth = np.array(labels)
    accuracy_by_count: dict[int, float] = {}
    for label_count in LABEL_COUNTS:
        shares = []
        for draw in range(BASELINE_DRAWS):
            order = np.random.default_rng(draw).permutation(len(truth))
            train_rows, test_rows = order[:label_count], order[label_count:]
            model = LogisticRegression(C=100, max_iter=1000).fit(
                vectors[train_rows], truth[train_rows]
            )
            shares.append(model.score(vectors[test_rows], truth[test_rows]))
        accuracy_by_count[label_count] = float(np.mean(shares))
    return accuracy_by_count


if __name__ == "__main__":
    main()
