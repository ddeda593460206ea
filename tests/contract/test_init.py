"""From a folder to a project that learns, and whether its question was the right one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.cli import backend_setup
from backend.cli.main import main
from backend.errors import PrelabelError, RoundError
from backend.label_studio.diagnostics import is_listening
from backend.label_studio.local_server import LOCAL_EMAIL, LabelStudioServer, find_free_port
from backend.learning.audit import is_audit
from backend.loop.observe import fetch_fingerprint
from backend.loop.publish.queue_settings import follow_version
from backend.onboarding.config_writer import write_config
from backend.onboarding.label_input import parse_labels
from backend.onboarding.labeling_job import LabelingJob
from backend.onboarding.managed_label_studio import LocalAccount, ManagedLabelStudio
from backend.runtime.connection import connect
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import read_settings
from backend.store.projects import ProjectStore
from backend.store.record_files import write_record
from backend.tools.advise import Adviser
from tests.support.cli import json_output, run_prelabel
from tests.support.detection_projects import make_box_region
from tests.support.drawings import make_drawing
from tests.support.harness import (
    BackendServer,
    Json,
    LabelStudioUser,
    MakeBackend,
    make_data_uri,
    make_png,
    wait_until,
)
from tests.support.terminal import Terminal

ROOT = Path(__file__).parents[2]
SORTED = ("--goal", "sort", "--place", "no", "--small", "no", "--several", "no")
AWKWARD = "a \"b\" = says 'c', <i>, x & y, größe, 苺, ]]>, "


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 images in two folders, one of them twice, and what else lies about."""
    folder = tmp_path / "my photos"
    for number in range(30):
        for colour in ("red", "blue"):
            (folder / colour).mkdir(parents=True, exist_ok=True)
            (folder / colour / f"Bild {number}.png").write_bytes(make_png(colour, number))
    (folder / "copy.png").write_bytes(make_png("red", 3))
    (folder / "notes.txt").write_text("not a picture")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (folder / "cut.png").write_bytes(make_png("blue", 1)[:200])
    return folder


def environment(studio: LabelStudioServer, home: Path) -> dict[str, str]:
    return {
        "PRELABEL_HOME": str(home),
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
    }


def killed_in_the_middle(arguments: list[str], env: Mapping[str, str], lab: LabelStudioUser) -> int:
    """Start it, and kill it as soon as some images are there; the project's number."""
    before = {p["id"] for p in lab.request("GET", "/api/projects/")["results"]}
    batch = "import backend.onboarding.image_import as i; i.UPLOAD_BATCH_SIZE = 7; "
    code = batch + f"import backend.cli.main as c; c.main({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env})

    def some() -> int:
        rows = lab.request("GET", "/api/projects/")["results"]
        return next((p["id"] for p in rows if p["id"] not in before and p["task_number"] > 7), 0)

    number = int(wait_until("some images are imported", some))
    process.send_signal(signal.SIGKILL)
    process.wait()
    return number


def test_a_folder_becomes_a_project_that_is_pre_annotated_after_a_few_labels(
    lab: LabelStudioUser, studio: LabelStudioServer, make_backend: MakeBackend, photos: Path
) -> None:
    backend = make_backend()
    env = backend.environment
    answers = ["init", str(photos), *SORTED, "--labels", "red, blue", "--backend", backend.url]
    number = killed_in_the_middle([*answers, "--no-browser"], env, lab)
    there = len(lab.list_tasks(number))
    assert 7 < there < 60, "it was killed in the middle"

    again = json_output(
        run_prelabel("init", str(photos), "--backend", backend.url, "--json", **env)
    )
    assert again["project"] == number
    assert again["imported"] + there == 60
    assert again["passed"].pop("already in the project") in (there, there + 1)
    assert again["passed"] == {
        "duplicate of another file in the folder": 1,
        "not an image (.txt)": 1,
        "not an image": 1,
        "damaged image": 1,
    }
    assert (again["connected"], again["preannotated"]) == (True, False)
    tasks = lab.list_tasks(number)
    assert len(tasks) == 60
    assert len({task["data"]["sha256"] for task in tasks}) == 60
    assert lab.fetch_project(number)["sampling"] == "Uncertainty sampling"

    kinds = {task["id"]: task["data"]["file"].partition("/")[0] for task in tasks}
    files = {task["data"]["file"] for task in tasks}
    assert "red/Bild 7.png" in files
    name = lab.audit_identity(number)  # what is drawn for the audit teaches nothing
    taught = [task for task in tasks if not is_audit(name, task["id"])]
    for task in taught[:2] + taught[-4:]:
        colour = "red" if kinds[task["id"]] in ("red", "copy.png") else "blue"
        answer(lab, task["id"], colour)
    state = backend.wait_for_round(number, 6)
    labels = {t: r[0]["value"]["choices"][0] for t, r in predictions(lab, number, state).items()}
    right = sum(kinds[task] in (label, "copy.png") for task, label in labels.items())
    assert right >= 0.9 * len(labels) >= 45


