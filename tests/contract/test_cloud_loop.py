"""The whole loop: a real Label Studio, and the Modal app on a local control plane."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from backend.label_studio.local_server import LabelStudioServer
from backend.store.api_keys import ApiKeyStore
from serverless.container_image import REPOSITORY_ROOT
from serverless.volume_sync import VolumeSync
from tests.support.detection_projects import (
    BOXES_CONFIG,
    create_drawing_project,
    make_box_region,
    predicted_regions,
)
from tests.support.harness import (
    LabelStudioUser,
    MakeBackend,
    make_png,
    predicted_choice,
    wait_until,
)
from tests.support.modal_plane import ControlPlane, read_tree

ENVIRONMENT = {
    "PRELABEL_ENCODER": "builtin",
    "PRELABEL_DETECTOR": "builtin",
    "PRELABEL_RETRAIN_AFTER": "4",
    "PRELABEL_RETRAIN_QUIET": "3600",
    "PRELABEL_POLL": "3600",
    "PRELABEL_USER": "team",
    "PRELABEL_PASSWORD": "open sesame",
}


@contextmanager
def deployed(studio: LabelStudioServer) -> Iterator[ControlPlane]:
    """Deploy the app with the address of the real Label Studio."""
    label_studio = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    before = dict(os.environ)
    os.environ.update({**ENVIRONMENT, **label_studio})
    try:
        with ControlPlane(environment={"OMP_NUM_THREADS": "1"}) as plane:
            plane.deploy("-m", "serverless.app", cwd=REPOSITORY_ROOT)
            with plane.use_in_process():
                yield plane
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_backend_and_endpoint_on_modal_pre_annotate_train_and_serve(
    studio: LabelStudioServer, lab: LabelStudioUser, tmp_path: Path
) -> None:
    with deployed(studio) as plane:
        _, key = ApiKeyStore(tmp_path).create("app")
        VolumeSync(tmp_path, "prelabel").upload_live_versions()
        auth = httpx.BasicAuth("team", "open sesame")
        url = plane.web_url("backend")
        with httpx.Client(base_url=url, auth=auth, timeout=60, trust_env=False) as http:

            def version(but: str = "") -> str:
                state = http.get(f"/api/projects/{project}").json()
                idle = (state.get("round") or {}).get("state") == "idle"
                live = state.get("version") or ""
                return live if idle and live != but else ""

            project = lab.create_project(title="greenhouse")
            tasks = lab.import_colours(project, 8)
            login = {"auth_method": "BASIC_AUTH", "basic_auth_user": "team"}
            made = lab.connect_backend(project, url, **login, basic_auth_pass="open sesame")
            assert made["state"] == "CO"
            first = wait_until("a first version", version)
            for task in tasks[:8]:
                lab.submit_annotation(task)
            lab.start_training(made)
            second = str(wait_until("a version that learned", lambda: version(but=first)))
        predictions = [p for p in lab.list_predictions(project) if p["model_version"] == second]
        assert {p["task"] for p in predictions} == set(tasks[8:])
        assert sum(predicted_choice(p) == lab.true_labels[p["task"]] for p in predictions) >= 7
        headers = {"authorization": f"Bearer {key}"}
        path = f"/v1/functions/{project}/invoke"
        with httpx.Client(base_url=plane.web_url("endpoint"), timeout=60, trust_env=False) as http:

            def answer() -> str:
                response = http.post(path, content=make_png("red", 77), headers=headers)
                result = response.json() if response.status_code == 200 else {}
                return str(result["labelName"]) if result.get("version") == second else ""

            assert wait_until("the endpoint answers with it", answer) == "red"


def test_a_local_backend_trains_on_modal_and_its_version_is_served_there(
    studio: LabelStudioServer, lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    with deployed(studio) as plane:
        detector_backend = make_backend(
            **plane.client_environment(),
            PRELABEL_COMPUTE="modal",
            PRELABEL_USER="",
            PRELABEL_PASSWORD="",
            PRELABEL_DETECTOR="builtin",
            PRELABEL_DETECTOR_SIZE="160",
            PRELABEL_TRAIN_SECONDS="20",
            PRELABEL_RETRAIN_AFTER="1000",
        )
        project, drawings = create_drawing_project(lab, detector_backend, BOXES_CONFIG)
        before = detector_backend.project(project)["version"]
        tasks = list(drawings)
        for task in tasks[:8]:
            lab.submit_regions(task, [make_box_region(thing) for thing in drawings[task].objects])
        state = detector_backend.train_and_wait(project, 8, version=before)
        assert set(predicted_regions(lab, project, state["version"])) == set(tasks[8:])
        card = (
            detector_backend.home
            / "projects"
            / str(project)
            / "versions"
            / state["version"]
            / "card.json"
        )
        text = card.read_text()
        assert '"where": "modal"' in text
        assert '"dollars"' in text
        trained = [c for c in plane.containers if c.function == "train" and c.served]
        assert len(trained) == 1
        wait_until(
            "the version is on the home volume",
            lambda: any(
                state["version"] in name for name in read_tree(plane.volume_folder("prelabel-home"))
            ),
        )
        _, key = ApiKeyStore(detector_backend.home).create("app")
        VolumeSync(detector_backend.home, "prelabel").upload_live_versions()
        headers = {"authorization": f"Bearer {key}"}
        path = f"/v1/functions/{project}/invoke"
        content = drawings[tasks[0]].to_png()
        with httpx.Client(base_url=plane.web_url("endpoint"), timeout=60, trust_env=False) as http:

            def answer() -> object:
                response = http.post(path, content=content, headers=headers)
                return response.json() if response.status_code == 200 else None

            result = wait_until("the endpoint answers with it", answer)
        assert result["version"] == state["version"]
        assert set(result["counts"]) == {"disc", "square"}
