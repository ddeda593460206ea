"""Set-ups that were broken on purpose, each named by ``prelabel doctor`` with what mends it."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend.doctor.check import CheckResult
from backend.doctor.doctor import Doctor
from backend.doctor.machine_checks import free_bytes
from backend.label_studio.local_server import LabelStudioServer, find_free_port
from backend.settings import read_settings
from backend.store.versions import VersionStore
from backend.store.webhook_secret import load_webhook_secret
from tests.support.cli import run_prelabel
from tests.support.harness import (
    BackendServer,
    Json,
    LabelStudioUser,
    MakeStudio,
    create_personal_token,
    make_data_uri,
    make_png,
    wait_until,
)

TEXT = '<View><Image name="image" value="$image"/><TextArea name="note" toName="image"/></View>'
BOXES = """<View><Image name="image" value="$image"/>
<RectangleLabels name="things" toName="image"><Label value="disc"/></RectangleLabels></View>"""
SWITCHES = ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")
USER = {"PRELABEL_USER": "me", "PRELABEL_PASSWORD": "open sesame"}


@dataclass
class Bench:
    """A set-up that works: Label Studio, a backend, a project that learned something.

    Attributes:
        studio: Label Studio.
        lab: somebody who works in it.
        backend: that is connected.
        project: the project's number.
        make_studio: starts another Label Studio.
        folder: for what a case needs.
        secrets: that no line may show.
    """

    studio: LabelStudioServer
    lab: LabelStudioUser
    backend: BackendServer
    project: int
    make_studio: MakeStudio
    folder: Path
    secrets: list[str]

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.backend.environment)

    @property
    def live(self) -> Path:
        """The folder of the live version."""
        versions = VersionStore(self.backend.home / "projects" / str(self.project))
        return versions.path(versions.live() or "")

    def empty_home(self) -> dict[str, str]:
        home = self.folder / "empty"
        shutil.rmtree(home, ignore_errors=True)
        return {"PRELABEL_HOME": str(home)}


@pytest.fixture(scope="module")
def bench(
    studio: LabelStudioServer, make_studio: MakeStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("doctor")
    lab = LabelStudioUser(studio.url, studio.token)
    given = {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
        "PRELABEL_RETRAIN_AFTER": "1000",
    }
    backend = BackendServer(folder / "home", given)
    backend.start()
    project = lab.create_project(title="to be examined")
    tasks = lab.import_colours(project, 4)
    upload(lab, project)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in tasks:
        lab.submit_annotation(task)
    backend.train_and_wait(project, len(tasks))
    wait_until("followed", lambda: lab.fetch_project(project)["sampling"] == "Uncertainty sampling")
    yield Bench(studio, lab, backend, project, make_studio, folder, [studio.token])
    backend.stop()
    lab.close()


def upload(lab: LabelStudioUser, project: int) -> None:
    """An image as a person uploads it."""
    file = {"file": ("one.png", make_png("red", 99), "image/png")}
    lab.request("POST", f"/api/projects/{project}/import", files=file)


Change = dict[str, Any]
"""Variables of the environment, and beside them ``project``, ``backend`` and ``free``."""
Break = Callable[[Bench], AbstractContextManager[Change]]


@dataclass(frozen=True)
class Case:
    """A set-up that is broken.

    Attributes:
        name: what is wrong.
        breaks: breaks it, tells what else the doctor is given, and mends it.
        fails: the checks that fail, no others do.
        line: the check that names it.
        seen: a part of what it says.
        cure: a part of what mends it.
    """

    name: str
    breaks: Break
    fails: frozenset[str]
    line: str
    seen: str
    cure: str


CASES: list[Case] = []


def case(
    name: str, line: str, seen: str, cure: str, also: tuple[str, ...] = ()
) -> Callable[[Callable[[Bench], Iterator[Change]]], None]:
    """Add a row to the table."""

    def add(breaks: Callable[[Bench], Iterator[Change]]) -> None:
        fails = frozenset({line, *also})
        CASES.append(Case(name, contextmanager(breaks), fails, line, seen, cure))

    return add


# -- Label Studio ---------------------------------------------------------------------------


@case("nothing listens", "Label Studio", "nothing answers", "set LABEL_STUDIO_URL")
def _(bench: Bench) -> Iterator[Change]:
    yield {"LABEL_STUDIO_URL": f"http://127.0.0.1:{find_free_port()}"}


@case("another program's address", "Label Studio", "an ML backend", "run `prelabel login`")
def _(bench: Bench) -> Iterator[Change]:
    yield {"LABEL_STUDIO_URL": bench.backend.url}


@case("a host nobody knows", "Label Studio", "nothing answers", "set LABEL_STUDIO_URL")
def _(bench: Bench) -> Iterator[Change]:
    yield {"LABEL_STUDIO_URL": "http://nowhere.invalid:8080"}


@case("it hangs", "Label Studio", "no answer within 5 s", "start Label Studio")
def _(bench: Bench) -> Iterator[Change]:
    with socket.socket() as deaf_and_dumb:
        deaf_and_dumb.bind(("127.0.0.1", 0))
        deaf_and_dumb.listen()
        yield {"LABEL_STUDIO_URL": f"http://127.0.0.1:{deaf_and_dumb.getsockname()[1]}"}


@case("no token", "token", "there is no token", "Personal Access Token")
def _(bench: Bench) -> Iterator[Change]:
    yield {"LABEL_STUDIO_API_KEY": "", **bench.empty_home()}


@case("a wrong token", "token", "legacy token is refused", "Access Token")
def _(bench: Bench) -> Iterator[Change]:
    bench.secrets.append("a" * 40)
    yield {"LABEL_STUDIO_API_KEY": "a" * 40}


@case("no token at all", "token", "it is not a Label Studio token", "Access Token")
def _(bench: Bench) -> Iterator[Change]:
    yield {"LABEL_STUDIO_API_KEY": "copied from somewhere else"}


@case("a token that ended", "token", "expired on 2020-09-13", "Access Token")
def _(bench: Bench) -> Iterator[Change]:
    ended = web_token({"exp": 1_600_000_000, "token_type": "refresh"})
    bench.secrets.append(ended)
    yield {"LABEL_STUDIO_API_KEY": ended}


@case("an old Label Studio", "Label Studio's version", "1.12.1 is older", "pip install", ("token",))
def _(bench: Bench) -> Iterator[Change]:
    with answering({"/api/version/": {"release": "1.12.1"}}) as url:
        yield {"LABEL_STUDIO_URL": url}


@case("an unknown one", "Label Studio's version", "'nightly'", "pip install", ("token",))
def _(bench: Bench) -> Iterator[Change]:
    with answering({"/api/version/": {"release": "nightly"}}) as url:
        yield {"LABEL_STUDIO_URL": url}


# -- the way between both -------------------------------------------------------------------


@case("the backend does not run", "connection", "does not reach", "prelabel serve", ("backend",))
def _(bench: Bench) -> Iterator[Change]:
    bench.backend.stop()
    yield {}
    bench.backend.start()
    bench.backend.wait_for_round(bench.project)


@case(
    "it moved to another address",
    *("connection", "does not reach", "set the URL to"),
    also=("backend", "model version", "sampling"),
)
def _(bench: Bench) -> Iterator[Change]:
    project = bench.lab.create_project()
    bench.lab.import_colours(project, 1)
    with answering({"/health": {"status": "UP", "model_class": "Prelabel"}, "/setup": {}}) as url:
        bench.lab.connect_backend(project, url)
    yield {"project": str(project)}


@case(
    "no backend is connected",
    *("connection", "no ML backend", "prelabel connect"),
    also=("sampling",),
)
def _(bench: Bench) -> Iterator[Change]:
    project = bench.lab.create_project()
    bench.lab.import_colours(project, 1)
    yield {"project": str(project)}


@case("a second backend is gone", "connection", "a second ML backend at", "Delete", ("webhook",))
def _(bench: Bench) -> Iterator[Change]:
    project = bench.lab.create_project()
    bench.lab.import_colours(project, 1)
    bench.lab.connect_backend(project, bench.backend.url)
    bench.backend.wait_for_round(project)
    wait_until(
        "followed", lambda: bench.lab.fetch_project(project)["sampling"] == "Uncertainty sampling"
    )
    with answering({"/health": {"status": "UP", "model_class": "Prelabel"}, "/setup": {}}) as url:
        bench.lab.connect_backend(project, url)
    yield {"project": str(project)}


@case("a second webhook leads nowhere", "webhook", "nothing answers there", "delete it")
def _(bench: Bench) -> Iterator[Change]:
    stray = {"url": f"http://127.0.0.1:{find_free_port()}/webhook", "project": bench.project}
    hook = bench.lab.request("POST", "/api/webhooks/", json=stray | {"send_for_all_actions": True})
    yield {}
    bench.lab.request("DELETE", f"/api/webhooks/{hook['id']}/")


@case("the webhook is gone", "webhook", "there is none for", "Add Webhook")
def _(bench: Bench) -> Iterator[Change]:
    hook = the_webhook(bench)
    bench.lab.request("DELETE", f"/api/webhooks/{hook['id']}/")
    yield {}
    again = {key: hook[key] for key in ("url", "project", "send_for_all_actions", "is_active")}
    bench.lab.request("POST", "/api/webhooks/", json=again)


@case("the webhook is off", "webhook", "turned off", "turn it on")
def _(bench: Bench) -> Iterator[Change]:
    with deaf(bench):
        yield {}


@case("the webhook tells of nothing", "webhook", "does not send label events", "send all events")
def _(bench: Bench) -> Iterator[Change]:
    hook = f"/api/webhooks/{the_webhook(bench)['id']}/"
    few = {"send_for_all_actions": False, "actions": ["PROJECT_UPDATED"]}
    bench.lab.request("PATCH", hook, json=few)
    yield {}
    bench.lab.request("PATCH", hook, json={"send_for_all_actions": True, "actions": []})


@case("a name without a dot is connected", "webhook", "there is none for", "a name with a dot")
def _(bench: Bench) -> Iterator[Change]:
    project = bench.lab.create_project()
    bench.lab.import_colours(project, 1)
    dotless = bench.backend.url.replace("127.0.0.1", str(0x7F000001))  # that address, as a number
    bench.lab.connect_backend(project, dotless)
    wait_until(
        "followed", lambda: bench.lab.fetch_project(project)["sampling"] == "Uncertainty sampling"
    )
    yield {"project": str(project)}


@case("the webhook comes without its secret", "webhook", "refuses it", "`prelabel serve` prints")
def _(bench: Bench) -> Iterator[Change]:
    guarded = BackendServer(bench.folder / "guarded", {**bench.environment, **USER})
    guarded.environment["PRELABEL_HOME"] = str(guarded.home)
    guarded.http.auth = (USER["PRELABEL_USER"], USER["PRELABEL_PASSWORD"])
    guarded.start()
    try:
        project = bench.lab.create_project(title="guarded")
        bench.lab.import_colours(project, 2)
        auth = {"auth_method": "BASIC_AUTH", "basic_auth_user": USER["PRELABEL_USER"]}
        auth["basic_auth_pass"] = USER["PRELABEL_PASSWORD"]
        bench.lab.connect_backend(project, guarded.url, **auth)
        guarded.wait_for_round(project)
        bench.secrets += [load_webhook_secret(guarded.home), USER["PRELABEL_PASSWORD"]]
        yield {**guarded.environment, "project": str(project), "backend": guarded.url}
    finally:
        guarded.stop()


# -- the project ----------------------------------------------------------------------------


@case("there is no such project", "project", "has no project 987654", "prelabel doctor NUMBER")
def _(bench: Bench) -> Iterator[Change]:
    yield {"project": "987654"}


@case(
    "nothing in the labeling config is served",
    *("labeling config", "no control that Prelabel serves", "RectangleLabels"),
    also=("connection", "sampling"),
)
def _(bench: Bench) -> Iterator[Change]:
    yield {"project": str(bench.lab.create_project(TEXT))}


@case(
    "the project is at no version",
    *("model version", "uses no version", "prelabel train"),
    also=("webhook",),
)
def _(bench: Bench) -> Iterator[Change]:
    with changed(bench, model_version=""):
        yield {}


@case(
    "the project is at the connection's title",
    *("model version", "uses Prelabel", "prelabel train"),
    also=("webhook",),
)
def _(bench: Bench) -> Iterator[Change]:
    with changed(bench, model_version="Prelabel"):
        yield {}


@case(
    "the sampling is wrong",
    *("sampling", "uses Sequential sampling", "Uncertainty sampling"),
    also=("webhook",),
)
def _(bench: Bench) -> Iterator[Change]:
    with changed(bench, sampling="Sequential sampling"):
        yield {}


@case(
    "predictions are not shown",
    *("pre-annotation", "do not see predictions", "Use predictions to prelabel tasks"),
    also=("model version", "webhook"),  # Label Studio forgets the version with it
)
def _(bench: Bench) -> Iterator[Change]:
    with changed(bench, show_collab_predictions=False, model_version=""):
        yield {}


@contextmanager
def broken_tab(bench: Bench, project: int, title: str) -> Iterator[None]:
    """A tab with a filter that the API takes and the frontend cannot load."""
    item = {"filter": "filter:tasks:id", "operator": "in_list", "type": "List", "value": [1]}
    data = {"title": title, "filters": {"conjunction": "and", "items": [item]}}
    body = {"project": project, "data": data}
    tab = bench.lab.request("POST", "/api/dm/views/", json=body)
    yield
    bench.lab.request("DELETE", f"/api/dm/views/{tab['id']}/")


@case(
    "Prelabel's tab is broken",
    *("Data Manager", "“in_list”", "run `prelabel train"),
    also=("connection", "sampling"),
)
def _(bench: Bench) -> Iterator[Change]:
    project = bench.lab.create_project()  # not connected: a backend repairs it by itself
    bench.lab.import_colours(project, 1)
    with broken_tab(bench, project, "Prelabel: similar"):
        yield {"project": str(project)}


@case("somebody's tab is broken", "Data Manager", "the tab “Mine”", "send DELETE to")
def _(bench: Bench) -> Iterator[Change]:
    with broken_tab(bench, bench.project, "Mine"):
        yield {}


@case("an uploaded image is gone", "image (upload)", "image not found", "import it again")
def _(bench: Bench) -> Iterator[Change]:
    (file,) = (bench.studio.folder / "media" / "upload" / str(bench.project)).glob("*.png")
    away = file.with_suffix(".away")
    file.rename(away)
    yield {}
    away.rename(file)


@case("a bucket that no storage leads to", "image (s3)", "s3:bucket", "Cloud Storage", ("webhook",))
def _(bench: Bench) -> Iterator[Change]:
    with shows(bench, "s3://bucket/leaf.png"):
        yield {}


@case(
    "local files are not served",
    "image (local files)",
    "local-files",
    "LOCAL_FILES_SERVING",
    ("webhook",),
)
def _(bench: Bench) -> Iterator[Change]:
    with shows(bench, "/data/local-files/?d=leaf.png"):
        yield {}


@case(
    "an image on a private host",
    "image (web)",
    "private",
    "PRELABEL_ALLOWED_HOSTS=127.0.0.1",
    ("webhook",),
)
def _(bench: Bench) -> Iterator[Change]:
    with shows(bench, f"http://127.0.0.1:{find_free_port()}/leaf.png"):
        yield {}


@case("an image is damaged", "image (data URI)", "damaged image", "replace the image")
def _(bench: Bench) -> Iterator[Change]:
    project = bench.lab.create_project()
    bench.lab.import_images(project, [make_data_uri(make_png("red", 0)[:300])])
    bench.lab.connect_backend(project, bench.backend.url)
    wait_until("looked at", lambda: bench.backend.project(project).get("left_out"))
    wait_until("quiet", lambda: bench.backend.project(project)["round"]["state"] == "idle")
    bench.lab.request(
        "PATCH", f"/api/projects/{project}/", json={"sampling": "Uncertainty sampling"}
    )
    yield {"project": str(project)}


# -- this machine ---------------------------------------------------------------------------


@case("the weights are damaged", "weights", "is damaged", "prelabel rollback")
def _(bench: Bench) -> Iterator[Change]:
    (file,) = bench.live.glob("head-0/*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    yield {}
    file.write_bytes(whole)


@case("a file is damaged", "files", "acceptance.json is damaged", "restore the file")
def _(bench: Bench) -> Iterator[Change]:
    file = bench.backend.home / "projects" / str(bench.project) / "acceptance.json"
    file.write_text("{")
    yield {}
    file.unlink()


@case("the disk is full", "disk", "12 MB are free", "PRELABEL_HOME to a larger disk")
def _(bench: Bench) -> Iterator[Change]:
    yield {"free": lambda folder: 12_000_000}


@case(
    "the home cannot be written",
    *("home", "/proc/nothing", "set PRELABEL_HOME"),
    also=("disk", "model version"),
)
def _(bench: Bench) -> Iterator[Change]:
    yield {"PRELABEL_HOME": "/proc/nothing"}


@case("the encoder's weights are gone", "encoder", "no file /nowhere", "PRELABEL_ENCODER=auto")
def _(bench: Bench) -> Iterator[Change]:
    yield {"PRELABEL_ENCODER": "/nowhere/yolo11n-cls.pt"}


@case("the encoder is misspelt", "encoder", "published weights of", "PRELABEL_ENCODER=auto")
def _(bench: Bench) -> Iterator[Change]:
    yield {"PRELABEL_ENCODER": "ViT-B-32/nonsens"}


@case("another home folder", "model version", "does not contain the project", "set PRELABEL_HOME")
def _(bench: Bench) -> Iterator[Change]:
    yield bench.empty_home()


@case(
    "the detector's weights are gone",
    *("detector", "no detector '/nowhere", "PRELABEL_DETECTOR=auto"),
    also=("connection", "sampling"),
)
def _(bench: Bench) -> Iterator[Change]:
    project = bench.lab.create_project(BOXES)
    yield {"PRELABEL_DETECTOR": "/nowhere/yolo26n.pt", "project": str(project)}


@case("Modal without a token", "Modal", "needs a token", "modal token new")
def _(bench: Bench) -> Iterator[Change]:
    yield {"PRELABEL_COMPUTE": "modal"}


# -- another Label Studio, which protects itself ---------------------------------------------


@pytest.fixture(scope="module")
def guarded_studio(bench: Bench) -> tuple[LabelStudioServer, str]:
    """It calls no private addresses and takes personal access tokens only; and one of these."""
    studio = bench.make_studio(**dict.fromkeys(SWITCHES, "true"))
    return studio, create_personal_token(studio)


def test_both_switches_against_private_addresses_are_named(
    bench: Bench, guarded_studio: tuple[LabelStudioServer, str]
) -> None:
    studio, token = guarded_studio
    env = {**bench.environment, "LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": token}
    lines = Doctor(read_settings(env | bench.empty_home()), bench.backend.url).run()
    found = {line.check: line for line in lines if line.state == "bad"}
    assert set(found) == set(SWITCHES), lines
    for switch in SWITCHES:
        assert all(f"{name}=false" in found[switch].cure for name in SWITCHES)
    (let_in,) = [line for line in lines if line.check == "token"]
    assert "personal access token of" in let_in.seen
    assert "valid until" in let_in.seen
    assert not any(token in str(line) for line in lines)


def test_a_legacy_token_where_these_are_turned_off_is_named(
    bench: Bench, guarded_studio: tuple[LabelStudioServer, str]
) -> None:
    studio, _ = guarded_studio
    changes = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    lines = Doctor(read_settings(bench.environment | changes), bench.backend.url).run()
    (found,) = [line for line in lines if line.state == "bad"]
    assert (found.check, found.seen) == (
        "token",
        "legacy tokens are turned off in this Label Studio",
    )
    assert "personal access token" in found.cure


# -- the tests ------------------------------------------------------------------------------


def examine(bench: Bench, change: Mapping[str, Any]) -> list[CheckResult]:
    """What the doctor says of the bench, with changes."""
    given = dict(change)
    project = given.pop("project", str(bench.project))
    backend = given.pop("backend", bench.backend.url)
    free = given.pop("free", free_bytes)
    settings = read_settings(bench.environment | given)
    return Doctor(settings, backend, measure_free=free).run(project)


def test_a_set_up_that_works_is_called_well_and_left_as_it_was(bench: Bench) -> None:
    version = bench.lab.fetch_project(bench.project)["model_version"]

    def is_cleaned() -> bool:
        predictions = bench.lab.list_predictions(bench.project)
        return {prediction["model_version"] for prediction in predictions} == {version}

    wait_until("predictions of retired versions are removed", is_cleaned)
    before = bench.lab.fetch_project(bench.project), len(bench.lab.list_predictions(bench.project))
    lines = examine(bench, {})
    assert [str(line) for line in lines if line.state == "bad"] == []
    good = {line.check for line in lines if line.state == "good"}
    assert good == {
        *("home", "disk", "Label Studio", "Label Studio's version", "token", "project"),
        *("labeling config", *SWITCHES, "backend", "connection", "webhook", "model version"),
        *("sampling", "pre-annotation", "Data Manager", "files", "weights", "encoder"),
        *("image (data URI)", "image (upload)", "coordinates"),
    }
    assert (
        bench.lab.fetch_project(bench.project),
        len(bench.lab.list_predictions(bench.project)),
    ) == before


@pytest.mark.parametrize("broken", CASES, ids=[case.name for case in CASES])
def test_what_is_broken_is_named_with_what_mends_it(bench: Bench, broken: Case) -> None:
    with broken.breaks(bench) as change:
        lines = examine(bench, change)
    failed = [line for line in lines if line.state == "bad"]
    assert {line.check for line in failed} == broken.fails, [str(line) for line in failed]
    (named,) = [line for line in failed if line.check == broken.line]
    assert broken.seen in named.seen
    assert broken.cure in named.cure
    assert all(line.cure for line in failed)
    text = "\n".join(map(str, lines))
    assert not any(secret in text for secret in bench.secrets)


def test_the_command_tells_line_by_line_and_by_its_exit_status(bench: Bench) -> None:
    asked = ("doctor", str(bench.project), "--backend", bench.backend.url)
    well = run_prelabel(*asked, "--json", **bench.environment)
    assert well.returncode == 0, well.stderr
    figures = json.loads(well.stdout)
    assert figures["ok"] is True
    assert {line["state"] for line in figures["lines"]} <= {"good", "open"}
    with deaf(bench):
        ill = run_prelabel(*asked, **bench.environment)
    assert ill.returncode == 1
    assert f"✗ [{bench.project}] webhook: it is turned off" in ill.stdout
    assert "    → in Label Studio, project → Settings → Webhooks" in ill.stdout
    assert "1 of" in ill.stdout
    assert "Traceback" not in ill.stderr
    assert bench.studio.token not in ill.stdout + ill.stderr + well.stdout + well.stderr


def test_the_command_that_is_told_mends_the_sampling_and_the_version(bench: Bench) -> None:
    with changed(bench, sampling="Sequential sampling", model_version=""):
        done = run_prelabel("train", str(bench.project), **bench.environment)
        assert done.returncode == 0, done.stderr
        failed = {line.check for line in examine(bench, {}) if line.state == "bad"}
        assert failed == {"webhook"}


# -- ways to break things -------------------------------------------------------------------


def the_webhook(bench: Bench) -> Json:
    (hook,) = bench.lab.request("GET", "/api/webhooks/", params={"project": bench.project})
    return dict(hook)


@contextmanager
def deaf(bench: Bench) -> Iterator[None]:
    """The backend hears of nothing."""
    hook = f"/api/webhooks/{the_webhook(bench)['id']}/"
    bench.lab.request("PATCH", hook, json={"is_active": False})
    yield
    bench.lab.request("PATCH", hook, json={"is_active": True})


@contextmanager
def changed(bench: Bench, **fields: str | bool) -> Iterator[None]:
    """The project is changed behind the backend's back, which would mend it at once."""
    project = f"/api/projects/{bench.project}/"
    before = bench.lab.request("GET", project)
    with deaf(bench):
        bench.lab.request("PATCH", project, json=fields)
        yield
        bench.lab.request("PATCH", project, json={name: before[name] for name in fields})


@contextmanager
def shows(bench: Bench, address: str) -> Iterator[None]:
    """A task of the project shows this image."""
    with deaf(bench):
        (task,) = bench.lab.import_images(bench.project, [address])
        yield
        bench.lab.request("DELETE", f"/api/tasks/{task}/")


@contextmanager
def answering(answers: Mapping[str, Json]) -> Iterator[str]:
    """A small server that knows a few addresses; all others are refused."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = self.path.partition("?")[0]
            content = json.dumps(answers.get(known, {"detail": "refused"})).encode()
            self.send_response(200 if known in answers else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def web_token(claims: Json) -> str:
    """A JSON web token that nobody signed."""
    parts = ({"alg": "HS256", "typ": "JWT"}, claims, {"signed": "by nobody"})
    rows = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    return ".".join(row.rstrip("=") for row in rows)
