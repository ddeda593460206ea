"""Thumbnails for the dashboard: few images in memory, and none that is shown is removed."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from backend.loop.publish.thumbnails import ThumbnailPublisher
from backend.runtime.compute import LOCAL_BATCH_SIZE
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings


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
