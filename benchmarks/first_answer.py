"""Measure the first answer of a restarted backend, and of a new endpoint process.

    uv run python -m benchmarks.first_answer --weights yolo11n.pt [--baseline REVISION]

One version for boxes (the weights at 640 pixels) and one for choices (the encoder that is installed
with Prelabel) are served, with an empty cache of converted networks and then with the filled one.
``/predict`` has 5 tasks with photos of 640 × 480, and is sent as soon as the server answers. The
stages are measured in a process of their own that runs them one by one. With ``--baseline``, an
earlier revision is measured in the same run: it takes turns with the current one. CPU seconds are
those of all processes, and are comparable on a busy machine.
"""

from __future__ import annotations

import argparse
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
from PIL import Image

from backend.card_records import ModelSource
from backend.domain import Control, Label
from backend.inference.model import Model
from backend.label_studio.local_server import ServerProcess, find_free_port
from demo.scenarios import PlantScenario
from tests.support.published_models import publish_version

TASK_COUNT = 5
IMAGE_SIZE = (640, 480)
START_TIMEOUT_SECONDS = 300.0
DETECTOR_INPUT_PX = 640
SERVICES = ("/predict", "endpoint")
CACHES = ("cold", "warm")
BOX_LABELS = ("person", "bird", "cat", "dog", "potted plant", "vase")
CHOICE_LABELS = ("healthy", "wilting")
LABEL_CONFIGS = {
    "boxes": '<View><Image name="image" value="$image"/><RectangleLabels name="box" '
    f'toName="image">{"".join(f"<Label value={name!r}/>" for name in BOX_LABELS)}'
    "</RectangleLabels></View>",
    "choices": '<View><Image name="image" value="$image"/><Choices name="plant" toName="image">'
    f"{''.join(f'<Choice value={name!r}/>' for name in CHOICE_LABELS)}</Choices></View>",
}
PROJECTS = {"boxes": "1", "choices": "2"}