def answer(lab: LabelStudioUser, task: int, choice: str) -> None:
    result = [lab.make_choice_region([choice], "label")]
    lab.request("POST", f"/api/tasks/{task}/annotations/", json={"result": result})


def predictions(lab: LabelStudioUser, project: int, state: Json) -> dict[int, list[Json]]:
    rows = lab.request("GET", "/api/predictions/", params={"project": project})
    return {r["task"]: r["result"] for r in rows if r["model_version"] == state["version"]}


def test_without_a_backend_the_next_serve_connects_the_project(
    lab: LabelStudioUser, studio: LabelStudioServer, photos: Path, tmp_path: Path
) -> None:
    home = tmp_path / "later"
    backend = BackendServer(home, environment(studio, home))
    home.mkdir()
    done = run_prelabel(
        *(
            "init",
            str(photos),
            "--job",
            "points",
            "--labels",
            AWKWARD,
            "--json",
            "--title",
            "Später",
        ),
        *("--backend", backend.url),
        **backend.environment,
    )
    told = json_output(done)
    assert (told["title"], told["connected"]) == ("Später", False)
    assert f"prelabel serve --port {backend.port}" in done.stderr
    assert "Job: points. Labels and their keys: a \"b\" [1] (says 'c')" in done.stderr
    other = ("init", str(photos), "--job", "boxes", "--backend", backend.url)
    refused = run_prelabel(*other, **backend.environment)
    assert (refused.returncode, "another labeling config" in refused.stderr) == (2, True)
    backend.start()
    try:
        state = backend.wait_for_round(told["project"])
    finally:
        backend.stop()
    assert state["tasks"] == 60
    assert [c["labels"] for c in state["controls"]] == [
        ['a "b"', "<i>", "x & y", "größe", "苺", "]]>"]
    ]
    assert lab.request("GET", "/api/ml/", params={"project": told["project"]})


def test_a_prelabel_with_another_home_is_not_joined_unless_it_is_named(
    lab: LabelStudioUser,
    backend: BackendServer,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend_setup, "default_backend_url", lambda settings: backend.url)
    for name, value in {**backend.environment, "PRELABEL_HOME": str(tmp_path / "mine")}.items():
        monkeypatch.setenv(name, value)
    before = lab.request("GET", "/api/projects/")["count"]
    asked = ["init", str(photos), "--job", "points", "--labels", "a", "--debug", "--no-serve"]
    with pytest.raises(PrelabelError, match="Another Prelabel"):
        main(asked)
    assert lab.request("GET", "/api/projects/")["count"] == before


