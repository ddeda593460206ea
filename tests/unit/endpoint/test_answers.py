"""Responses to images, in every form of request."""

from __future__ import annotations

import base64
import json
import socket
from dataclasses import replace
from pathlib import Path

import httpcore
import pytest

from backend.domain import Region
from backend.endpoint.functions import load_local_version
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.vision.images.decode import DecodedImage
from backend.web_fetcher import WebFetcher
from tests.support.drawings import make_drawing
from tests.support.endpoint_client import EndpointClient, open_endpoint
from tests.support.harness import make_data_uri, make_png
from tests.support.image_files import encode_image

INVOKE = "/v1/functions/1/invoke"


def test_the_best_label_comes_with_the_confidence_of_every_label(call: EndpointClient) -> None:
    answer = call.invoke("1", make_png("red", 100)).json()
    assert answer["labelName"] == "red"
    assert answer["confidence"] > 0.8
    assert [row["labelName"] for row in answer["labelConfidences"]] == ["red", "blue"]
    total = sum(row["confidence"] for row in answer["labelConfidences"])
    assert total == pytest.approx(1, abs=2e-4)
    assert answer["function"] == "1"
    assert answer["version"].startswith("v0-")
    assert set(answer["milliseconds"]) == {"read", "decode", "predict", "total"}


def test_every_way_to_send_an_image_gives_the_same_response(call: EndpointClient) -> None:
    content = make_png("blue", 101)
    text = base64.b64encode(content).decode()
    ways = [
        call("POST", INVOKE, content=content, headers={"content-type": "image/png"}),
        call("POST", INVOKE, content=content),
        call("POST", INVOKE, files={"data": ("x.png", content, "image/png")}),
        call("POST", INVOKE, files={"any": content}),
        call("POST", INVOKE, data={"data": text}, files={"note": (None, "x")}),
        call("POST", INVOKE, json={"data": text}),
        call("POST", INVOKE, json={"data": base64.encodebytes(content).decode()}),
        call("POST", INVOKE, json={"data": make_data_uri(content)}),
    ]
    answers = [way.json() for way in ways]
    assert {answer.get("labelName") for answer in answers} == {"blue"}
    assert len({answer["confidence"] for answer in answers}) == 1
    assert len({answer["requestId"] for answer in answers}) == len(ways)
    assert [way.headers["x-request-id"] for way in ways] == [a["requestId"] for a in answers]


def test_label_count_and_threshold_limit_the_labels(call: EndpointClient) -> None:
    answer = call.invoke("1", make_png("red", 102), labelCount=1, threshold=1.0).json()
    assert [row["labelName"] for row in answer["labelConfidences"]] == ["red"]
    assert answer["labelName"] is None


def test_several_of_many_gives_every_label_above_the_threshold(call: EndpointClient) -> None:
    answer = call.invoke("2", make_png("red", 103)).json()
    assert [row["labelName"] for row in answer["labels"]] == ["red"]
    everything = call.invoke("2", make_png("red", 103), threshold=0).json()
    assert {row["labelName"] for row in everything["labels"]} == {"red", "blue"}


def test_boxes_are_those_of_the_model(call: EndpointClient, published: Path) -> None:
    image = make_drawing(900, labels=("disc", "square")).image
    answer = call.invoke("3", encode_image(image)).json()
    resources = Resources(Settings(home=published))
    record = resources.projects.get("3")
    loaded = load_local_version(resources, record, answer["version"])
    (prediction,) = loaded.predict([DecodedImage(image, *image.size)])
    regions, confidence = prediction.regions["things"]
    expected = [(r, c) for r, c in zip(regions, confidence, strict=True) if c >= 0.2]
    assert expected
    for region, c in expected:  # the runtime is chosen at each load: 16 or 32 bits
        near = [one for one in answer["predictions"] if _is_at(one["boundingBox"], region)]
        assert any(
            one["labelName"] == region.label and abs(one["confidence"] - c) < 0.03 for one in near
        ), (region, c, near)
    assert sum(answer["counts"].values()) == len(answer["predictions"])
    assert call.invoke("3", encode_image(image), threshold=1).json()["predictions"] == []


def _is_at(box: dict[str, float], region: Region) -> bool:
    corners = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
    return corners == pytest.approx((region.x0, region.y0, region.x1, region.y1), abs=0.02)


