"""The whole loop with a real Label Studio and the app on Modal, on a control plane of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from backend.store.api_keys import Keys
from demo.label_studio import Studio
from serverless.container_image import ROOT
from serverless.volume_sync import Sharing
from tests.conftest import MakeBackend
from tests.contract.test_places import BOXES, annotate, box, predicted, start
from tests.support.harness import Lab, choice_of, png, until
from tests.support.modal_plane import ControlPlane, tree

QUIET = {
    "PRELABEL_ENCODER": "builtin",
    "PRELABEL_DETECTOR": "builtin",
    "PRELABEL_RETRAIN_AFTER": "4",
    "PRELABEL_RETRAIN_QUIET": "3600",
    "PRELABEL_POLL": "3600",
    "PRELABEL_USER": "team",
    "PRELABEL_PASSWORD": "open sesame",
}


@contextmanager
def deployed(studio: Studio) -> Iterator[ControlPlane]:
    """The app, which knows the real Label Studio."""
    known = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    before = dict(os.environ)
    os.environ.update({**QUIET, **known})
    try:
        with ControlPlane(environment={"OMP_NUM_THREADS": "1"}) as plane:
            plane.deploy("-m", "serverless.app", cwd=ROOT)
            with plane.here():
                yield plane
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_everything_on_modal_pre_annotates_learns_and_answers_applications(
    studio: Studio, lab: Lab, tmp_path: Path
) -> None:
    with deployed(studio) as plane:
        _, key = Keys(tmp_path).create("app")
        Sharing(tmp_path, "prelabel").publish()
        auth = httpx.BasicAuth("team", "open sesame")
        url = plane.http("backend")
        with httpx.Client(base_url=url, auth=auth, timeout=60, trust_env=False) as http:

            def version(but: str = "") -> str:
                state = http.get(f"/api/projects/{project}").json()
                idle = (state.get("round") or {}).get("state") == "idle"
                live = state.get("version") or ""
                return live if idle and live != but else ""

            project = lab.project(title="greenhouse")
            tasks = lab.add(project, 8)
            login = {"auth_method": "BASIC_AUTH", "basic_auth_user": "team"}
            made = lab.connect(project, url, **login, basic_auth_pass="open sesame")
            assert made["state"] == "CO"
            first = until("a first version", version)
            for task in tasks[:8]:
                lab.label(task)
            lab.train(made)
            second = str(until("a version that learned", lambda: version(but=first)))
        given = [p for p in lab.predictions(project) if p["model_version"] == second]
        assert {p["task"] for p in given} == set(tasks[8:])
        assert sum(choice_of(p) == lab.truth[p["task"]] for p in given) >= 7
        headers = {"authorization": f"Bearer {key}"}
        path = f"/v1/functions/{project}/invoke"
        with httpx.Client(base_url=plane.http("endpoint"), timeout=60, trust_env=False) as http:

            def answer() -> str:
                told = http.post(path, content=png("red", 77), headers=headers)
                said = told.json() if told.status_code == 200 else {}
                return str(said["labelName"]) if said.get("version") == second else ""

            assert until("the endpoint answers with it", answer) == "red"


def test_a_backend_here_trains_there_and_its_version_is_served_there(
    studio: Studio, lab: Lab, make_backend: MakeBackend
) -> None:
    with deployed(studio) as plane:
        finder = make_backend(
            **plane.environment(),
            PRELABEL_COMPUTE="modal",
            PRELABEL_USER="",
            PRELABEL_PASSWORD="",
            PRELABEL_DETECTOR="builtin",
            PRELABEL_DETECTOR_SIZE="160",
            PRELABEL_TRAIN_SECONDS="20",
            PRELABEL_RETRAIN_AFTER="1000",
        )
        project, drawings = start(lab, finder, BOXES)
        before = finder.project(project)["version"]
        tasks = list(drawings)
        for task in tasks[:8]:
            annotate(lab, task, [box(thing) for thing in drawings[task].things])
        state = finder.learn(project, 8, version=before)
        assert set(predicted(lab, project, state["version"])) == set(tasks[8:])
        card = finder.home / "projects" / str(project) / "versions" / state["version"] / "card.json"
        text = card.read_text()
        assert '"where": "modal"' in text
        assert '"dollars"' in text
        trained = [c for c in plane.containers if c.function == "train" and c.served]
        assert len(trained) == 1
        until(
            "the version is on the home volume",
            lambda: any(state["version"] in name for name in tree(plane.volume("prelabel-home"))),
        )
        _, key = Keys(finder.home).create("app")
        Sharing(finder.home, "prelabel").publish()
        headers = {"authorization": f"Bearer {key}"}
        path = f"/v1/functions/{project}/invoke"
        content = drawings[tasks[0]].png()
        with httpx.Client(base_url=plane.http("endpoint"), timeout=60, trust_env=False) as http:

            def answer() -> object:
                told = http.post(path, content=content, headers=headers)
                return told.json() if told.status_code == 200 else None

            said = until("the endpoint answers with it", answer)
        assert said["version"] == state["version"]
        assert set(said["counts"]) == {"disc", "square"}