def test_a_person_is_asked_until_the_answers_fit_and_one_command_does_it_all(
    lab: LabelStudioUser, studio: LabelStudioServer, photos: Path, tmp_path: Path
) -> None:
    backend = BackendServer(tmp_path / "home", environment(studio, tmp_path / "home"))
    there = ["--backend", backend.url, "--no-browser"]
    terminal = Terminal(["init", *there], backend.environment)
    terminal.wait_for("In which folder")
    terminal.type(f"{photos}\n")
    terminal.wait_for("64 files")
    terminal.wait_for("Use the folder names as labels? blue, red")
    terminal.type("none\n")
    terminal.wait_for("What is the task?")
    terminal.type("buckets\n")
    terminal.wait_for("1 to 2:")
    terminal.type("9\n")
    terminal.wait_for("1 to 2:")
    terminal.type("1\n")
    terminal.wait_for("number of objects matter")
    terminal.type("n\n")
    terminal.wait_for("small part of a busy image")
    terminal.type("no\n")
    terminal.wait_for("Can an image have several labels")
    terminal.type("2\n")
    terminal.wait_for("Labels of whole images are enough")
    terminal.wait_for("[blue, red]")  # the subfolders are labels already
    terminal.type("\n")
    terminal.wait_for("Job: binary. Labels and their keys: blue [1], red [2].")
    terminal.wait_for("60 images imported")
    terminal.wait_for("1 × not an image (phone.heic)")
    terminal.wait_for(f"No backend runs at {backend.url}. Start it here")
    terminal.type("y\n")
    terminal.wait_for("Label here: " + studio.url)
    assert "Connect it" not in terminal.wait_for("is connected."), "it connects itself"
    terminal.wait_for("All 60 images are embedded.")
    terminal.type("\x03")
    assert terminal.wait_for_exit() == 130
    assert "Traceback" not in terminal.unread_output
    assert "died" not in terminal.unread_output

    again = Terminal(["init", str(photos), *there], backend.environment)
    again.wait_for("was created from this folder. Use it again?")
    again.type("\n")
    again.wait_for("0 images imported")
    again.wait_for("Start it here")
    again.type("n\n")
    again.wait_for(f"where no backend runs: start prelabel serve --port {backend.port}")
    assert again.wait_for_exit() == 0