class Seconds(NamedTuple):
    """Wall-clock and CPU seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class FirstAnswer:
    """The first answer of a process.

    Attributes:
        start: from the start of the process until it accepts requests.
        answer: from the request to the answer.
        cpu: CPU seconds of the server and its prediction worker until the answer.
    """

    start: float
    answer: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="weights of the detector")
    parser.add_argument("--baseline", default="", help="an earlier revision to compare with")
    parser.add_argument("--stages", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stages:
        measure_stages(*options.stages)
        return
    if not options.weights:
        parser.error("--weights is needed")
    with tempfile.TemporaryDirectory() as name, checked_out(options.baseline) as baseline:
        folder = Path(name)
        trees = {"before": baseline} if baseline else {}
        trees["now"] = Path(__file__).parents[1]
        images = draw_images()
        for kind, make_model in (("boxes", make_box_model), ("choices", make_choice_model)):
            model, encoder = make_model(options.weights.resolve())
            homes = {tree: folder / f"{kind}-{tree}" for tree in trees}
            for home in homes.values():
                publish_version(home, PROJECTS[kind], model, encoder=encoder)
            print_answers(kind, trees, homes, images)
            print_stages(kind, trees, homes)


@contextmanager
def checked_out(revision: str) -> Iterator[Path | None]:
    """Check an earlier revision out into a temporary folder; nothing without a revision."""
    if not revision:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        git = ["git", "-C", str(Path(__file__).parents[1]), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def draw_images() -> list[bytes]:
    contents = []
    for scene in PlantScenario().draw_images(TASK_COUNT, 0):
        file = io.BytesIO()
        scene.image.resize(IMAGE_SIZE).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    return contents


def make_box_model(weights: Path) -> tuple[Model, ModelSource]:
    from backend.vision.detection.network import load_base_network, match_names
    from backend.vision.detection.trained_detector import (
        ClassMapping,
        TrainedDetector,
        hash_network,
    )

    network = load_base_network(weights)
    classes = {c: i for i, c in match_names(network.spec.classes, BOX_LABELS).items()}
    mapping = ClassMapping(False, BOX_LABELS, classes, {}, DETECTOR_INPUT_PX)

    def refuse(*network: object) -> None:
        raise AssertionError("the detector only runs in the servers")

    detector = TrainedDetector(network, mapping, hash_network(network), refuse)  # type: ignore[arg-type]
    control = Control("box", "image", "image", tuple(map(Label, BOX_LABELS)), "boxes")
    return Model({}, {"box": detector}, controls=(control,)), ModelSource()


def make_choice_model(weights: Path) -> tuple[Model, ModelSource]:
    import numpy as np

    from backend.vision.encoders.base import INSTALLED_ENCODER
    from backend.vision.encoders.load import load_encoder
    from backend.vision.heads.head import fit_head

    encoder = load_encoder(INSTALLED_ENCODER, log=lambda line: None)
    drawn = [*PlantScenario().draw_images(24, 1)]
    vectors = encoder.encode_images([scene.image for scene in drawn])
    is_healthy = [str(scene.truth) == CHOICE_LABELS[0] for scene in drawn]
    targets = np.array([[healthy, not healthy] for healthy in is_healthy], dtype=np.float32)
    head = fit_head(vectors, targets, labels=CHOICE_LABELS, multiple=False)
    control = Control("plant", "image", "image", tuple(map(Label, CHOICE_LABELS)))
    source = ModelSource(encoder.name, encoder.id, encoder.name)
    return Model({"plant": head}, controls=(control,)), source


def print_answers(
    kind: str, trees: dict[str, Path], homes: dict[str, Path], images: Sequence[bytes]
) -> None:
    print(f"\n{kind}: seconds to the first answer")
    names = "".join(f"{f'{tree}: start':>15}{'answer':>9}{'CPU':>7}" for tree in trees)
    print(f"{'service':<12}{'cache':<7}{names}", flush=True)
    for service in SERVICES:
        for cache in CACHES:
            cells = []
            for tree, home in homes.items():
                if cache == "cold":
                    shutil.rmtree(home / "weights", ignore_errors=True)
                measure = measure_predict if service == "/predict" else measure_invoke
                figures = measure(trees[tree], home, kind, images)
                cells.append(f"{figures.start:>15.1f}{figures.answer:>9.1f}{figures.cpu:>7.1f}")
            print(f"{service:<12}{cache:<7}{''.join(cells)}", flush=True)


def measure_predict(tree: Path, home: Path, kind: str, images: Sequence[bytes]) -> FirstAnswer:
    """Measure ``prelabel serve`` and the first ``/predict`` with new images."""
    shutil.rmtree(home / "pictures", ignore_errors=True)
    for file in home.glob("embeddings.sqlite*"):
        file.unlink()
    with label_studio_standin(PROJECTS[kind], images) as studio:
        settings = {"LABEL_STUDIO_URL": studio, "LABEL_STUDIO_API_KEY": "key"}
        settings |= {"PRELABEL_ENCODER": "efficientnet-lite0", "PRELABEL_POLL": "3600"}
        tasks = [
            {"id": number, "data": {"image": f"{studio}/images/{number}"}}
            for number in range(len(images))
        ]
        config = LABEL_CONFIGS[kind]
        body = {"tasks": tasks, "project": PROJECTS[kind], "label_config": config}

        def request(url: str) -> httpx.Response:
            return httpx.post(f"{url}/predict", json=body, timeout=300, trust_env=False)

        figures, response = measure_server(tree, home, "serve", settings, request)
    results = response["results"]
    assert len(results) == len(images)
    assert kind == "boxes" or all(len(row["result"]) == 1 for row in results)
    return figures


def measure_invoke(tree: Path, home: Path, kind: str, images: Sequence[bytes]) -> FirstAnswer:
    """Measure ``prelabel endpoint`` and the first invocation."""

    def request(url: str) -> httpx.Response:
        url = f"{url}/v1/functions/{PROJECTS[kind]}/invoke"
        return httpx.post(url, content=images[0], timeout=300, trust_env=False)

    figures, response = measure_server(tree, home, "endpoint", {}, request)
    assert response["function"] == PROJECTS[kind]
    return figures


def measure_server(
    tree: Path,
    home: Path,
    command: str,
    settings: Mapping[str, str],
    request: Callable[[str], httpx.Response],
) -> tuple[FirstAnswer, Any]:
    """Return the figures of a server, and its response as JSON."""
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {"PRELABEL_HOME": str(home), **source_environment(tree), **settings}
    program = [sys.executable, "-m", "backend.cli", command, "--port", str(port)]
    started_at = time.perf_counter()
    server = ServerProcess(program, environment, home.parent / f"{home.name}.log")
    try:
        server.wait_until_ready(f"{url}/health", START_TIMEOUT_SECONDS)
        ready_at = time.perf_counter()
        response = request(url)
        answered_at = time.perf_counter()
        assert response.status_code == 200, response.text
        cpu = sum(cpu_seconds(process) for process in prediction_processes(server.pid))
    finally:
        server.stop()
    figures = FirstAnswer(ready_at - started_at, answered_at - ready_at, cpu)
    return figures, response.json()


def source_environment(tree: Path) -> dict[str, str]:
    """Return the variables with which Python and its child processes import a source tree."""
    return {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


def prediction_processes(pid: int) -> list[psutil.Process]:
    """Return a server and its prediction worker, whose last argument is its niceness."""
    from backend.scheduler.worker_pool import PREDICTION_NICENESS

    server = psutil.Process(pid)
    workers = server.children(recursive=True)
    return [server, *(w for w in workers if w.cmdline()[-1:] == [str(PREDICTION_NICENESS)])]


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def label_studio_standin(project: str, images: Sequence[bytes]) -> Iterator[str]:
    """Serve the images and a project; the round after the start fails, as it has no counts."""
    row = {"id": int(project), "title": "first answers", "label_config": "<View/>"}
    answers = {f"/images/{i}": content for i, content in enumerate(images)}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path, json.dumps(row).encode())
            is_image = self.path in answers
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg" if is_image else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def print_stages(kind: str, trees: dict[str, Path], homes: dict[str, Path]) -> None:
    """Print the stages of a process with an empty and with a filled cache, one column each."""
    columns: dict[str, dict[str, Seconds]] = {}
    for cache in CACHES:
        for tree, home in homes.items():
            if cache == "cold":
                shutil.rmtree(home / "weights", ignore_errors=True)
            columns[f"{tree}, {cache}"] = run_stages(trees[tree], home, kind)
    print(f"\n{kind}: wall-clock / CPU seconds of each stage, in a process of its own")
    print(f"{'stage':<26}{''.join(f'{name:>18}' for name in columns)}")
    for stage in next(iter(columns.values())):
        cells = [
            f"{column[stage].wall:.2f} / {column[stage].cpu:.2f}" for column in columns.values()
        ]
        print(f"{stage:<26}{''.join(f'{cell:>18}' for cell in cells)}", flush=True)


def run_stages(tree: Path, home: Path, kind: str) -> dict[str, Seconds]:
    environment = {**os.environ, **source_environment(tree)}
    command = [sys.executable, __file__, "--stages", str(home), PROJECTS[kind]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return {stage: Seconds(*pair) for stage, pair in rows.items()}


def measure_stages(home: str, project: str) -> None:
    """Run the stages of a first prediction one by one; print their seconds as JSON."""
    rows: dict[str, Seconds] = {}
    last = Seconds(time.perf_counter(), time.process_time())

    def finish(stage: str) -> None:
        nonlocal last
        now = Seconds(time.perf_counter(), time.process_time())
        rows[stage] = Seconds(now.wall - last.wall, now.cpu - last.cpu)
        last = Seconds(time.perf_counter(), time.process_time())

    from backend.bootstrap import make_resources
    from backend.endpoint.functions import load_with_model, noise_image
    from backend.settings import Settings

    resources = make_resources(Settings(home=Path(home)))
    finish("import the worker")
    record = resources.projects.get(project)
    version = resources.versions(record).live()
    assert version is not None
    model = resources.model(record, version)
    finish("load the version")
    loaded = load_with_model(resources, record, version, model)
    finish("load the encoder")
    image = replace(noise_image(), image=Image.effect_noise(IMAGE_SIZE, 64).convert("RGB"))
    loaded.predict([image])
    finish("first image, with runtime")
    loaded.predict([image] * TASK_COUNT)
    finish(f"{TASK_COUNT} images")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
