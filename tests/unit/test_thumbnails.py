"""Thumbnails for the dashboard: few images in memory, and none that is shown is removed."""

from __future__ import annotations

import http.server
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from backend.domain import Control, Label
from backend.label_studio.labeling_config import LabelingConfig
from backend.loop.publish import thumbnails
from backend.loop.publish.thumbnails import ThumbnailPublisher, select_examples
from backend.runtime.compute import LOCAL_BATCH_SIZE
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store import queue_front
from backend.store.queue_front import QueueFront, StoredLabelError, StoredLabelErrors
from tests.support.observations import make_observation


def encode_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


class Studio(http.server.BaseHTTPRequestHandler):
    """A Label Studio with one project, whose uploads are all the same image."""

    image: ClassVar[bytes] = encode_png()
    thumbnails: ClassVar[Path]
    saved_counts: ClassVar[list[int]] = []
    """Number of thumbnails at each request for an image, in order."""

    def do_GET(self) -> None:
        is_image = self.path.startswith("/data/upload/")
        if is_image:
            self.saved_counts.append(len(list(self.thumbnails.glob("*.jpg"))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            self.image if is_image else json.dumps({"id": 1, "label_config": ""}).encode()
        )

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[ProjectSession]:
    Studio.saved_counts.clear()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Studio)
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{web.server_port}"
    resources = Resources(Settings(home=tmp_path, label_studio_url=url, api_key="0" * 40))
    made = ProjectSession(resources, resources.projects.register(url, 1))
    Studio.thumbnails = made.folder / "thumbnails"
    yield made
    web.shutdown()
    web.server_close()


def upload_addresses(count: int) -> dict[int, str]:
    return {task: f"/data/upload/1/{task}.png" for task in range(count)}


def test_thumbnails_are_saved_batch_by_batch(session: ProjectSession) -> None:
    """All decoded images of a round at once would take gigabytes."""
    count = 2 * LOCAL_BATCH_SIZE + 6
    ThumbnailPublisher(session).save_thumbnails(upload_addresses(count))
    assert len(list(Studio.thumbnails.glob("*.jpg"))) == count
    assert len(Studio.saved_counts) == count
    unsaved = [asked - saved for asked, saved in enumerate(Studio.saved_counts)]
    assert max(unsaved) < LOCAL_BATCH_SIZE


def test_shown_thumbnails_are_not_trimmed(
    session: ProjectSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be downloaded again in each round."""
    monkeypatch.setattr(queue_front, "MAX_THUMBNAILS", 4)
    front = QueueFront(session.folder)
    suspect = StoredLabelError(7, "red", "blue", 0.1, "wrong label", "colour")
    front.save_label_errors(StoredLabelErrors("v1", (suspect,)))
    for age, name in enumerate(("new", "old", "7", "0"), 1):
        front.save_thumbnail(name, b"picture")
        os.utime(front.thumbnail_path(name), (0, 1000 - age))
    publisher = ThumbnailPublisher(session)
    publisher.save_thumbnails(upload_addresses(2))
    publisher.trim()
    assert {file.stem for file in Studio.thumbnails.iterdir()} == {"new", "7", "0", "1"}
    assert len(Studio.saved_counts) == 1
    publisher.save_thumbnails(upload_addresses(6))
    publisher.trim()
    publisher.save_thumbnails(upload_addresses(6))
    assert len(Studio.saved_counts) == 5, "more are shown than the maximum, and all are kept"


def test_thumbnails_that_cannot_be_removed_do_not_stop_a_round(
    session: ProjectSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue_front, "MAX_THUMBNAILS", 0)
    (Studio.thumbnails / "folder.jpg").mkdir(parents=True)
    ThumbnailPublisher(session).trim()
    assert "thumbnails could not be removed" in caplog.text


def test_examples_of_all_controls_share_one_limit() -> None:
    names = [str(label) for label in range(60)]
    controls = tuple(
        Control(name, "image", "image", tuple(map(Label, names[:count])))
        for name, count in (("one", 60), ("two", 60), ("three", 2), ("four", 60))
    )
    observation = replace(
        make_observation(0, {}),
        config=LabelingConfig(controls, {}),
        tasks=tuple(
            replace(task, open=False, choices={c.name: frozenset(names) for c in controls})
            for task in make_observation(5, {}).tasks
        ),
    )
    examples = select_examples(observation)
    assert [len(labels) for labels in examples.controls.values()] == [13, 13, 2, 12]
    most_shown = (
        len(examples.tasks())
        + thumbnails.MAX_AUDIT_THUMBNAILS
        + thumbnails.THUMBNAIL_TASKS
        + thumbnails.MAX_CAPTURES
        + thumbnails.MAX_LABEL_ERROR_THUMBNAILS
    )
    assert most_shown <= queue_front.MAX_THUMBNAILS
