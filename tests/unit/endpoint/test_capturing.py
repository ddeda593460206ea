"""Captured images, corrections and drift."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.endpoint.prometheus_metrics import DriftFigures, DriftMonitor, EndpointMetrics
from backend.store.captures import Capture, CaptureStore
from backend.store.drift_reference import DriftReference
from backend.vision.images.display import make_displayable
from tests.support.drawings import make_drawing
from tests.support.endpoint_client import open_endpoint
from tests.support.harness import make_png
from tests.support.published_models import make_ambiguous_png


def captured(home: Path, function: str = "1") -> list[tuple[str, str]]:
    return [(c.why, c.external) for c in CaptureStore(home / "projects" / function).all()]


def test_uncertain_images_are_captured_with_their_prediction(home: Path) -> None:
    with open_endpoint(home, capture_below=0.999999, capture_fraction=0.0) as call:
        answer = call.invoke("1", make_ambiguous_png(1), externalId="bed-7").json()
        call.wait_for_post_response()
        (capture,) = CaptureStore(home / "projects" / "1").all()
    assert (capture.why, capture.external, capture.id) == (
        "uncertain",
        "bed-7",
        answer["requestId"],
    )
    assert capture.version == answer["version"]
    (region,) = capture.said["result"]
    assert region["value"]["choices"] == [answer["labelName"]]
    assert (capture.width, capture.height) == (64, 64)
    assert CaptureStore(home / "projects" / "1").image_path(
        capture
    ).read_bytes() == make_ambiguous_png(1)
    assert capture.suffix == ".png"


def test_confident_images_are_captured_only_at_random(home: Path) -> None:
    with open_endpoint(home, capture_below=0.0, capture_fraction=0.0) as call:
        call.invoke("1", make_ambiguous_png(2))
        call.wait_for_post_response()
    assert captured(home) == []
    with open_endpoint(home, capture_below=0.0, capture_fraction=0.999) as call:
        call.invoke("1", make_ambiguous_png(3))
        call.invoke("1", make_ambiguous_png(4), capture=False)
        call.wait_for_post_response()
    assert captured(home) == [("random", "")]


def test_the_same_image_is_captured_once_even_when_it_is_saved_again(home: Path) -> None:
    anew = io.BytesIO()
    Image.open(io.BytesIO(make_ambiguous_png(5))).save(anew, "JPEG", quality=80)
    with open_endpoint(home, capture_fraction=0.999) as call:
        for content in (
            make_ambiguous_png(5),
            make_ambiguous_png(5),
            anew.getvalue(),
            make_ambiguous_png(6),
        ):
            call.invoke("1", content)
        call.wait_for_post_response()
    assert len(captured(home)) == 2
    with open_endpoint(home, capture_fraction=0.999) as call:  # after a restart too
        call.invoke("1", make_ambiguous_png(5))
        call.wait_for_post_response()
    assert len(captured(home)) == 2


def test_captures_are_limited_per_day_and_removed_with_age(home: Path) -> None:
    with open_endpoint(home, capture_fraction=0.999, capture_per_day=2) as call:
        for number in range(10, 14):
            call.invoke("1", make_ambiguous_png(number))
        call.wait_for_post_response()
    assert len(captured(home)) == 2
    captures = CaptureStore(home / "projects" / "1")
    (first, _) = captures.all()
    assert captures.delete_before(first.at + 1e-6) == 1
    assert len(captured(home)) == 1
    assert not captures.image_path(first).exists()


def test_an_image_with_a_rare_label_is_captured(home: Path) -> None:
    import json

    (card,) = (home / "projects" / "1" / "versions").glob("*/card.json")
    content = json.loads(card.read_text())
    content["controls"]["colour"]["examples"] = {"red": 1, "blue": 40}
    card.write_text(json.dumps(content))
    with open_endpoint(home, capture_below=0.0, capture_fraction=0.0) as call:
        call.invoke("1", make_png("red", 1))
        call.invoke("1", make_png("blue", 1))
        call.wait_for_post_response()
    assert captured(home) == [("rare", "")]


def test_a_correction_applies_to_the_captured_image_or_sends_its_own(home: Path) -> None:
    path = "/v1/functions/1/samples/{}/annotation"
    with open_endpoint(home, capture_fraction=0.999) as call:
        call.invoke("1", make_ambiguous_png(20), externalId="a/b 1")
        call.wait_for_post_response()
        there = call("PUT", path.format("a%2Fb%201"), json={"labelName": "blue"})
        gone = call("PUT", path.format("other"), json={"labelName": "blue"})
        wrong = call("PUT", path.format("other"), json={"labelName": "green"})
        unclear = call("PUT", path.format("other"), json={"labelNames": []})
        strange = call("PUT", path.format("other"), json={"label": "blue"})
        import base64

        text = base64.b64encode(make_ambiguous_png(21)).decode()
        brought = call("PUT", path.format("other"), json={"labelName": "red", "data": text})
    assert (there.status_code, brought.status_code) == (202, 202), there.text + brought.text
    assert gone.status_code == 404
    assert "as `data`" in gone.json()["detail"]
    assert wrong.status_code == unclear.status_code == strange.status_code == 422
    assert "the labels are: red, blue" in wrong.json()["detail"]
    by_name = {c.external: c for c in CaptureStore(home / "projects" / "1").all()}
    assert by_name["other"].why == "corrected"
    for name, label in (("a/b 1", "blue"), ("other", "red")):
        annotation = by_name[name].annotation
        assert annotation is not None
        assert annotation[0]["value"] == {"choices": [label]}
        assert "score" not in annotation[0]


def test_a_correction_of_boxes_has_all_objects_of_the_image(home: Path) -> None:
    path = "/v1/functions/3/samples/x/annotation"
    box = {"x": 0.5, "y": 0.25, "width": 0.25, "height": 0.5}
    objects = [{"labelName": "disc", "boundingBox": box}]
    with open_endpoint(home, capture_fraction=0.999) as call:
        call.invoke("3", make_ambiguous_png(30), externalId="x")
        call.wait_for_post_response()
        assert call("PUT", path, json={"predictions": objects}).status_code == 202
        assert call("PUT", path, json={"labelName": "disc"}).status_code == 422
        no_box = [{"labelName": "disc", "center": {"x": 0.5, "y": 0.5}}]
        assert call("PUT", path, json={"predictions": no_box}).status_code == 422
    (capture,) = CaptureStore(home / "projects" / "3").all()
    assert capture.annotation is not None
    (region,) = capture.annotation
    value = region["value"]
    assert (value["x"], value["y"], value["width"], value["height"]) == (50, 25, 25, 50)
    assert region["type"] == "rectanglelabels"


def test_drift_is_reported_when_requests_differ_from_the_audit_set(home: Path) -> None:
    with open_endpoint(home) as call:
        for number in range(30):
            for colour in ("red", "blue"):
                call.invoke("1", make_png(colour, number), capture=False)
        call.wait_for_post_response()
        same = call("GET", "/v1/functions/1").json()["drift"]
        for number in range(120):
            call.invoke("1", make_drawing(number).to_png(), capture=False)
        call.wait_for_post_response()
        other = call("GET", "/v1/functions/1").json()["drift"]
        text = call("GET", "/metrics").text
    assert same["n"] == 60
    assert same["labels"] < 0.05
    assert same["images"] < 0.3
    assert other["images"] > 0.5
    assert any("unlike the audit set" in warning for warning in other["warnings"])
    assert f'prelabel_drift{{function="1",of="images"}} {other["images"]}' in text
    assert (
        'prelabel_requests_total{function="1",status="200"} 182.0' in text
    )  # two requests for the details
    assert 'prelabel_labels_total{function="1",label="red"}' in text


def test_unknown_function_ids_are_counted_together(home: Path) -> None:
    with open_endpoint(home) as call:
        for number in range(5):
            call.invoke(f"made-up-{number}", b"x")
        text = call("GET", "/metrics").text
    assert 'prelabel_requests_total{function="unknown",status="404"} 5.0' in text
    assert "made-up" not in text


ANNOTATION = "/v1/functions/1/samples/{}/annotation"


def test_a_correction_never_applies_to_an_older_image_of_that_name(home: Path) -> None:
    path = ANNOTATION.format("bed-7")
    with open_endpoint(home, capture_fraction=0.999) as call:
        call.invoke("1", make_ambiguous_png(71), externalId="bed-7")
        assert call("PUT", path, json={"labelName": "red"}).status_code == 202
        call.invoke("1", make_png("blue", 72), externalId="bed-7", capture=False)
        assert call("PUT", path, json={"labelName": "blue"}).status_code == 404
    with open_endpoint(home, capture_fraction=0.999) as call:  # nor after a restart
        assert call("PUT", path, json={"labelName": "blue"}).status_code == 404
        call.invoke("1", make_ambiguous_png(73), externalId="bed-7")
        assert call("PUT", path, json={"labelName": "blue"}).status_code == 202
    first, last = CaptureStore(home / "projects" / "1").all()
    assert first.annotation is not None
    assert last.annotation is not None
    assert first.annotation[0]["value"] == {"choices": ["red"]}
    assert last.annotation[0]["value"] == {"choices": ["blue"]}


def test_an_image_that_is_sent_again_is_still_the_captured_one(home: Path) -> None:
    with open_endpoint(home, capture_fraction=0.999) as call:
        for _ in range(2):
            call.invoke("1", make_ambiguous_png(71), externalId="bed-7")
        path = ANNOTATION.format("bed-7")
        assert call("PUT", path, json={"labelName": "red"}).status_code == 202
    (capture,) = CaptureStore(home / "projects" / "1").all()
    assert capture.annotation is not None


def test_control_characters_are_removed_from_external_ids(home: Path) -> None:
    with open_endpoint(home, capture_fraction=0.999) as call:
        answer = call.invoke("1", make_ambiguous_png(75), externalId="bed\x00\n7")
        call.wait_for_post_response()
        path = ANNOTATION.format("bed%007")
        assert call("PUT", path, json={"labelName": "blue"}).status_code == 202
    assert answer.json()["externalId"] == "bed7"
    assert captured(home) == [("random", "bed7")]


def test_old_captures_of_all_functions_are_removed_at_the_start(home: Path) -> None:
    captures = CaptureStore(home / "projects" / "2")
    captures.add(Capture("old", 1.0, "random", "v1"), b"image")
    captures.add(Capture("new", time.time(), "random", "v1"), b"image")
    (home / "projects" / "2" / "captures" / "bad.json").write_text('{"id": 7')
    with open_endpoint(home, capture_retention_days=1.0) as call:
        call.wait(lambda: [c.id for c in captures.all()] == ["new"])
    assert not (home / "projects" / "2" / "captures" / "old.jpg").exists()


def test_captured_files_get_the_suffix_of_their_format(home: Path) -> None:
    image = Image.open(io.BytesIO(make_ambiguous_png(76))).convert("RGB")
    suffixes = {}
    for number, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF")):
        file = io.BytesIO()
        image.rotate(90 * number).save(file, kind)
        shown, suffixes[kind] = make_displayable(file.getvalue(), 1_000_000)
        assert shown == file.getvalue() or kind in ("AVIF", "TIFF")
        with Image.open(io.BytesIO(shown)) as stored:
            assert stored.format == (kind if shown == file.getvalue() else "JPEG")
    assert suffixes == {
        "JPEG": ".jpg",
        "PNG": ".png",
        "WEBP": ".webp",
        "GIF": ".gif",
        "BMP": ".bmp",
        "AVIF": ".jpg",
        "TIFF": ".jpg",
    }


def test_drift_is_that_of_the_live_version_only(home: Path) -> None:
    from tests.support.published_models import publish_version, train_colour_model

    with open_endpoint(home) as call:
        old = call.invoke("1", make_png("red", 1)).json()["version"]
        new = publish_version(home, "1", *train_colour_model())
        functions = call.app.state.parts.functions
        call.wait(lambda: functions.live_version("1").card.version == new)
        for number in range(60):
            call.invoke("1", make_png("red", number), capture=False)
        call.wait_for_post_response()
        before = call("GET", "/v1/functions/1").json()["drift"]
        call.invoke("1", make_png("red", 1), version=old)
        call.wait_for_post_response()
        after = call("GET", "/v1/functions/1").json()["drift"]
    assert before["n"] == 60
    assert before["labels"] is not None
    assert after == before


def test_a_drift_figure_that_is_unknown_is_removed_from_the_metrics() -> None:
    metrics = EndpointMetrics()
    metrics.set_drift("1", DriftFigures(60, labels=0.5, images=None))
    assert b'prelabel_drift{function="1",of="labels"} 0.5' in metrics.render_text()
    metrics.set_drift("1", DriftFigures(1, labels=None, images=None))
    assert b"prelabel_drift{" not in metrics.render_text()


def test_a_drift_warning_is_logged_once_although_its_figure_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drift = DriftMonitor("1", DriftReference({}, np.zeros((0, 4), np.float32)))
    drift._outlier_flags.extend([True] * 100)
    shares = []
    for _ in range(3):
        drift._outlier_flags.extend([False] * 30)
        shares.append(drift.drift_figures().images)
    assert len(set(shares)) == 3
    assert len(caplog.records) == 1


def test_memory_of_waiting_predictions_is_limited(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.endpoint import post_response

    monkeypatch.setattr(post_response, "MAX_PENDING_BYTES", 1000)
    with open_endpoint(home, capture_fraction=0.999) as call:
        call.invoke("1", make_ambiguous_png(77))
        call.wait_for_post_response()
        assert "prelabel_not_considered_total 1.0" in call("GET", "/metrics").text
    assert captured(home) == []
