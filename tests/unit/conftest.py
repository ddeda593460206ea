"""Fixtures for unit tests: published versions, a project without Label Studio, a tiny encoder."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_label_studio import ProjectRequestHandler
from tests.support.tiny_networks import YOLO_CLS_SIDE


@pytest.fixture(scope="module")
def published_home(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the home with five published functions, shared by one file's tests."""
    return Path(shutil.copytree(published, tmp_path_factory.mktemp("published") / "home"))


@pytest.fixture(scope="module")
def project_server() -> Iterator[str]:
    """The address of a server that answers like Label Studio for one project."""
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ProjectRequestHandler)
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()


@pytest.fixture(scope="session")
def tiny_yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as ultralytics saves it, of a classifier with random weights."""
    import torch

    from backend.vision.ultralytics_models import import_ultralytics

    folder = tmp_path_factory.mktemp("yolo")
    import_ultralytics(folder)
    from ultralytics.nn.tasks import ClassificationModel

    torch.manual_seed(0)
    network = ClassificationModel("yolo11n-cls.yaml", nc=5, verbose=False)
    path = folder / "made-cls.pt"
    torch.save({"model": network.half(), "train_args": {"imgsz": YOLO_CLS_SIDE}}, path)
    return path
