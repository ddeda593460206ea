"""The live version is loaded after a start, without Label Studio."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.scheduler import frames
from backend.scheduler.jobs import Job, PreloadJob, job_to_json
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.worker.preload import preload_live_version
from tests.support.published_models import publish_version, train_colour_model

NOT_LISTENING = "http://127.0.0.1:9"


def test_a_preloaded_version_is_not_read_again(tmp_path: Path) -> None:
    version = publish_version(tmp_path, "1", train_colour_model()[0], server=NOT_LISTENING)
    settings = Settings(home=tmp_path, label_studio_url=NOT_LISTENING, api_key="a" * 40)
    session = ProjectSession(Resources(settings), ProjectRecord("1", NOT_LISTENING, 1))
    preload_live_version(session)
    for folder in session.versions.path(version).glob("head-*"):
        shutil.rmtree(folder)
    assert session.model(version).heads


def test_a_worker_preloads_and_survives_a_project_without_a_version(tmp_path: Path) -> None:
    publish_version(tmp_path, "1", train_colour_model()[0], server=NOT_LISTENING)
    publish_version(tmp_path, "2", train_colour_model()[0], live=False, server=NOT_LISTENING)
    environment = {"PRELABEL_HOME": str(tmp_path), "LABEL_STUDIO_URL": NOT_LISTENING}
    command = [sys.executable, "-m", "backend.worker", "0"]
    jobs: list[Job] = [PreloadJob("1"), PreloadJob("2")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        for id, job in enumerate(jobs):
            worker.stdin.write(frames.pack_frame({"id": id, **job_to_json(job)}))
            worker.stdin.flush()
            assert frames.read_frame(worker.stdout) == ({"id": id, "done": None}, b"")
        worker.stdin.close()  # the end of the server ends the worker
        assert worker.wait(timeout=60) == 0
