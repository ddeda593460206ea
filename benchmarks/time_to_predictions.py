"""Measure the time from a folder of 200 images to pre-annotations, with one command.

    uv run python -m benchmarks.time_to_predictions

Label Studio is running already; time starts with ``prelabel init --serve``. Without internet the
builtin encoder cannot match label names, so four images are labeled first. With CLIP everything is
pre-annotated without a label. A network of CLIP's size with random weights takes its place here, so
its time is real and its predictions are not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from backend.label_studio.local_server import ServerProcess, find_free_port
from backend.vision.encoders.base import DEFAULT_CLIP
from benchmarks.servers import RunningStudio, running_studio
from demo.scenarios import PlantScenario
from tests.support.harness import Json, LabelStudioUser, wait_until

IMAGE_COUNT = 200
FIRST_LABEL_COUNT = 4
TIMEOUT_SECONDS = 900.0
INIT_ANSWERS = ("--goal", "sort", "--place", "no", "--small", "no", "--several", "no")
INIT_LABELS = (
    "healthy = a healthy plant with firm green leaves, wilting = a plant with drooping leaves"
)


def main() -> None:
    with running_studio() as studio:
        draw_image_folder(studio.folder / "plants")
        clip = write_random_clip(studio.folder)
        for case, encoder in (("no internet", "builtin"), ("CLIP weights", clip)):
            for step, seconds in measure_init(studio, case, encoder):
                print(f"{case:<16} {step:<44} {seconds:>6.0f} s", flush=True)


def draw_image_folder(folder: Path) -> None:
    for image in PlantScenario().draw_images(IMAGE_COUNT, 0):
        label_folder = folder / str(image.truth)
        label_folder.mkdir(parents=True, exist_ok=True)
        image.image.save(label_folder / f"{image.name}.jpg", quality=88)


def write_random_clip(folder: Path) -> str:
    """Write random weights of the default CLIP network; return the encoder setting."""
    import open_clip
    from safetensors.torch import save_file

    model = DEFAULT_CLIP.partition("/")[0]
    save_file(open_clip.create_model(model).state_dict(), folder / "random.safetensors")
    return f"{model}/{folder / 'random.safetensors'}"


def measure_init(studio: RunningStudio, case: str, encoder: str) -> list[tuple[str, float]]:
    """Return the steps and the seconds after which each was complete."""
    folder, user = studio.folder, studio.user
    home = folder / case
    home.mkdir()
    backend = f"http://127.0.0.1:{find_free_port()}"
    env = {
        "PRELABEL_HOME": str(home),
        "PRELABEL_ENCODER": encoder,
        "LABEL_STUDIO_URL": studio.server.url,
        "LABEL_STUDIO_API_KEY": studio.server.token,
    }
    command = [sys.executable, "-m", "backend.cli", "init", str(folder / "plants"), *INIT_ANSWERS]
    command += ["--labels", INIT_LABELS, "--serve", "--backend", backend, "--json"]
    start = time.monotonic()
    program = ServerProcess(command, env, home / "log")
    try:
        project_state = wait_for_first_round(backend)
        rows = [("images imported and embedded", time.monotonic() - start)]
        if not is_fully_predicted(user, project_state):
            label_first_images(user, project_state["number"])
            rows.append((f"{FIRST_LABEL_COUNT} images labeled", time.monotonic() - start))
        wait_until(
            "predictions",
            lambda: is_fully_predicted(user, wait_for_first_round(backend)),
            TIMEOUT_SECONDS,
        )
        rows.append(("every open image is pre-annotated", time.monotonic() - start))
    finally:
        program.stop()
    return rows


def wait_for_first_round(backend: str) -> Json:
    def poll_project() -> Json:
        try:
            (state, *_) = httpx.get(f"{backend}/api/projects", trust_env=False).json() or [{}]
        except (httpx.HTTPError, ValueError):
            return {}
        return state if state.get("version") and state["round"]["state"] == "idle" else {}

    project_state: Json = wait_until("the first round", poll_project, TIMEOUT_SECONDS)
    return project_state


def label_first_images(user: LabelStudioUser, project: int) -> None:
    """Label the first images of each label."""
    tasks = user.list_tasks(project)
    for name in ("healthy", "wilting"):
        matching_tasks: Sequence[Json] = [t for t in tasks if t["data"]["file"].startswith(name)]
        for task in matching_tasks[: FIRST_LABEL_COUNT // 2]:
            body = {"result": [user.make_choice_region([name], "label")]}
            user.request("POST", f"/api/tasks/{task['id']}/annotations/", json=body)


def is_fully_predicted(user: LabelStudioUser, project_state: Json) -> bool:
    """Return whether every open image has a prediction of the live version."""
    rows = user.request("GET", "/api/predictions/", params={"project": project_state["number"]})
    live_predictions = [
        r for r in rows if r["model_version"] == project_state["version"] and r["result"]
    ]
    return len(live_predictions) >= IMAGE_COUNT - FIRST_LABEL_COUNT


if __name__ == "__main__":
    os.environ.pop("PRELABEL_ENCODER", None)
    main()