def test_the_managed_label_studio_is_started_again_signed_in_and_stopped(
    migrated_studio: Path, photos: Path, tmp_path: Path
) -> None:
    """A first start takes a minute for the database, so the folder of the other tests is copied."""
    home = tmp_path / "home"
    own = ManagedLabelStudio(home)
    shutil.copytree(migrated_studio, own.folder)
    account = LocalAccount(find_free_port(), password="open sesame", token="0" * 40)
    write_record(own.account_file, account, private=True)
    settings = {"PRELABEL_HOME": str(home), "PRELABEL_ENCODER": "builtin"}
    backend = f"http://127.0.0.1:{find_free_port()}"
    command = ["init", str(photos), "--job", "points", "--labels", "a", "--import-labels", "none"]
    terminal = Terminal(
        [*command, "--start-label-studio", "--no-browser", "--backend", backend], settings
    )
    terminal.wait_for(f"Label Studio runs at {account.url}.")
    terminal.wait_for("This link signs you in until this command ends: ")
    link = terminal.wait_for("\r\n")
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:

        def is_shown() -> bool:
            # Label Studio answers 500 while the first round locks its SQLite database
            page = browser.get(link)
            return (page.status_code, page.url.path) == (200, "/projects/1/data")

        wait_until("the link shows the project, signed in", is_shown)
        assert browser.get(f"{account.url}/api/current-user/whoami").json()["email"] == LOCAL_EMAIL
        assert browser.get(link.replace("/projects", "x/projects")).status_code == 404
    terminal.wait_for("is connected.")  # the backend has the address and the token, too
    assert json_output(run_prelabel("status", "--json", **settings))["projects"]
    terminal.type("\x03")
    assert terminal.wait_for_exit() == 130
    assert not is_listening(account.url)
    for output in (terminal.unread_output, (own.folder / "studio.log").read_text()):
        assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ((), 2, "Answer with --goal sort or --goal find"),
        (("--goal", "sort"), 2, "Answer with --place yes or --place no"),
        (("--goal", "find", "--several", "yes"), 2, "--several has no effect"),
        (("--job", "boxes"), 2, "Answer with --labels"),
        (("--job", "boxes", "--mark", "box"), 2, "leave out --mark"),
        (("--job", "boxes", "--labels", "$price"), 2, "starts with $"),
        (("--job", "binary", "--labels", "a,b,c"), 2, "use --job one-of-many"),
        (("--title", "x"), 2, "3 to 50 characters"),
        (("--backend", "http://prelabel:9090"), 2, "a host name without a dot"),
        (("--backend", "127.0.0.1:9191"), 2, "needs http://"),
        (
            ("--job", "points", "--labels", "a", "--backend", "{studio}"),
            1,
            "Another service than Prelabel",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_made(
    lab: LabelStudioUser,
    studio: LabelStudioServer,
    photos: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    status: int,
    sentence: str,
) -> None:
    before = lab.request("GET", "/api/projects/")["count"]
    given = [one.format(studio=studio.url) for one in arguments]
    if "--backend" not in given:  # a person may have a backend at the default port
        given += ["--backend", f"http://127.0.0.1:{find_free_port()}"]
    done = run_prelabel("init", str(photos), *given, **environment(studio, tmp_path / "home"))
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert sentence in done.stderr
    assert lab.request("GET", "/api/projects/")["count"] == before


def test_existing_labels_are_imported_once(
    lab: LabelStudioUser,
    studio: LabelStudioServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The commands run in this process: each start of another one takes seconds."""

    def run(*arguments: str) -> Any:
        status = main(arguments)
        output = capsys.readouterr()
        return json.loads(output.out.splitlines()[-1]) if status == 0 else (status, output.err)

    for name, value in environment(studio, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "sorted"
    for number in range(4):
        for colour in ("red", "blue"):
            (folder / colour).mkdir(parents=True, exist_ok=True)
            (folder / colour / f"{number}.png").write_bytes(make_png(colour, number))
    unconnected = ("--backend", "http://127.0.0.1:9", "--json")
    command = ("init", str(folder), "--import-labels", "annotations", *unconnected)
    first = run(*command)
    assert first["job"] == "binary"
    assert (first["imported"], first["labels"]["imported"], first["labels"]["left_out"]) == (
        8,
        8,
        {},
    )
    again = run("init", str(folder), *unconnected)
    assert (again["project"], again["labels"]["imported"]) == (first["project"], 0)
    user = lab.request("GET", "/api/current-user/whoami")["id"]
    for task in lab.list_tasks(first["project"]):
        (annotation,) = lab.request("GET", f"/api/tasks/{task['id']}/annotations/")
        assert annotation["completed_by"] == user
        colour = task["data"]["file"].partition("/")[0]
        assert annotation["result"][0]["value"]["choices"] == [colour]

    number = lab.create_project(write_config(LabelingJob.BOXES, parse_labels("berry")))
    images = [make_data_uri(make_png("red", 1))]
    (by_content,) = lab.import_images(number, images)
    lab.request(
        "PATCH", f"/api/tasks/{by_content}/", json={"data": {"image": images[0], "file": "a.png"}}
    )
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "berry"}, {"id": 2, "name": "leaf"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [16, 32, 32, 16]},
            {"image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9]},
        ],
    }
    labels = tmp_path / "coco.json"
    labels.write_text(json.dumps(coco))
    importing = ("import", str(number), str(labels), "--as", "suggestions", "--json")
    status, message = run(*importing)
    assert (status, "lacks labels of COCO: leaf" in message) == (2, True)
    done = run(*importing, "--known-labels-only")
    assert (done["images"], done["imported"]) == (1, 1)
    assert run(*importing, "--known-labels-only")["images"] == 0
    (prediction,) = lab.request("GET", "/api/predictions/", params={"project": number})
    value = prediction["result"][0]["value"]
    assert [value[key] for key in ("x", "y", "width", "height")] == [25, 50, 50, 25]
    assert prediction["model_version"] == lab.fetch_project(number)["model_version"]

    record = ProjectStore(tmp_path / "home").register(studio.url, number)
    connection = connect(record, "", read_settings())
    connection.client.import_predictions(
        number, [{"task": by_content, "result": [], "score": 0.5, "model_version": "v0"}]
    )
    for is_trained, shown in ((False, "imported labels"), (True, "v0")):
        follow_version(
            connection,
            tmp_path,
            "v0",
            fetch_fingerprint(connection),
            is_trained=is_trained,
            keeps_settings=False,
        )
        assert lab.fetch_project(number)["model_version"] == shown


def test_folders_named_by_numbers_have_their_keys_in_label_studio(
    lab: LabelStudioUser, studio: LabelStudioServer, tmp_path: Path
) -> None:
    folder = tmp_path / "dice"
    for number, name in enumerate(("four", "one", "three")):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(make_png("red", number))
    command = ("init", str(folder), "--import-labels", "annotations", "--backend")
    env = environment(studio, tmp_path / "home")
    done = run_prelabel(*command, "http://127.0.0.1:9", "--json", **env)
    assert "Labels and their keys: one [1], three [3], four [4]." in done.stderr
    told = json_output(done)
    tasks_page = f"{studio.url}/projects/{told['project']}/data"
    assert told["url"] == tasks_page, "the queue is empty"
    assert f"Every image is labeled. See them here: {tasks_page}" in done.stderr
    config = lab.fetch_project(told["project"])["label_config"]
    assert re.findall(r'value="(\w+)" hotkey="(\d)"', config) == [
        ("one", "1"),
        ("three", "3"),
        ("four", "4"),
    ]


def test_label_studio_makes_a_project_of_every_ready_config_and_of_300_labels(
    lab: LabelStudioUser,
) -> None:
    files = sorted((ROOT / "label_config").glob("*.xml"))
    configs = [file.read_text(encoding="utf-8") for file in files]
    many = parse_labels(AWKWARD + ", ".join(f"kind {n}" for n in range(294)))
    configs += [write_config(job, many) for job in LabelingJob if job is not LabelingJob.BINARY]
    for config in configs:
        number = lab.create_project(config)
        assert lab.fetch_project(number)["label_config"].strip() == config.strip()
    assert len(many) == 300


def test_advice_is_measured_on_few_boxes(
    lab: LabelStudioUser, studio: LabelStudioServer, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    env = {
        **environment(studio, home),
        "PRELABEL_ENCODER": "builtin",
        "PRELABEL_DETECTOR": "builtin",
        "PRELABEL_DETECTOR_SIZE": "160",
    }
    pictures = [make_drawing(number, labels=("disc",), max_objects=3) for number in range(26)]
    project = lab.create_project(
        write_config(LabelingJob.BOXES, parse_labels("disc")), title="advised"
    )
    tasks = lab.import_images(project, [make_data_uri(picture.to_png()) for picture in pictures])
    record = ProjectStore(home).register(studio.url, project)
    session = ProjectSession(Resources(read_settings(env)), record)
    with pytest.raises(RoundError, match="Nothing is labeled yet: label about 12 images"):
        Adviser(session, 24, lambda line: None).advise()
    for task, picture in zip(tasks, pictures, strict=True):
        result = [{**make_box_region(thing), "from_name": "label"} for thing in picture.objects]
        lab.request("POST", f"/api/tasks/{task}/annotations/", json={"result": result})

    done = run_prelabel("advise", str(project), "--seconds", "24", "--json", **env)
    (told,) = json_output(done)["controls"]
    things = [len(picture.objects) for picture in pictures]
    assert told["things"]["things"] == sum(things)
    assert told["things"]["empty"] == things.count(0)
    assert 0.05 < told["things"]["side"]["median"] < 0.25
    assert told["by"] == "cross-validation"
    for asked in ("presence", "count"):
        for way in ("sorting", "finding"):
            figure = told[asked][way]
            assert figure["low"] <= figure["value"] <= figure["high"]
            assert figure["n"] == told["presence"]["sorting"]["n"] >= 18
    assert "classification and detection compared by cross-validation" in done.stderr
    assert any("Counting:" in sentence for sentence in told["advice"])
    assert told["cut_short"] == any("--seconds" in sentence for sentence in told["advice"])
