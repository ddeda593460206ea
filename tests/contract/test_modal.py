"""The Modal app, deployed by the real client to a local imitation of Modal's control plane, which
runs it in the real container entrypoint with only the files that were mounted.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import modal
import modal.exception
import pytest

from backend.domain import ImageSize, Region
from backend.errors import (
    DetectorError,
    OverBudgetError,
    RoundCancelledError,
    RoundError,
    UsageError,
)
from backend.inference.detections import RegionSample
from backend.runtime.compute import LocalCompute
from backend.server.source_archive import PROJECT_FILES, SOURCE_FOLDERS
from backend.settings import Settings
from backend.store.api_keys import ApiKeyStore
from backend.store.captures import Capture, CaptureStore
from backend.store.files import write_json
from backend.store.image_copies import ImageCopies
from backend.store.usage import UsageCounters
from backend.training.detector import DetectorTrainingJob
from backend.training.head import ChoiceExamples, HeadTrainingJob
from backend.vision.detection.network import SMALL_NETWORK_FILE, load_base_network
from backend.vision.detection.trained_detector import TrainedDetector
from backend.vision.encoders.builtin import BuiltinEncoder
from serverless.container_image import REPOSITORY_ROOT
from serverless.modal_client import ModalClient
from serverless.modal_compute import ModalCompute
from serverless.modal_errors import JobFailedError, ModalUnreachableError
from serverless.monthly_budget import estimate_dollars
from serverless.serialization import DamagedResultError, HeadOrder
from serverless.volume_sync import VolumeSync
from tests.support.drawings import make_drawing
from tests.support.harness import make_png, wait_until
from tests.support.modal_plane import ControlPlane, read_tree
from tests.support.published_models import (
    BOXES_CONTROL,
    COLOUR_CONTROL,
    DETECTOR_INPUT_SIZE,
    make_image,
    publish_version,
    train_colour_model,
    train_detector_model,
)

ENVIRONMENT = {
    "PRELABEL_ENCODER": "builtin",
    "PRELABEL_DETECTOR": "builtin",
    "PRELABEL_USER": "team",
    "PRELABEL_PASSWORD": "open sesame",
    "LABEL_STUDIO_URL": "http://127.0.0.1:9",
    "LABEL_STUDIO_API_KEY": "a secret token",
}
ALERT = """
[[alert]]
function = "1"
label = "red"
url = "https://example.com/hook"
secret_env = "{secret}"
"""
LICENSE_FOLDERS = ("/root/prelabel-source/", "/root/label_config/")
"""What the license requires to be offered beside the source."""
SOURCE_SUFFIXES = (".py", ".yaml", ".html", ".css", ".js", ".svg")


@pytest.fixture(scope="module")
def variables() -> Iterator[None]:
    """The environment of the machine that deploys."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def plane(variables: None) -> Iterator[ControlPlane]:
    with ControlPlane(environment={"OMP_NUM_THREADS": "1"}) as plane:
        plane.deploy("-m", "serverless.app", cwd=REPOSITORY_ROOT)
        with plane.use_in_process():
            yield plane


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", compute="modal", encoder="builtin", detector="builtin")


@pytest.fixture
def compute(plane: ControlPlane, settings: Settings) -> ModalCompute:
    return ModalCompute(settings, ModalClient("prelabel"))


def job(home: Path, images: int = 8, seconds: float = 6.0, **more: Any) -> DetectorTrainingJob:
    """Return a job with drawn discs and squares, and local copies of the images as in a round."""
    files = ImageCopies(home / "pictures")
    samples = []
    for number in range(images):
        drawn = make_drawing(number, labels=("disc", "square"))
        digest = f"{number:064x}"
        places = tuple(Region(thing.label, *thing.box) for thing in drawn.objects)
        size = ImageSize(*drawn.image.size)
        image = drawn.image

        def read(digest: str = digest, image: Any = image) -> Any:
            return files.get(digest) or files.put(digest, image)

        samples.append(RegionSample(number, read, size, places, digest=digest))
    asked = DetectorTrainingJob(
        control=BOXES_CONTROL,
        samples=samples,
        base_network=load_base_network(SMALL_NETWORK_FILE),
        previous=None,
        input_size=DETECTOR_INPUT_SIZE,
        max_seconds=seconds,
        seed=0,
        load_runner=lambda network, size, key: pytest.fail("no local inference is expected"),
        prompts=None,
        report=lambda done, of: None,
        cancelled=lambda: False,
        base_setting="builtin",
    )
    return replace(asked, **more)