def test_points_have_a_center_and_are_counted(call: EndpointClient) -> None:
    image = make_drawing(901, labels=("disc", "square")).image
    answer = call.invoke("4", encode_image(image)).json()
    assert answer["predictions"]
    for one in answer["predictions"]:
        assert set(one) == {"labelName", "confidence", "center"}
        assert 0 <= one["center"]["x"] <= 1
        assert 0 <= one["center"]["y"] <= 1
    assert sum(answer["counts"].values()) == len(answer["predictions"])


def test_a_function_with_several_controls_predicts_all_of_them(call: EndpointClient) -> None:
    answer = call.invoke("5", make_png("red", 104)).json()
    assert answer["labelName"] == "red"
    assert set(answer["controls"]) == {"colour", "things"}
    assert "predictions" in answer["controls"]["things"]
    one = call.invoke("5", make_png("red", 104), control="things").json()
    assert "labelName" not in one
    assert "predictions" in one
    assert call.invoke("5", make_png("red", 104), control="smell").status_code == 404


def test_a_batch_keeps_its_order_and_a_bad_image_affects_no_other(call: EndpointClient) -> None:
    files = [("data", make_png("red", 1)), ("data", b"<svg/>"), ("data", make_png("blue", 2))]
    answer = call("POST", "/v1/functions/1/invoke-batch", files=files).json()
    assert [row.get("labelName") for row in answer["results"]] == ["red", None, "blue"]
    assert answer["results"][1]["error"]["status"] == 415
    texts = [base64.b64encode(make_png("blue", i)).decode() for i in range(64)]
    many = call("POST", "/v1/functions/1/invoke-batch", json={"data": texts})
    assert [row["labelName"] for row in many.json()["results"]] == ["blue"] * 64
    more = call("POST", "/v1/functions/1/invoke-batch", json={"data": [*texts, texts[0]]})
    assert more.status_code == 422
    assert "1 to 64" in more.json()["detail"]
    for count in (65, 66, 200):
        form = call("POST", "/v1/functions/1/invoke-batch", files=[("data", b"x")] * count)
        assert form.json()["type"] == "urn:prelabel:batch-size", count


def test_functions_are_listed_with_type_labels_and_version(call: EndpointClient) -> None:
    listed = {row["id"]: row for row in call("GET", "/v1/functions").json()}
    assert {id: row["type"] for id, row in listed.items()} == {
        "1": "one-of-many",
        "2": "several-of-many",
        "3": "boxes",
        "4": "points",
        "5": "one-of-many",
    }
    assert listed["1"]["name"] == "colours"
    card = call("GET", "/v1/functions/1").json()
    assert card["labels"] == ["red", "blue"]
    assert card["versions"] == [card["version"]]
    assert card["examples"] == {"colour": {"red": 12, "blue": 12}}
    assert set(card["drift"]) == {"n", "labels", "images", "warnings"}


@pytest.mark.parametrize(
    ("path", "more", "status", "detail"),
    [
        ("/v1/functions/9/invoke", {"content": b"x"}, 404, "no function '9'"),
        ("/v1/functions/1/invoke?version=v7-00", {"content": b"x"}, 404, "There is no version"),
        ("/v1/functions/1/invoke?labelCount=0", {"content": b"x"}, 422, "labelCount"),
        ("/v1/functions/1/invoke?threshold=2", {"content": b"x"}, 422, "threshold"),
        (INVOKE, {"content": b""}, 422, "no image"),
        (INVOKE, {"files": {"data": b""}}, 422, "empty file"),
        (INVOKE, {"content": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, 415, "save it as PNG"),
        (INVOKE, {"content": make_png("red", 1)[:-40]}, 422, "damaged image"),
        (INVOKE, {"json": {}}, 422, "no image"),
        (INVOKE, {"json": {"data": 7}}, 422, "no image"),
        (INVOKE, {"json": {"data": "%%"}}, 422, "no image"),
        (INVOKE, {"json": {"data": "data:image/png;base64"}}, 422, "damaged data URI"),
        (INVOKE, {"json": {"data": ["a", "b"]}}, 422, "invoke-batch"),
        (INVOKE, {"json": {"data": "https://example.com/x.png"}}, 422, "PRELABEL_FETCH_URLS"),
        (
            INVOKE,
            {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}},
            400,
            "not valid JSON",
        ),
        (
            INVOKE,
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            400,
            "multipart",
        ),
        ("/v1/nothing", {"content": b""}, 404, "openapi.json"),
        ("/v1/functions", {"content": b""}, 405, "openapi.json"),
    ],
)
def test_a_wrong_request_gets_a_problem_that_names_the_mistake(
    call: EndpointClient, path: str, more: dict[str, object], status: int, detail: str
) -> None:
    answer = call("POST", path, **more)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert detail in problem["detail"]
    assert problem["type"].startswith("urn:prelabel:")
    assert problem["requestId"] == answer.headers["x-request-id"]


