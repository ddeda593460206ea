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
from demo.label_studio import LabelStudioServer, ServerProcess, find_free_port
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
    with running_studio() as (studio, folder):
        draw_image_folder(folder / "plants")
        for case, encoder in (
            ("no internet", "builtin"),
            ("CLIP's weights", write_random_clip(folder)),
        ):
            for what, seconds in measure_init(studio, folder, case, encoder):
                print(f"{case:<16} {what:<44} {seconds:>6.0f} s", flush=True)


def draw_image_folder(folder: Path) -> None:
    for image in PlantScenario().draw_images(IMAGE_COUNT, 0):
        label_folder = folder / str(image.truth)
        label_folder.mkdir(parents=True, exist_ok=True)
        image.image.save(label_folder / f"{image.name}.jpg", quality=88)


def write_random_clip(folder: Path) -> str:
    """A setting that leads to weights of the default's size."""
    import open_clip
    from safetensors.torch import save_file

    model = DEFAULT_CLIP.partition("/")[0]
    save_file(open_clip.create_model(model).state_dict(), folder / "random.safetensors")
    return f"{model}/{folder / 'random.safetensors'}"


def measure_init(
    studio: LabelStudioServer, folder: Path, case: str, encoder: str
) -> list[tuple[str, float]]:
    """What happened when, in seconds."""
    home = folder / case.replace("'", "")
    home.mkdir()
    backend = f"http://127.0.0.1:{find_free_port()}"
    env = {
        "PRELABEL_HOME": str(home),
        "PRELABEL_ENCODER": encoder,
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
    }
    command = [sys.executable, "-m", "backend.cli", "init", str(folder / "plants"), *INIT_ANSWERS]
    command += ["--labels", INIT_LABELS, "--serve", "--backend", backend, "--json"]
    user = LabelStudioUser(studio.url, studio.token)
    start = time.monotonic()
    program = ServerProcess(command, env, home / "log")
    try:
        project_state = wait_for_first_round(backend)
        rows = [("images imported and looked at", time.monotonic() - start)]
        if not is_fully_predicted(user, project_state):
            label_first_images(user, project_state["number"])
            rows.append((f"{FIRST_LABEL_COUNT} images labeled", time.monotonic() - start))
        wait_until(
            "answers",
            lambda: is_fully_predicted(user, wait_for_first_round(backend)),
            TIMEOUT_SECONDS,
        )
        rows.append(("every open image is pre-annotated", time.monotonic() - start))
    finally:
        program.stop()
        user.close()
    return rows


def wait_for_first_round(backend: str) -> Json:
    def poll_project() -> Json:
        try:
            (state, *_) = httpx.get(f"{backend}/api/projects", trust_env=False).json() or [{}]
        except (httpx.HTTPError, ValueError):
            return {}
        return state if state.get("version") and state["round"]["state"] == "idle" else {}

    project_state: Json = wait_until("a first look", poll_project, TIMEOUT_SECONDS)
    return project_state


def label_first_images(user: LabelStudioUser, project: int) -> None:
    """The first images of each label, as somebody who looks for them."""
    tasks = user.list_tasks(project)
    for name in ("healthy", "wilting"):
        matching_tasks: Sequence[Json] = [t for t in tasks if t["data"]["file"].startswith(name)]
        for task in matching_tasks[: FIRST_LABEL_COUNT // 2]:
            body = {"result": [user.make_choice_region([name], "label")]}
            user.request("POST", f"/api/tasks/{task['id']}/annotations/", json=body)


def is_fully_predicted(user: LabelStudioUser, project_state: Json) -> bool:
    """Every open image has an answer of the live version."""
    rows = user.request("GET", "/api/predictions/", params={"project": project_state["number"]})
    live_predictions = [
        r for r in rows if r["model_version"] == project_state["version"] and r["result"]
    ]
    return len(live_predictions) >= IMAGE_COUNT - FIRST_LABEL_COUNT


if __name__ == "__main__":
    os.environ.pop("PRELABEL_ENCODER", None)
    main()
