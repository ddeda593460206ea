"""The "Try it" boxes of the dashboard and of the predict endpoint, without a browser."""

from __future__ import annotations

import asyncio
import html as html_entities
import io
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from backend.scheduler.service import Service
from backend.server.app import create_app
from backend.settings import read_settings
from backend.store.api_keys import ApiKeyStore
from tests.support.drawings import make_drawing
from tests.support.endpoint_client import open_endpoint
from tests.support.harness import make_png

OURS, THEIRS = {"origin": "http://127.0.0.1"}, {"origin": "http://evil.example"}
FUNCTIONS = ("4", "5")
"""One with points, and one with choices and boxes."""
PAGE = {"accept": "text/html,*/*;q=0.8"}


@pytest.fixture(scope="module")
def home(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with five live versions, whose Label Studio is away."""
    return Path(shutil.copytree(published, tmp_path_factory.mktemp("try") / "home"))


def make_service(monkeypatch: pytest.MonkeyPatch, home: Path) -> Service:
    """Return a service whose workers accept images of a megapixel and a megabyte."""
    for name, value in {
        "PRELABEL_HOME": str(home),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "x",
        "PRELABEL_MAX_IMAGE_MB": "1",
        "PRELABEL_MAX_IMAGE_MEGAPIXELS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return Service(read_settings())


def make_plain_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_the_dashboard_predicts_an_image_as_the_endpoint_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = make_drawing(900, labels=("disc", "square")).to_png()

    async def ask() -> tuple[list[dict[str, Any]], str]:
        service = make_service(monkeypatch, home)
        await service.start()
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            rows = []
            for function in FUNCTIONS:
                path = f"/projects/{function}/try"
                answer = await client.post(path, content=photo, headers=OURS)
                assert answer.status_code == 200, answer.text
                assert answer.headers["cache-control"] == "no-store"
                rows.append(answer.json())
            form = await client.post("/projects/5/try", files={"image": photo}, headers=OURS)
            assert form.headers["content-security-policy"].startswith("default-src 'none'")
        await service.stop()
        return rows, form.text

    rows, page = asyncio.run(ask())
    assert rows[0]["predictions"], "something is found"
    assert len(rows[1]["controls"]) == 2
    with open_endpoint(home) as call:
        for row, function in zip(rows, FUNCTIONS, strict=True):
            answer = call.invoke(function, photo).json()
            assert {key: answer[key] for key in row} == row
    words = html_entities.unescape(re.sub(r"<[^>]+>", " ", page))
    assert f"Predicted by {rows[1]['version']}." in words
    assert re.search(r"disc \d+% from \d+% of the width and \d+% of the height to \d+%", words)


def test_uploads_are_checked_at_the_edge(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        service = make_service(monkeypatch, home)
        await service.start()
        transport = httpx.ASGITransport(create_app(service))
        small, large = make_png("red", 1), make_plain_png(1200, 1000)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for content, headers, status, says in (
                (small, THEIRS, 403, "not sent by the dashboard"),
                (small, {}, 403, "not sent by the dashboard"),
                (small, {**OURS, "host": "evil.example"}, 403, "not sent by"),
                (b"", OURS, 422, "Choose an image first."),
                (b"x" * 1_000_001, OURS, 413, "larger than"),
                (b"no image", OURS, 422, "not an image"),
                (large, OURS, 422, "too many pixels"),
            ):
                answer = await client.post("/projects/1/try", content=content, headers=headers)
                assert (answer.status_code, says in answer.json()["detail"]) == (status, True), says
            form = await client.post("/projects/1/try", files={"image": b"no image"}, headers=OURS)
            assert form.status_code == 422
            assert "not an image" in form.text
            assert "<h1>No prediction</h1>" in form.text
            form = await client.post(
                "/projects/1/try", files={"image": b"x" * 1_200_000}, headers=OURS
            )
            assert form.status_code == 413
            form = await client.post(
                "/projects/1/try",
                content=b"damaged",
                headers={**OURS, "content-type": "multipart/form-data; boundary=x"},
            )
            assert form.status_code in (400, 422)
            assert (
                await client.post("/projects/9/try", content=small, headers=OURS)
            ).status_code == 404
            assert (await client.get("/projects/1/try")).status_code in (404, 405)
        await service.stop()

    asyncio.run(ask())


def test_the_root_of_the_endpoint_is_a_page_for_browsers(home: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(home, tmp_path / "home"))
    with open_endpoint(copy, open=False, open_at_first=True) as call:
        assert call("GET", "/").json()["functions"] == "/v1/functions"
        page = call("GET", "/", headers=PAGE)
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert page.headers["cache-control"] == "no-store"
        assert "API key" not in page.text, "none is required yet"
        assert " style=" not in page.text
        for name, type in (("try.js", "text/javascript"), ("style.css", "text/css")):
            assert call("GET", f"/static/{name}").headers["content-type"].startswith(type)
        assert call("GET", "/static/..%2frendering.py").status_code == 404
        ApiKeyStore(copy).create("anna")
        page = call("GET", "/", headers={**PAGE, "host": "models.example"})
        assert 'type="password" autocomplete="off"' in page.text
        assert "http://models.example/v1/functions/" in page.text
        hostile = call("GET", "/", headers={**PAGE, "host": 'x"><script>alert(1)</script>'})
        assert "<script>alert" not in hostile.text