def test_a_lone_surrogate_is_refused(call: EndpointClient) -> None:
    headers = {"content-type": "application/json"}
    path = "/v1/functions/1/samples/x/annotation"
    for text in ("https://\ud800.com/x.png", "\ud800", "data:image/png,\ud800"):
        body = json.dumps({"data": text})
        assert call("POST", INVOKE, content=body, headers=headers).status_code == 422, text
    strange = json.dumps({"labelName": "red", "\ud800": 1})
    assert call("PUT", path, content=strange, headers=headers).status_code == 422


def test_an_unexpected_error_is_a_problem_with_the_request_id_and_is_counted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.endpoint_client import open_endpoint

    with open_endpoint(home) as call:
        monkeypatch.setattr("backend.endpoint.invoker.decode_upright_image", lambda *a, **k: 1 / 0)
        answer = call.invoke("1", make_png("red", 1))
        text = call("GET", "/metrics").text
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["requestId"] == answer.headers["x-request-id"]
    assert 'prelabel_requests_total{function="1",status="500"} 1.0' in text


def test_a_redirect_to_a_private_address_is_not_followed(home: Path) -> None:
    from tests.support.endpoint_client import open_endpoint

    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    private = f"https://127.0.0.1:{listener.getsockname()[1]}/x.png"
    redirect = f"HTTP/1.1 302 Found\r\nlocation: {private}\r\ncontent-length: 0\r\n\r\n".encode()
    with open_endpoint(home, fetch_urls=True, allowed_hosts=frozenset({"127.0.0.1"})) as call:
        reader = call.app.state.parts.reader
        limits = replace(reader.web._limits, schemes=frozenset({"http", "https"}))
        network = httpcore.MockBackend([redirect])
        web = WebFetcher(
            limits, lambda host, port: [{"a.example": "93.184.216.34"}.get(host, host)], network
        )
        object.__setattr__(reader, "web", web)
        answer = call("POST", INVOKE, json={"data": "http://a.example/x.png"})
    assert answer.status_code == 422
    assert (
        answer.json()["detail"] == "The image cannot be used: image address is private: 127.0.0.1."
    )
    with listener, pytest.raises(TimeoutError):
        listener.accept()


def test_a_version_of_an_older_prelabel_is_refused_with_the_fix(home: Path) -> None:
    for file in (home / "projects" / "1" / "versions").glob("*/controls.json"):
        file.unlink()
    with open_endpoint(home) as call:
        answer = call.invoke("1", make_png("red", 1))
    assert answer.status_code == 503
    assert "older Prelabel" in answer.json()["detail"]


def test_a_slow_prediction_is_answered_with_503(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.endpoint import invoker
    from tests.support.endpoint_client import open_endpoint

    with open_endpoint(home) as call:
        monkeypatch.setattr(invoker, "RESPONSE_TIMEOUT_SECONDS", 0.0)
        answer = call.invoke("1", make_png("red", 1))
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "10"
        monkeypatch.setattr(invoker, "RESPONSE_TIMEOUT_SECONDS", 60.0)
        assert call.invoke("1", make_png("red", 1)).status_code == 200


def test_a_periodic_task_that_fails_is_logged_and_repeated_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from backend.runtime.periodic import log_errors, throttle

    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise RuntimeError("files are open")

    throttled = throttle(60.0, log_errors(work, "The volume could not be read"))
    throttled()
    throttled()
    assert calls == [1]
    assert "The volume could not be read: files are open" in caplog.text
