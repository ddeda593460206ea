"""Whatever stands in tasks, annotations, configs and protocol bodies costs that part alone."""

from __future__ import annotations

import base64
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.domain import Task
from backend.errors import ConfigError, UsageError
from backend.inference.images import ImageSource, ProjectImages
from backend.label_studio.image_fetcher import TaskImageFetcher
from backend.label_studio.labeling_config import read_config
from backend.label_studio.ml_protocol import parse_predict_request, parse_project
from backend.label_studio.task_results import parse_task
from backend.scheduler.service import Service
from backend.server.app import create_app
from backend.settings import Settings
from backend.store.image_copies import ImageCopies
from backend.vision.encoders.embedding_cache import EmbeddingCache
from backend.web_fetcher import FetchLimits
from tests.support.image_files import encode_image
from tests.support.protocol_bodies import JSON, NAMES, objects, protocol_bodies

CONFIG = """<View><Image name="img" value="$image"/>
<Choices name="kind" toName="img" choice="multiple"><Choice value="a"/><Choice value="b"/></Choices>
<RectangleLabels name="box" toName="img"><Label value="a"/></RectangleLabels>
<KeyPointLabels name="dot" toName="img"><Label value="a"/></KeyPointLabels></View>"""
CONTROLS = read_config(CONFIG).controls
BAD_ADDRESSES = (
    "http://[::1", "http://a]b/x.png", "s3://[buck]et/x.png", "http://ex℀mple.com/x.png",
    "http://x:99999/a.png", "http://\ud800/x.png", "/data/\ud800.png", "s3://\ud800", "data:,",
    "//", "http:///x", "http://user:secret@[::1]:x/", "\x00", "http://x/\n\r", "gs://",
)  # fmt: skip


URL_LIKE = r"(https?|s3|data):[/\[\]@:a-c0-9]{0,9}"


VALUES = objects(
    "x", "y", "width", "height", "rotation", "choices", choices=st.lists(NAMES | JSON),
    rectanglelabels=st.lists(NAMES | JSON), keypointlabels=st.lists(NAMES | JSON),
)  # fmt: skip
REGIONS = objects(
    "id", "is_positive", "image_rotation", from_name=NAMES, to_name=st.just("img"),
    type=st.sampled_from(["choices", "rectanglelabels", "keypointlabels", "brush"]), value=VALUES,
)  # fmt: skip
ANNOTATIONS = objects(
    "completed_by", "created_at", "updated_at", "ground_truth", "was_cancelled",
    result=st.lists(REGIONS, max_size=3), completed_by=st.just(7),
)  # fmt: skip
ROWS = objects("is_labeled", data=JSON, annotations=st.lists(ANNOTATIONS, max_size=3))


@settings(max_examples=300, deadline=None)
@given(row=ROWS, label_added=st.sampled_from(["", "2026-06-01T00:00:00+00:00"]))
def test_any_task_and_annotation_is_read(row: Any, label_added: str) -> None:
    added_at = {control.name: {"a": label_added} for control in CONTROLS}
    row = {**(row if isinstance(row, dict) else {"data": row}), "id": 1}
    task = parse_task(row, CONTROLS, added_at, Counter(), 7)
    assert isinstance(task, Task)
    for regions in (task.regions or {}).values():
        assert all(0 <= value <= 1 for region in regions for value in region.center)


def test_a_damaged_region_leaves_the_others_of_its_annotation() -> None:
    answer = {"from_name": "kind", "to_name": "img", "type": "choices", "value": {"choices": ["a"]}}
    broken = {"from_name": "kind", "to_name": "img", "type": "choices", "value": None}
    row = {"id": 1, "data": {}, "annotations": [{"result": [broken, answer, None]}]}
    assert (parse_task(row, CONTROLS, {}, Counter()).choices or {})["kind"] == frozenset("a")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="<>/=\"' VCILabeImgxn$0.9", max_size=80) | st.just(CONFIG), st.data())
def test_any_labeling_config_is_read_or_refused(text: str, data: st.DataObject) -> None:
    if text == CONFIG:
        cut = data.draw(st.integers(0, len(CONFIG)))
        text = CONFIG[:cut] + data.draw(st.text(max_size=4)) + CONFIG[cut:]
    with contextlib.suppress(ConfigError):
        read_config(text)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ProjectImages]:
    fetcher = TaskImageFetcher(
        "http://localhost:9", dict, FetchLimits(10**6), lambda host, port: ["127.0.0.1"]
    )
    yield ProjectImages(
        "http://localhost:9", fetcher, EmbeddingCache(tmp_path / "cache"),
        ImageCopies(tmp_path / "copies"), 10**6,
    )  # fmt: skip
    fetcher.close()


