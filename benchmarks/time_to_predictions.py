"""From a folder of 200 images to the first pre-annotation, with one command. One table.

    uv run python -m benchmarks.time_to_predictions

A running Label Studio of one's own; the seconds count from the start of `prelabel init --serve`.
Without internet the builtin encoder knows no words, so that somebody labels four images first. With
CLIP's weights there everything is pre-annotated before: here a network of the default's size with
random weights stands for it, so its seconds are true and its answers are not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from backend.vision.encoders.base import DEFAULT_CLIP
from benchmarks.servers import running_studio
from demo.label_studio import Program, Studio, free_port
from demo.scenarios import Plants
from tests.support.harness import Json, Lab, until

IMAGES = 200
FIRST = 4
PATIENCE = 900.0
ANSWERS = ("--goal", "sort", "--place", "no", "--small", "no", "--several", "no")
LABELS = "healthy = a healthy plant with firm green leaves, wilting = a plant with drooping leaves"


def main() -> None:
    with running_studio() as (studio, folder):
        draw(folder / "plants")
        for case, encoder in (("no internet", "builtin"), ("CLIP's weights", clip(folder))):
            for what, seconds in played(studio, folder, case, encoder):
                print(f"{case:<16} {what:<44} {seconds:>6.0f} s", flush=True)


def draw(folder: Path) -> None:
    for picture in Plants().draw(IMAGES, 0):
        place = folder / str(picture.truth)
        place.mkdir(parents=True, exist_ok=True)
        picture.image.save(place / f"{picture.name}.jpg", quality=88)


def clip(folder: Path) -> str:
    """A setting that leads to weights of the default's size."""
    import open_clip
    from safetensors.torch import save_file

    model = DEFAULT_CLIP.partition("/")[0]
    save_file(open_clip.create_model(model).state_dict(), folder / "random.safetensors")
    return f"{model}/{folder / 'random.safetensors'}"


def played(studio: Studio, folder: Path, case: str, encoder: str) -> list[tuple[str, float]]:
    """What happened when, in seconds."""
    home = folder / case.replace("'", "")
    home.mkdir()
    backend = f"http://127.0.0.1:{free_port()}"
    env = {
        "PRELABEL_HOME": str(home),
        "PRELABEL_ENCODER": encoder,
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
    }
    command = [sys.executable, "-m", "backend.cli", "init", str(folder / "plants"), *ANSWERS]
    command += ["--labels", LABELS, "--serve", "--backend", backend, "--json"]
    lab = Lab(studio.url, studio.token)
    start = time.monotonic()
    program = Program(command, env, home / "log")
    try:
        state = first_look(backend)
        rows = [("images imported and looked at", time.monotonic() - start)]
        if not answered(lab, state):
            label(lab, state["number"])
            rows.append((f"{FIRST} images labeled", time.monotonic() - start))
        until("answers", lambda: answered(lab, first_look(backend)), PATIENCE)
        rows.append(("every open image is pre-annotated", time.monotonic() - start))
    finally:
        program.stop()
        lab.close()
    return rows


def first_look(backend: str) -> Json:
    def look() -> Json:
        try:
            (state, *_) = httpx.get(f"{backend}/api/projects", trust_env=False).json() or [{}]
        except (httpx.HTTPError, ValueError):
            return {}
        return state if state.get("version") and state["round"]["state"] == "idle" else {}

    found: Json = until("a first look", look, PATIENCE)
    return found


def label(lab: Lab, project: int) -> None:
    """The first images of each label, as somebody who looks for them."""
    tasks = lab.tasks(project)
    for name in ("healthy", "wilting"):
        fitting: Sequence[Json] = [t for t in tasks if t["data"]["file"].startswith(name)]
        for task in fitting[: FIRST // 2]:
            body = {"result": [lab.region([name], "label")]}
            lab.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)


def answered(lab: Lab, state: Json) -> bool:
    """Every open image has an answer of the live version."""
    rows = lab.call("GET", "/api/predictions/", params={"project": state["number"]})
    given = [r for r in rows if r["model_version"] == state["version"] and r["result"]]
    return len(given) >= IMAGES - FIRST


if __name__ == "__main__":
    os.environ.pop("PRELABEL_ENCODER", None)
    main()
