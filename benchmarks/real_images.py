"""The loop on real pictures through a real Label Studio, beside logistic regression by hand.

    uv run python -m benchmarks.real_images FOLDER --encoder PATH-cls.pt --encoder builtin

FOLDER holds ``images/`` and ``annotations.json`` (``{"images": [{"file", "labels": [one]}]}``). The
annotator answers what /next serves; accuracy is that of the pushed predictions on all tasks that
were never labeled. Beside it: scikit-learn's LogisticRegression (C=100, better than its default
here) on the same embedding and as many random labels, mean of ten draws.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from backend.vision.encoders.load import load_encoder
from benchmarks.servers import running_backend, running_studio
from demo.annotator import Annotator
from demo.label_studio import Studio
from tests.support.harness import Backend, Json, Lab, choice_of, until

STOPS = (20, 60, 120)
DRAWS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", action="append", required=True)
    parser.add_argument("--every", type=int, default=10, help="labels between rounds")
    options = parser.parse_args()
    rows = json.loads((options.folder / "annotations.json").read_text())["images"]
    truth = {Path(row["file"]).stem: row["labels"][0] for row in rows}
    files = [options.folder / "images" / row["file"] for row in rows]
    with running_studio() as (studio, folder):
        print(f"{'encoder':<28}{'labels':>7}{'accuracy':>10}{'by hand':>9}{'seconds':>9}")
        for encoder in options.encoder:
            by_hand = logistic_regression(encoder, files, list(truth.values()))
            home = folder / Path(encoder).stem
            for labels, accuracy, seconds in play(
                studio, home, encoder, files, truth, options.every
            ):
                name = Path(encoder).name
                print(
                    f"{name:<28}{labels:>7}{accuracy:>10.3f}{by_hand[labels]:>9.3f}{seconds:>9.1f}",
                    flush=True,
                )


def play(
    studio: Studio,
    home: Path,
    encoder: str,
    files: list[Path],
    truth: dict[str, str],
    every: int,
) -> list[tuple[int, float, float]]:
    """Label up to the last stop; (labels, accuracy, seconds since the first label) at each."""
    annotator, lab = Annotator(studio.url, studio.token), Lab(studio.url, studio.token)
    results: list[tuple[int, float, float]] = []
    with (
        closing(annotator),
        closing(lab),
        running_backend(
            studio, home, PRELABEL_ENCODER=encoder, PRELABEL_RETRAIN_AFTER=str(every)
        ) as backend,
    ):
        project = annotator.create(f"real pictures {home.name}", config(truth))
        annotator.upload(project, files)
        annotator.connect(project, backend.url)
        wait(backend, project, 0)
        start, labeled = time.monotonic(), set()
        for given in range(1, max(STOPS) + 1):
            task = annotator.next(project)
            name = Path(task["data"]["image"]).stem.partition("-")[2]
            annotator.submit(task, [Lab.region([truth[name]], "label")])
            labeled.add(task["id"])
            if given % every == 0 or given in STOPS:
                version = wait(backend, project, given)
            if given in STOPS:
                seconds = time.monotonic() - start
                found = {
                    p["task"]: choice_of(p)
                    for p in lab.predictions(project)
                    if p["model_version"] == version
                }
                names = {
                    t["id"]: Path(t["data"]["image"]).stem.partition("-")[2]
                    for t in tasks(lab, project)
                }
                right = [found[t] == truth[n] for t, n in names.items() if t not in labeled]
                results.append((given, float(np.mean(right)), seconds))
        return results


def wait(backend: Backend, project: int, labels: int) -> str:
    if labels:
        event = {"action": "START_TRAINING", "project": {"id": project}}
        backend.http.post("/webhook", json=event)

    def check() -> str:
        state = backend.project(project)
        if state and state["round"]["error"]:
            sys.exit(state["round"]["error"])
        done = state and state["round"]["state"] == "idle" and state["version"]
        seen = done and state["labels"] >= labels and not state["waiting"]
        return str(state["version"]) if seen else ""

    return str(until(f"round at {labels}", check, seconds=300))


def tasks(lab: Lab, project: int) -> list[Json]:
    rows: list[Json] = []
    for page in range(1, 100):
        parameters: Json = {"project": project, "page": page, "page_size": 500}
        parameters["include"] = "id,data"
        answer = lab.http.get("/api/tasks/", params=parameters)
        rows += answer.json()["tasks"] if answer.status_code == 200 else []
        if answer.status_code != 200 or len(answer.json()["tasks"]) < 500:
            break
    return rows


def config(truth: dict[str, str]) -> str:
    choices = "".join(f'<Choice value="{name}"/>' for name in sorted(set(truth.values())))
    return (
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="label" toName="image">{choices}</Choices></View>'
    )


def logistic_regression(encoder: str, files: list[Path], labels: list[str]) -> dict[int, float]:
    """Accuracy by number of random labels, mean of ten draws."""
    from sklearn.linear_model import LogisticRegression

    loaded = load_encoder(encoder, say=print)
    vectors = loaded.encode_images([Image.open(file).convert("RGB") for file in files])
    truth = np.array(labels)
    found: dict[int, float] = {}
    for stop in STOPS:
        shares = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(truth))
            seen, rest = order[:stop], order[stop:]
            model = LogisticRegression(C=100, max_iter=1000).fit(vectors[seen], truth[seen])
            shares.append(model.score(vectors[rest], truth[rest]))
        found[stop] = float(np.mean(shares))
    return found


if __name__ == "__main__":
    main()
