"""Which encoder a setting means, and what ``auto`` takes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from backend.errors import EncoderError
from backend.vision import hub
from backend.vision.encoders.base import DEFAULT_CLIP, INSTALLED_ENCODER
from backend.vision.encoders.load import DEFAULT_REPOSITORY, load_encoder
from tests.support.tiny_networks import TINY_CLIP_CONFIG


class Hub(BaseHTTPRequestHandler):
    """Has every file, or none."""

    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is cached, the hub is nowhere, and the current folder is empty."""
    from huggingface_hub import constants

    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield Hub
    server.shutdown()
    server.server_close()


def test_auto_falls_back_to_the_installed_encoder(tmp_path: Path) -> None:
    said: list[str] = []
    encoder = load_encoder("auto", log=said.append, weights_dir=tmp_path)
    assert encoder.name == INSTALLED_ENCODER
    assert INSTALLED_ENCODER in said[0]
    assert "does not answer" in said[0]
    assert load_encoder(encoder.name, log=said.append).id == encoder.id  # the name is a setting


def test_an_offline_setting_prevents_hub_requests(
    endpoint: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in hub.hub_unavailable_reason()


def test_a_responding_hub_is_available(
    endpoint: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.hub_unavailable_reason() == ""
    monkeypatch.setattr(Hub, "status", 503)
    assert "does not answer" in hub.hub_unavailable_reason()


def keep(folder: Path, content: bytes) -> None:
    """Lay a file where the hub's client keeps what it downloaded."""
    home = folder / "hub" / f"models--{DEFAULT_REPOSITORY.replace('/', '--')}"
    for path, text in (("refs/main", b"abc"), (f"snapshots/abc/{hub.CLIP_FILES[0]}", content)):
        (home / path).parent.mkdir(parents=True)
        (home / path).write_bytes(text)


def test_weights_on_this_machine_need_no_hub(
    tmp_path: Path, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default model in small, for its real weights have 600 MB."""
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, DEFAULT_CLIP.partition("/")[0], TINY_CLIP_CONFIG)
    keep(tmp_path, Path(tiny_clip.partition("/")[2]).read_bytes())
    said: list[str] = []
    encoder = load_encoder("auto", log=said.append)
    assert encoder.name == DEFAULT_CLIP
    assert encoder.id.startswith(f"open_clip:{DEFAULT_CLIP}/")
    assert encoder.encode_images([Image.new("RGB", (30, 20))]).shape == (1, 32)
    assert len(said) == 1
    assert DEFAULT_CLIP in said[0]


def test_auto_falls_back_where_cached_weights_are_damaged(tmp_path: Path) -> None:
    keep(tmp_path, b"no weights")
    said: list[str] = []
    assert load_encoder("auto", log=said.append).name == INSTALLED_ENCODER


def test_unavailable_weights_fail_fast() -> None:
    start = time.monotonic()
    with pytest.raises(EncoderError, match=r"not on this machine.*does not answer"):
        load_encoder(DEFAULT_CLIP, log=pytest.fail)
    assert time.monotonic() - start < 60, "the system gives up after minutes"


def test_an_unresponsive_hub_times_out_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "CONNECT_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert "does not answer" in hub.hub_unavailable_reason()
        assert time.monotonic() - start < 30, "it never answers"


@pytest.mark.parametrize("setting", ["", "clip", "CLIP ViT", "auto2", "resnet"])
def test_an_unknown_setting_raises_an_error_with_the_valid_ones(setting: str) -> None:
    with pytest.raises(EncoderError, match=r"builtin, an open_clip model/weights") as caught:
        load_encoder(setting, log=pytest.fail)
    assert "\n" not in str(caught.value)