def orders(plane: ControlPlane) -> set[str]:
    """Return the ids of the orders on the jobs volume."""
    names = read_tree(plane.volume_folder("prelabel-jobs"))
    return {name.split("/")[1] for name in names if name.startswith("orders/")}


def served(plane: ControlPlane, function: str) -> int:
    """Return how many inputs the containers of a function have served."""
    return sum(c.served for c in plane.containers if c.function == function)


def test_importing_the_app_needs_no_token_and_no_network(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MODAL_")}
    code = "import serverless.app as a; print(a.app.name)"
    env = {**clean, "MODAL_CONFIG_PATH": str(tmp_path / "none"), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "prelabel", done.stderr


def test_deployed_functions_have_limits_and_only_the_mounts_and_secrets_they_need(
    plane: ControlPlane,
) -> None:
    functions = plane.functions()
    assert set(functions) == {
        "train",
        "BatchInference.*",
        "EndpointModels.*",
        "endpoint",
        "backend",
    }
    assert {name: (f.timeout, f.max_containers) for name, f in functions.items()} == {
        "train": (3600, 2),
        "BatchInference.*": (600, 8),
        "EndpointModels.*": (120, 10),
        "endpoint": (180, 1),
        "backend": (600, 1),
    }
    for function in functions.values():
        assert function.startup_timeout >= 300
        assert "/root/backend/domain.py" in function.files
        assert "/root/serverless/modal_jobs.py" in function.files
        assert "/root/backend/vision/detection/small.yaml" in function.files
        assert not any("tests/" in file for file in function.files)
    train, batch, models = (functions[n] for n in ("train", "BatchInference.*", "EndpointModels.*"))
    assert train.gpus == batch.gpus == ("L4", "T4")
    assert train.timeout == 3600
    assert train.retries == 2
    assert batch.memory_snapshot
    assert models.memory_snapshot
    assert all(function.block_network for function in (train, batch, models))
    for gpu in (train, batch):
        assert gpu.min_containers == 0
        assert gpu.scaledown_window == 60
        assert gpu.secrets == ()
    backend, endpoint = functions["backend"], functions["endpoint"]
    assert (backend.min_containers, backend.max_containers, backend.gpus) == (1, 1, ())
    assert (endpoint.max_containers, endpoint.max_inputs, endpoint.web) == (1, 200, "asgi")
    assert backend.web == "asgi"
    secret = ("LABEL_STUDIO_API_KEY", "PRELABEL_PASSWORD", "PRELABEL_USER")
    assert [s.keys for s in backend.secrets] == [secret]
    assert "LABEL_STUDIO_API_KEY" not in str(endpoint.secrets)
    mounts = {
        (function.name.split(".")[0], mount.path): (mount.name, mount.read_only)
        for function in functions.values()
        for mount in function.volumes
    }
    assert mounts == {
        ("train", "/jobs"): ("prelabel-jobs", False),
        ("BatchInference", "/jobs"): ("prelabel-jobs", True),
        ("EndpointModels", "/data"): ("prelabel-home", True),
        ("endpoint", "/data"): ("prelabel-home", True),
        ("endpoint", "/kept"): ("prelabel-kept", False),
        ("backend", "/data"): ("prelabel-home", False),
        ("backend", "/kept"): ("prelabel-kept", True),
    }


def test_layers_that_change_often_come_last_in_every_image(plane: ControlPlane) -> None:
    for function in plane.functions().values():
        system, libraries, listed, packages, weights, variables = function.image
        assert system.commands[0].startswith("FROM python:3.11-slim")
        installed = ("RUN apt-get update", "RUN apt-get install -y libglib2.0-0")
        assert libraries.commands == ("FROM base", *installed)
        assert listed.commands == ("FROM base", "COPY . /")
        assert listed.copied_files == ("/overrides.txt",)
        assert len(packages.installs) == 1
        assert weights.commands == ("FROM base", "RUN mkdir -p /weights")
        assert dict(line[4:].split("=", 1) for line in variables.commands[1:]) == {
            "PRELABEL_ENCODER": "builtin",
            "PRELABEL_DETECTOR": "builtin",
            "PRELABEL_HOME": "/data",
            "PRELABEL_KEPT": "/kept",
            "PRELABEL_WEIGHTS": "/weights",
            "PRELABEL_COMPUTE": "modal",
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "HF_HUB_OFFLINE": "1",
            "YOLO_OFFLINE": "true",
        }
        assert all(line.startswith("ENV ") for line in variables.commands[1:])
        # the source is in no layer: it is mounted when a container starts
        copied = {file for layer in function.image for file in layer.copied_files}
        mounted = set(function.files) - copied
        assert {f"/root/prelabel-source/{name}" for name in PROJECT_FILES} <= mounted
        assert "/root/label_config/binary.xml" in mounted
        assert all(f.endswith(SOURCE_SUFFIXES) or f.startswith(LICENSE_FOLDERS) for f in mounted)
        for layer in function.image:
            text = " ".join(layer.commands)
            assert "a secret token" not in text
            assert "open sesame" not in text
            assert layer.secrets == ()


def test_the_requirements_of_the_image_can_be_resolved(plane: ControlPlane, tmp_path: Path) -> None:
    from serverless.container_image import dependency_overrides

    listed = tmp_path / "overrides.txt"
    listed.write_text("\n".join(dependency_overrides()))
    layers = [layer for function in plane.functions().values() for layer in function.image]
    ours = {line for layer in layers for line in layer.installs if "--override" in line}
    assert len(ours) == 1  # all functions install the same
    words = shlex.split(ours.pop().partition("pip install")[2])
    packages = words[words.index("/overrides.txt") + 1 :]
    assert any(package.startswith("torch") for package in packages)
    assert not any(package.startswith("label-studio-ml") for package in packages)
    command = [shutil.which("uv") or "uv", "pip", "compile", "--quiet", "-", "-o", os.devnull]
    done = subprocess.run(
        [*command, "--override", str(listed), "--python-version", "3.11"],
        input="\n".join(packages),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_image_downloads_weights_for_the_settings_that_need_them() -> None:
    from serverless.container_image import weight_download_commands

    text = "\n".join(weight_download_commands("auto", "auto"))
    assert "ViT-B-32-256" in text
    assert "/weights/yolo26n.pt" in text
    assert weight_download_commands("builtin", "builtin") == ["mkdir -p /weights"]
    assert "/weights/yolo11n-cls.pt" in weight_download_commands("yolo11n-cls.pt", "builtin")[-1]


def test_a_detector_is_trained_on_modal_with_progress_and_cost(
    compute: ModalCompute, settings: Settings, plane: ControlPlane
) -> None:
    progress: list[tuple[int, int]] = []
    before = orders(plane)
    detector, spent = compute.train_detector(
        job(settings.home, report=lambda done, of: progress.append((done, of)))
    )
    assert isinstance(detector, TrainedDetector)
    assert detector.class_mapping.labels == ("disc", "square")
    assert detector.class_mapping.learned
    assert progress
    assert progress[-1][1] > 1
    assert (spent.where, spent.device) == ("modal", "CPU")
    assert spent.seconds > 1
    assert spent.dollars > 0
    spending = compute._budget.spent_this_month()
    assert spending == pytest.approx(spent.dollars)
    names = [name for name in read_tree(plane.volume_folder("prelabel-jobs")) if "partial" in name]
    assert names == []
    kinds = [call.kind for call in plane.volume_calls if call.volume == "prelabel-jobs"]
    assert "commit" in kinds
    # an equal order is not trained again; another detector to start from makes another order
    (order,) = orders(plane) - before
    again, same = compute.train_detector(job(settings.home))
    assert isinstance(again, TrainedDetector)
    assert again.key == detector.key
    assert same == spent
    assert compute._budget.spent_this_month() == spending
    assert order in orders(plane)
    warm, _ = compute.train_detector(job(settings.home, previous=detector))
    assert isinstance(warm, TrainedDetector)
    assert warm.key != detector.key
    assert compute._budget.spent_this_month() > spending
    # a downloaded result is removed after the next one
    assert order not in orders(plane)
    assert len(orders(plane) - before) == 1


def test_a_damaged_result_is_discarded(
    compute: ModalCompute, settings: Settings, plane: ControlPlane
) -> None:
    download = compute._client.volume.download

    def tampered(path: str) -> bytes:
        content = download(path)
        return content[:-1] + b"!" if path.endswith("finder.json") else content

    compute._client.volume.download = tampered  # type: ignore[method-assign]
    with pytest.raises(DamagedResultError, match=r"finder\.json"):
        compute.train_detector(job(settings.home, images=6))


def test_a_training_can_be_cancelled(
    compute: ModalCompute, settings: Settings, plane: ControlPlane
) -> None:
    asked = job(settings.home, images=12, seconds=600.0)
    stop = threading.Event()
    working: list[str] = []

    def begun(done: int, of: int) -> None:
        working.extend(c.id for c in plane.containers if c.function == "train" and c.running)
        stop.set()

    began = time.monotonic()
    with pytest.raises(RoundCancelledError, match="live version stays"):
        compute.train_detector(replace(asked, cancelled=stop.is_set, report=begun))
    assert time.monotonic() - began < 60
    assert list((settings.home / "modal-calls").glob("*")) == []
    assert len(working) == 1
    wait_until("its container ends", lambda: _ended(plane, working[0]))
    assert compute._budget.spent_this_month() > 0  # the seconds until then


def test_a_killed_container_is_replaced_and_the_order_trained(
    compute: ModalCompute, settings: Settings, plane: ControlPlane
) -> None:
    killed: list[float] = []

    def report(done: int, of: int) -> None:
        if not killed:
            killed.append(time.monotonic())
            plane.kill_containers("train")

    detector, _ = compute.train_detector(job(settings.home, images=10, report=report))
    assert killed
    assert isinstance(detector, TrainedDetector)


def test_a_call_that_outlives_its_caller_is_resumed(
    compute: ModalCompute,
    settings: Settings,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(BaseException):
        """As if the process had ended."""

    def gone(done: int, of: int) -> None:
        raise Gone

    asked = job(settings.home, images=9)
    before, sent = served(plane, "train"), time.monotonic()
    with pytest.raises(Gone):
        compute.train_detector(replace(asked, report=gone))
    (note,) = (settings.home / "modal-calls").glob("*.json")
    call = json.loads(note.read_text())["call"]
    assert call.startswith("fc-")
    counted = compute._budget.spent_this_month()
    assert counted > 0
    with monkeypatch.context() as cut_off:

        def unreachable(*_: object) -> None:
            raise modal.exception.ConnectionError("no way there")

        cut_off.setattr(modal.FunctionCall, "from_id", unreachable)
        with pytest.raises(ModalUnreachableError, match="no data is lost"):
            compute.train_detector(asked)
    assert json.loads(note.read_text())["call"] == call
    detector, spent = compute.train_detector(asked)
    assert isinstance(detector, TrainedDetector)
    assert served(plane, "train") - before == 1
    assert not note.exists()
    usage = UsageCounters(settings.home / "spending.json")
    seconds = usage.current("seconds L4") + usage.current("seconds CPU")
    assert (
        spent.seconds - 0.1 <= seconds <= time.monotonic() - sent
    )  # and no second is counted twice


def test_an_error_that_a_retry_would_repeat_is_reported_once_and_its_cost_counted(
    compute: ModalCompute, settings: Settings, plane: ControlPlane
) -> None:
    before = served(plane, "train")
    write_json(settings.home / "modal-calls" / "long-since.json", {"call": "fc-0", "at": 0.0})
    asked = job(settings.home, images=7, base_setting="no-such-thing.txt")
    with pytest.raises(DetectorError, match="There is no detector"):
        compute.train_detector(asked)
    assert served(plane, "train") - before == 1
    assert UsageCounters(settings.home / "spending.json").current("seconds CPU") > 0
    assert list((settings.home / "modal-calls").glob("*")) == []


def test_a_failing_training_is_tried_three_times_and_all_its_cost_counted(
    compute: ModalCompute, settings: Settings, plane: ControlPlane
) -> None:
    before = served(plane, "train")
    order = HeadOrder(
        control=COLOUR_CONTROL, tasks=(), answers=(), asked=(), logit_scale=1, logit_bias=0, seed=0
    )
    with pytest.raises(JobFailedError, match=r"FileNotFoundError: .*arrays\.npz"):
        compute._run_order(order, {}, {})
    assert served(plane, "train") - before == 3
    assert plane.container_logs("train").count("FileNotFoundError: ") >= 3
    assert compute._budget.spent_this_month() >= estimate_dollars(
        "L4", 3.0
    )  # two waits and three attempts
    assert list((settings.home / "modal-calls").glob("*")) == []


def test_a_head_of_many_images_is_fitted_on_modal_and_stale_files_are_removed(
    compute: ModalCompute, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from serverless import modal_compute

    monkeypatch.setattr(modal_compute, "MIN_REMOTE_SAMPLES", 10)
    names = [COLOUR_CONTROL.label_names[i % 2] for i in range(24)]
    vectors = BuiltinEncoder().encode_images([make_image(n, i) for i, n in enumerate(names)])
    answers = tuple(frozenset([name]) for name in names)
    asked = (frozenset(COLOUR_CONTROL.label_names),) * 24
    examples = ChoiceExamples(tuple(range(24)), vectors, answers, asked, np.arange(24) % 5 == 0)
    fit = HeadTrainingJob(COLOUR_CONTROL, examples, vectors, None, 1.0, 0.0, None, 0)
    volume = plane.volume_folder("prelabel-jobs")
    aged = {"orders/a/order.json": 8, "orders/b/order.json": 6, "networks/c/done.json": 31}
    aged |= {"networks/d/done.json": 29, "pictures/ff/ff1": 91, "pictures/ff/ff2": 89}
    for name, days in aged.items():
        (volume / name).parent.mkdir(parents=True, exist_ok=True)
        (volume / name).write_bytes(b"{}")
        os.utime(volume / name, (time.time() - days * 86_400,) * 2)
    remote, spent = compute.train_head(fit)
    left = {name for name in aged if (volume / name).exists()}
    assert left == {"orders/b/order.json", "networks/d/done.json", "pictures/ff/ff2"}
    local, _ = LocalCompute().train_head(fit)
    assert remote is not None
    assert local is not None
    assert spent.where == "modal"
    np.testing.assert_allclose(
        remote.probabilities(vectors), local.probabilities(vectors), atol=1e-4
    )


def test_inference_in_several_containers_gives_the_same_result_as_here(
    compute: ModalCompute, settings: Settings, plane: ControlPlane
) -> None:
    import numpy as np

    images = [make_drawing(number).image for number in range(70)]
    encoder = compute.encoder("builtin", lambda: pytest.fail("not here"))
    here = BuiltinEncoder()
    assert (encoder.id, encoder.dim) == (here.id, here.dim)
    np.testing.assert_allclose(encoder.encode_images(images), here.encode_images(images), atol=1e-5)
    embedding = compute._budget.spent_this_month()
    assert embedding > 0
    detector = train_detector_model(BOXES_CONTROL).detectors["things"]
    assert isinstance(detector, TrainedDetector)
    local = detector.load_runner(detector.network, DETECTOR_INPUT_SIZE, detector.key)
    remote = compute.network_runner(
        detector.network, DETECTOR_INPUT_SIZE, detector.key, lambda: local
    )
    compute._client.volume.list_names("networks").add(
        detector.key
    )  # as if it had been removed from the volume since
    found, expected = remote.detect(images, 0.2), local.detect(images, 0.2)

    def shared() -> bool:  # one container may finish before the next has started
        remote.detect(images, 0.2)
        return (
            len([c for c in plane.containers if c.function == "BatchInference.*" and c.served]) > 1
        )

    wait_until("several containers at work", shared)
    assert [len(one) for one in found] == pytest.approx([len(one) for one in expected], abs=1)
    assert sum(map(len, found)) == pytest.approx(sum(map(len, expected)), rel=0.1)
    looking = compute._budget.spent_this_month()
    assert looking > embedding
    assert remote.detect(images[:3], 0.2)[0].boxes.tolist() == expected[0].boxes.tolist()
    assert compute._budget.spent_this_month() == looking  # inference for a few images is local


def test_nothing_is_trained_beyond_the_monthly_budget(
    compute: ModalCompute, settings: Settings
) -> None:
    compute._budget.record_usage("L4", 3600 * 30)
    with pytest.raises(OverBudgetError, match="PRELABEL_MONTHLY_BUDGET is 20"):
        compute.train_detector(job(settings.home))
    with pytest.raises(OverBudgetError, match="Predictions continue"):
        compute.check_budget()


def test_the_gateway_serves_uploaded_versions_and_its_captures_are_downloaded(
    plane: ControlPlane, settings: Settings
) -> None:
    model, reference = train_colour_model()
    version = publish_version(settings.home, "1", model, reference)
    _, key = ApiKeyStore(settings.home).create("app")
    sharing = VolumeSync(settings.home, "prelabel")
    assert sharing.upload_live_versions() == ["1"]
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=plane.web_url("endpoint"), timeout=60, trust_env=False) as http:
        assert http.get("/v1/functions").status_code == 401
        listed = _until(lambda: http.get("/v1/functions", headers=headers).json())
        assert [(f["id"], f["version"]) for f in listed] == [("1", version)]
        path = "/v1/functions/1/invoke"
        answer = http.post(path, content=make_png("red", 1), headers=headers).json()
        assert (answer["labelName"], answer["version"]) == ("red", version)
        texts = [base64.b64encode(make_png("blue", i)).decode() for i in range(40)]
        many = http.post(f"{path}-batch", json={"data": texts}, headers=headers).json()
        assert [row["labelName"] for row in many["results"]] == ["blue"] * 40
        large = http.post(path, content=_large(), headers=headers)
        assert large.status_code == 200, large.text
        # a version that is promoted later goes live, and no request fails meanwhile
        after = publish_version(settings.home, "1", *train_colour_model(images=16))
        sharing.upload_live_versions()
        versions = set()

        def newest() -> bool:
            response = http.post(path, content=make_png("red", 2), headers=headers)
            assert response.status_code == 200, response.text
            versions.add(response.json()["version"])
            return after in versions

        _until(newest, 60)
        # corrected images are stored on a volume of their own, and downloaded from it
        body = {"labelName": "blue", "data": texts[0]}
        path = "/v1/functions/1/samples/bed/annotation"
        put = http.put(path, json=body, headers=headers)
        assert put.status_code == 202, put.text
        captures = CaptureStore(settings.home / "projects/1")

        def came_back() -> list[Capture]:
            sharing.download_captures()
            return [capture for capture in captures.all() if capture.external == "bed"]

        (corrected,) = _until(came_back, 60)
        assert corrected.why == "corrected"
        assert captures.image_path(corrected).read_bytes() == make_png("blue", 0)
        assert sharing.download_captures() == 0
        # a changed answer is downloaded too, even when this machine's clock is ahead
        file = captures.image_path(corrected).with_suffix(".json")
        ahead = time.time() + 3600
        os.utime(file, (ahead, ahead))
        put = http.put(path, json={**body, "labelName": "red"}, headers=headers)
        assert put.status_code == 202, put.text
        _until(lambda: came_back()[0].annotation != corrected.annotation, 60)
    # a capture that is a task is removed after some days and not downloaded again
    (changed,) = came_back()
    assert sharing.remove_imported_captures(0.0) == 0
    captures.record_import(changed, 7, has_annotation=True)
    assert sharing.remove_imported_captures(1.0) == 0
    assert sharing.remove_imported_captures(0.0) == 1
    assert came_back() == []
    assert captures.delete_stale_imports(time.time() - 60) == 0
    assert captures.delete_stale_imports(time.time() + 60) == 1
    assert "token" not in " ".join(read_tree(plane.volume_folder("prelabel-home")))


def test_the_backend_on_modal_serves_label_studio_with_authentication(plane: ControlPlane) -> None:
    with httpx.Client(base_url=plane.web_url("backend"), timeout=60, trust_env=False) as http:
        assert http.get("/health").status_code == 401
        auth = ("team", "open sesame")
        assert http.get("/health", auth=auth).json()["status"] == "UP"
        body = {"project": "77.1700000000", "hostname": "http://127.0.0.1:9", "schema": "<View/>"}
        known = http.post("/setup", json=body, auth=auth)
        assert known.status_code == 200, known.text
        assert _until(lambda: http.get("/api/projects/77", auth=auth).json())["number"] == 77
    _until(
        lambda: any(
            "projects/77" in name for name in read_tree(plane.volume_folder("prelabel-home"))
        ),
        30,
    )


def test_a_forgotten_local_source_is_caught(tmp_path: Path, variables: None) -> None:
    for name in SOURCE_FOLDERS:
        shutil.copytree(
            REPOSITORY_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in PROJECT_FILES:
        shutil.copy(REPOSITORY_ROOT / name, tmp_path)
    file = tmp_path / "serverless" / "container_image.py"
    file.write_text(file.read_text().replace('("backend", "serverless")', '("serverless",)'))
    with ControlPlane() as plane:
        plane.deploy("-m", "serverless.app", cwd=tmp_path)
        with plane.use_in_process(), pytest.raises(RoundError, match="backend"):
            ModalClient("prelabel").encoder_properties("builtin")


def test_deploy_prints_the_next_steps(tmp_path: Path, variables: None) -> None:
    publish_version(tmp_path, "1", train_colour_model()[0])
    rules = tmp_path / "alerts.toml"
    rules.write_text(ALERT.format(secret="GREENHOUSE_SECRET"))
    with ControlPlane() as plane:
        env = {**os.environ, **plane.client_environment(), "PRELABEL_HOME": str(tmp_path)}
        env |= {"LABEL_STUDIO_URL": "https://label.example.com", "GREENHOUSE_SECRET": "sesame"}

        def prelabel(*words: str, **changed: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "backend.cli", *words]
            changed_env = {**env, **changed}
            done = subprocess.run(
                command, env=changed_env, capture_output=True, text=True, timeout=120
            )
            assert "Traceback" not in done.stderr
            return done

        done = prelabel("deploy")
        assert done.returncode == 0, done.stderr
        assert plane.function("backend").web_url in done.stdout
        assert f"{plane.function('endpoint').web_url}/v1/functions" in done.stdout
        assert "Connect Model" in done.stdout
        assert [s.keys for s in plane.function("endpoint").secrets] == [("GREENHOUSE_SECRET",)]
        shared = plane.volume_folder("prelabel-home")
        assert any("projects/1/live.json" in name for name in read_tree(shared))
        # keys are uploaded even when trainings are local
        made = json.loads(prelabel("keys", "create", "app", "--json").stdout)
        assert made["shared"]
        (key,) = json.loads((shared / "keys.json").read_text())
        assert (key["id"], key["revoked"]) == (made["id"], "")
        rules.write_text(
            ALERT.format(secret="NEW_SECRET")
        )  # not on Modal before another deployment
        failed = prelabel("keys", "revoke", made["id"], MODAL_TOKEN_ID="")
        assert failed.returncode == 1
        assert "endpoint on Modal still accepts it" in failed.stderr
        assert not json.loads((shared / "keys.json").read_text())[0]["revoked"]
        done = prelabel("keys", "revoke", made["id"])
        assert done.returncode == 0, done.stderr
        assert "is revoked." in done.stdout
        assert "keeps its previous alert rules" in done.stderr
        assert json.loads((shared / "keys.json").read_text())[0]["revoked"]
        assert "GREENHOUSE_SECRET" in (shared / "alerts.toml").read_text()
        rules.unlink()
        for name, value, says in (
            ("PRELABEL_USER", "", "PRELABEL_USER"),
            ("LABEL_STUDIO_API_KEY", "", "LABEL_STUDIO_API_KEY"),
            ("LABEL_STUDIO_URL", "", r"now http://localhost:8080"),
            ("PRELABEL_TRAIN_SECONDS", "7200", "3300 seconds"),
            ("MODAL_TOKEN_ID", "", "modal token new"),
        ):
            both = {"PRELABEL_PASSWORD": ""} if name == "PRELABEL_USER" else {}
            done = prelabel("deploy", "--check", **{name: value}, **both)
            assert done.returncode == 2, done.stdout + done.stderr
            assert says in done.stderr


def test_a_missing_app_is_reported_with_the_command_that_deploys_it(
    variables: None, settings: Settings
) -> None:
    with (
        ControlPlane() as plane,
        plane.use_in_process(),
        pytest.raises(RoundError, match="prelabel deploy"),
    ):
        ModalClient("prelabel").encoder_properties("builtin")


def test_a_missing_token_is_reported_with_the_command_that_creates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MODAL_")}
    code = "from serverless.modal_client import ModalClient; ModalClient('prelabel')"
    env = {**clean, "MODAL_CONFIG_PATH": str(tmp_path / "none"), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert UsageError.__name__ in done.stderr
    assert "modal token new" in done.stderr


def _until(check: Any, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.3)
    raise AssertionError("the check never became true")


def _ended(plane: ControlPlane, container: str) -> bool:
    return [c.exit_code for c in plane.containers if c.id == container] == [-9]


def _large() -> bytes:
    """Return a PNG of 3 MB."""
    import io

    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert len(file.getvalue()) > 2_900_000
    return file.getvalue()