def test_an_invalid_image_address_costs_that_image_alone(images: ProjectImages) -> None:
    good = (
        "data:image/png;base64," + base64.b64encode(encode_image(Image.new("RGB", (8, 8)))).decode()
    )
    sources = [ImageSource(address, n) for n, address in enumerate((*BAD_ADDRESSES, good))]
    (batch,) = images.iter_batches(sources)
    assert list(batch.images) == [good]
    assert batch.errors.keys() == set(BAD_ADDRESSES)
    assert not any("secret" in str(error) for error in batch.errors.values())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(max_size=30) | st.from_regex(r"(https?|s3|data):[/\[\]@:a-c0-9]{0,9}", fullmatch=True)
)
def test_any_image_address_is_an_image_error(images: ProjectImages, address: str) -> None:
    (batch,) = images.iter_batches([ImageSource(address, 1)])
    reasons = {error.reason for error in batch.errors.values()}
    assert "image cannot be read" not in reasons  # what a bug is counted as


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    app = create_app(Service(Settings(home=tmp_path_factory.mktemp("home"))))
    return TestClient(app, raise_server_exceptions=False)  # not started: no worker processes


DEEP = b"[" * 200_000
UNREADABLE = [b"", b"null", b"[]", b"7", b"\xff", DEEP, b'{"a":' + DEEP]
BAD_SETUPS = [
    {"project": "\u00b2"}, {"project": "9" * 5000}, {"project": "1", "hostname": "http://[bad"},
    {"project": "1", "hostname": "http://x:99999"}, {"project": ["1"]}, {"project": "-1.5"},
    {"project": "1.1", "access_token": "a\nb"}, {"project": "1.1", "hostname": "file:///etc"},
]  # fmt: skip
BAD_PREDICTS = [
    {"tasks": 3}, {"tasks": [{}]}, {"tasks": [{"id": "x"}]}, {"tasks": [{"id": 1, "data": []}]},
    {"tasks": [{"id": 1}], "params": []}, {"tasks": [{"id": 1}], "params": {"context": [1]}},
    {"tasks": [{"id": 1}], "label_config": ["x"]}, {"tasks": [{"id": 10**30}]},
    {"tasks": [{"id": None, "data": {}}]}, {"tasks": [None]}, {"tasks": [{"id": True}]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [(path, body) for path in ("/setup", "/predict") for body in UNREADABLE]
    + [("/setup", json.dumps(body).encode()) for body in BAD_SETUPS]
    + [("/predict", json.dumps(body).encode()) for body in BAD_PREDICTS],
    ids=lambda value: value[:50] if isinstance(value, str) else value[:50].decode("latin1"),
)
def test_a_bad_body_gets_one_sentence(backend: TestClient, path: str, body: bytes) -> None:
    response = backend.post(path, content=body)
    assert response.status_code == 400, response.text
    sentence = response.json()["detail"]
    assert sentence.endswith(".")
    assert len(sentence) < 300


@pytest.mark.parametrize("body", UNREADABLE[:-2])
def test_an_unreadable_webhook_wakes_all_projects(backend: TestClient, body: bytes) -> None:
    assert backend.post("/webhook", content=body).status_code == 200


def test_credentials_in_a_server_address_are_dropped(
    backend: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"project": "77.1", "hostname": "http://admin:secret@localhost:9", "access_token": "t"}
    assert backend.post("/setup", json=body).status_code == 200
    listed = backend.get("/api/projects").text
    assert "localhost:9" in listed
    assert "secret" not in listed + caplog.text


@settings(max_examples=300, deadline=None)
@given(
    case=st.sampled_from(["/setup", "/webhook"]).flatmap(
        lambda path: st.tuples(st.just(path), protocol_bodies(path, 77))
    )
)
def test_fuzzed_protocol_bodies_are_no_server_errors(
    backend: TestClient, case: tuple[str, bytes]
) -> None:
    path, body = case
    assert backend.post(path, content=body).status_code < 500


@settings(max_examples=300, deadline=None)
@given(protocol_bodies("/predict", 77))
def test_fuzzed_predict_requests_are_parsed_or_refused(body: bytes) -> None:
    try:
        request = parse_predict_request(body)
    except UsageError:
        return
    assert all(isinstance(task["id"], int) for task in request["tasks"])
    parse_project(request)
