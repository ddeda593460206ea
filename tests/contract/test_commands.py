"""The command line as a person types it, against a real Label Studio."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from backend.cli.main import main
from backend.cli.projects import open_session
from backend.label_studio.annotation_relabeling import LabelRename, LabelRenamer
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.local_server import LabelStudioServer, find_free_port
from backend.label_studio.tabs import LABEL_NEXT_TAB
from backend.label_studio.task_results import is_machine_annotation
from backend.loop.round import Round
from backend.records import RoundRequest
from backend.settings import read_settings
from backend.store.annotation_times import AnnotationTimes
from backend.store.label_answers import LabelAnswer, save_label_answer
from backend.store.projects import ProjectStore
from backend.store.versions import VersionStore
from tests.support.cli import json_output, run_prelabel
from tests.support.harness import (
    CHOICES_CONFIG,
    BackendServer,
    Json,
    LabelStudioUser,
    wait_until,
)


def test_connect_status_versions_rollback_promote_train(
    lab: LabelStudioUser, backend: BackendServer, studio: LabelStudioServer
) -> None:
    project = lab.create_project(title="by hand")
    tasks = lab.import_colours(project, 10)
    env = backend.environment
    connected = json_output(
        run_prelabel("connect", "by hand", "--backend", backend.url, "--json", **env)
    )
    tabs = lab.request("GET", "/api/dm/views/", params={"project": project})
    tab = {row["data"]["title"]: row["id"] for row in tabs}[LABEL_NEXT_TAB]
    assert connected == {
        "project": project,
        "url": backend.url,
        "connected": "now",
        "webhook": "unchanged",
        "interactive": False,
        "labeling_url": f"{studio.url}/projects/{project}/data?tab={tab}&labeling=1",
    }
    again = run_prelabel("connect", str(project), "--backend", backend.url, **env)
    assert "connected to" in again.stdout
    assert "already" in again.stdout
    backend.wait_for_round(project)
    for start in (0, 4):
        for task in tasks[start : start + 4]:
            lab.submit_annotation(task)
        backend.wait_for_round(project, start + 4)
    listed = json_output(run_prelabel("versions", str(project), "--json", **env))
    names = [card["version"] for card in listed["versions"]]
    assert [name.split("-")[0] for name in names] == ["v2", "v1", "v0"]
    assert listed["live"] == names[0]
    card = listed["versions"][0]
    assert card["parent"] == names[1]
    assert card["labels"]["train"] + card["labels"]["audit"] == 8
    assert card["encoder"]["setting"] == "builtin"
    assert {"torch", "numpy"} <= set(card["packages"])

    assert json_output(run_prelabel("rollback", str(project), "--json", **env)) == {
        "version": names[1],
        "was": names[0],
    }
    wait_until("the queue follows", lambda: lab.fetch_project(project)["model_version"] == names[1])
    assert backend.wait_for_round(project, version=names[0])["version"] == names[1]
    back = json_output(run_prelabel("promote", names[0], str(project), "--json", **env))
    assert back["version"] == names[0]
    wait_until("the queue follows", lambda: lab.fetch_project(project)["model_version"] == names[0])
    history = json_output(run_prelabel("versions", "--json", **env))["history"]
    assert [event["by"] for event in history[-2:]] == ["a person", "a person"]

    still = run_prelabel("train", "--json", **env)
    assert json_output(still)["trained"] is None
    assert "\x1b" not in still.stderr
    lab.submit_annotation(tasks[8])
    trained = json_output(run_prelabel("train", "--json", **env))
    assert (trained["labels"], trained["version"].split("-")[0]) == (9, "v3")
    wait_until("the server noticed", lambda: noticed(backend, project, trained["version"]))
    check_same_figures(backend, **env)
    told = run_prelabel("status", **env)
    assert "9 of 20 tasks labeled" in told.stdout
    assert trained["version"] in told.stdout


def test_a_roll_back_during_a_training_takes_effect_at_once(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project(title="training")
    tasks = lab.import_colours(project, 10)
    env = backend.environment
    run_prelabel("connect", str(project), "--backend", backend.url, **env)
    backend.wait_for_round(project)
    for start in (0, 4):
        for task in tasks[start : start + 4]:
            lab.submit_annotation(task)
        backend.wait_for_round(project, start + 4)
    settings = read_settings(env)
    versions = VersionStore(ProjectStore(settings.home).folder(str(project)))
    v2, v1, _ = versions.names()
    assert versions.live() == v2
    lab.submit_annotation(tasks[8])
    backend.stop()
    session = open_session(settings, ProjectStore(settings.home).get(str(project)))

    def roll_back(state: str, progress: float, detail: str) -> None:
        if state == "training" and versions.live() == v2:
            done = json_output(run_prelabel("rollback", str(project), "--json", **env))
            assert done == {"version": v1, "was": v2}
            assert lab.fetch_project(project)["model_version"] == v1
            open_tasks = [task for task in lab.list_tasks(project) if not task["is_labeled"]]
            for task in open_tasks:
                assert v1 in [one["model_version"] for one in task["predictions"]]

    with session.round_lock():
        outcome = Round(session, roll_back, None).run(RoundRequest(forced=True))
    trained = versions.card(outcome.trained)
    assert trained.parent == v1, "it is compared with the version that the person made live"
    assert outcome.version == versions.live() == trained.version
    assert lab.fetch_project(project)["model_version"] == trained.version


RENAME_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <!-- red is not a colour of the boxes -->
  <Choices name="colour" toName="image" choice="multiple" showInline='true'>
    <Choice value="red"  hotkey="1" background='red' /><Choice value="blue"/>
  </Choices>
  <RectangleLabels name="boxes" toName="image"><Label value="red"/></RectangleLabels>
  <KeyPointLabels name="dots" toName="image"><Label value="ant"/></KeyPointLabels>
</View>"""


def make_labeled_region(control: str, kind: str, label: str) -> Json:
    """Return a box or a point as the browser sends it."""
    value = {"x": 10.0, "y": 20.0, "width": 30.0, kind: [label]}
    value |= {"height": 30.0, "rotation": 0} if kind == "rectanglelabels" else {}
    return {"id": control, "from_name": control, "to_name": "image", "type": kind, "value": value}


def iter_times(annotations: Mapping[int, Iterable[Json]]) -> Iterator[tuple[int, str]]:
    """Yield the id and the time of the last update of each annotation."""
    return ((one["id"], one["updated_at"]) for rows in annotations.values() for one in rows)


def test_renaming_a_label_keeps_all_its_annotations(
    lab: LabelStudioUser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rename(*arguments: str) -> Json:
        assert main(["rename", str(project), *arguments, "--json"]) == 0
        result: Json = json.loads(capsys.readouterr().out.splitlines()[-1])
        return result

    def refusal(*arguments: str) -> str:
        assert main(["rename", *arguments]) == 2
        return capsys.readouterr().err

    project = lab.create_project(RENAME_CONFIG, title="rename")
    tasks = lab.import_colours(project, 3)
    for name, value in (("URL", lab.url), ("API_KEY", lab.token)):
        monkeypatch.setenv(f"LABEL_STUDIO_{name}", value)
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    monkeypatch.setattr("backend.label_studio.task_requests.LABELED_TASK_PAGE_SIZE", 2)
    ProjectStore(tmp_path).register(lab.url, project)
    box = make_labeled_region("boxes", "rectanglelabels", "red")
    dot = make_labeled_region("dots", "keypointlabels", "ant")
    lab.submit_regions(tasks[0], [lab.make_choice_region(["red", "blue"]), box, dot])
    lab.submit_annotation(tasks[1], "blue")
    body = {"result": [lab.make_choice_region(["red"])]}
    lab.request("POST", f"/api/tasks/{tasks[2]}/annotations/", json=body | {"was_cancelled": True})
    member = lab.join_by_invitation("rename@example.com")
    member.request("POST", f"/api/tasks/{tasks[3]}/drafts", json=body | {"lead_time": 1})
    member.close()
    client = LabelStudioClient(lab.url, lab.token)
    machine = client.ensure_machine_user()
    lab.request(
        "POST", f"/api/tasks/{tasks[4]}/annotations/", json=body | {"completed_by": machine}
    )

    before = dict(iter_times(client.annotations_by_task(project)))
    assert "--control colour or --control boxes" in refusal("red", "crimson")
    assert "To merge them" in refusal("red", "blue", "--control", "colour")
    assert rename("red", "dark & red", "--control", "colour") == {
        "project": str(project),
        "old": "red",
        "new": "dark & red",
        "annotations": 3,
        "drafts": 1,
        "refused_annotations": 0,
        "refused_drafts": 0,
    }
    assert rename("ant", "bee")["annotations"] == 1
    assert rename("red", "crimson")["annotations"] == 1, "of the boxes"
    times = AnnotationTimes(ProjectStore(tmp_path).folder(str(project)))
    listed = client.annotations_by_task(project)
    assert sum(before.get(id) == at for id, at in iter_times(listed)) == 1, (
        "only one has no new name"
    )
    restored = {task: times.restore(rows) for task, rows in listed.items()}
    assert sum(before.get(id) == at for id, at in iter_times(restored)) == 3, "but the accepted one"
    expected = RENAME_CONFIG.replace('value="red"  ', 'value="dark &amp; red"  ')
    expected = expected.replace('"ant"', '"bee"').replace('"red"', '"crimson"')
    assert lab.fetch_project(project)["label_config"] == expected
    (first,) = lab.request("GET", f"/api/tasks/{tasks[0]}/annotations/")
    dot["value"]["keypointlabels"], box["value"]["rectanglelabels"] = ["bee"], ["crimson"]
    assert first["result"] == [lab.make_choice_region(["dark & red", "blue"]), box, dot]
    by_task = {row["id"]: row["annotations"] for row in lab.list_tasks(project)}
    renamed = [lab.make_choice_region(["dark & red"])]
    (skipped,) = by_task[tasks[2]]
    assert (skipped["result"], skipped["was_cancelled"]) == (renamed, True)
    (accepted,) = by_task[tasks[4]]
    assert (accepted["result"], accepted["completed_by"]) == (renamed, machine)
    assert is_machine_annotation(accepted, machine), "it still counts as nobody's"
    (draft,) = lab.request("GET", f"/api/tasks/{tasks[3]}/drafts")
    assert (draft["result"], draft["user"]) == (renamed, "rename@example.com")
    assert "Neither the labeling config nor an annotation has" in refusal("red", "dark & red")


def test_a_round_continues_an_interrupted_rename(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project(title="interrupted")
    tasks = lab.import_colours(project, 2)
    for task in tasks:
        lab.submit_annotation(task)
    client = LabelStudioClient(lab.url, lab.token)
    LabelRenamer(client, project, LabelRename("colour", "red", "crimson")).add_new_label()
    answer = LabelAnswer("colour", "red", "crimson", keeps_old=True)
    projects = ProjectStore(backend.home)
    save_label_answer(projects.folder(projects.register(lab.url, project).id), answer)
    lab.connect_backend(project, backend.url)
    status = backend.wait_for_round(project, 4)
    assert status["controls"][0]["labels"] == ["crimson", "blue"]
    assert set(status["controls"][0]["examples"]) == {"crimson", "blue"}
    config = CHOICES_CONFIG.format(choice="single").replace('"red"', '"crimson"')
    assert lab.fetch_project(project)["label_config"] == config.strip()
    answers = [lab.request("GET", f"/api/tasks/{task}/annotations/")[0] for task in tasks]
    chosen = [answer["result"][0]["value"]["choices"] for answer in answers]
    assert chosen == [["crimson"], ["blue"]] * 2


def check_same_figures(backend: BackendServer, **environment: str) -> None:
    """What the terminal tells is what the API and the dashboard's page tell.

    They are compared at a moment when nothing changed: the server may begin a round at any time.
    """

    def read_at_rest() -> tuple[Json, Json, str] | None:
        (project,) = backend.http.get("/api/projects").json()
        before = backend.project(project["id"])
        done = run_prelabel("status", "--json", "--backend", backend.url, **environment)
        (told,) = json_output(done)["projects"]
        page = backend.http.get(f"/projects/{told['id']}", headers={"Accept": "text/html"}).text
        state = backend.project(told["id"])
        return (told, state, page) if before == state else None

    told, state, page = wait_until("nothing changes", read_at_rest)
    same = ("id", "title", "version", "tasks", "labels", "waiting", "accepted", "audit", "estimate")
    for name in (*same, "outlook", "held", "accepting", "left_out", "versions", "round"):
        assert told[name] == state[name], name
    assert told["version"] in page
    assert f'<dd id="labels">{told["labels"]} of {told["tasks"]}</dd>' in page


def noticed(backend: BackendServer, project: int, version: str) -> bool:
    """The server looked at the project after another process made a version."""
    state = backend.project(project)
    idle = state["round"]["state"] == "idle"
    return bool(idle and state["version"] == version and version in state["versions"])


def test_version_names_are_the_same_after_a_restart_and_on_another_machine(
    lab: LabelStudioUser, backend: BackendServer, tmp_path: Path
) -> None:
    project = lab.create_project()
    lab.import_colours(project, 4)
    lab.connect_backend(project, backend.url)
    name = backend.wait_for_round(project)["version"]
    backend.stop()
    (backend.home / "projects").rename(tmp_path / "lost")
    backend.start()
    lab.request("GET", "/api/ml/", params={"project": project})  # Label Studio asks /setup again
    assert backend.wait_for_round(project)["version"] == name


@pytest.mark.parametrize(
    ("arguments", "change", "status", "sentence"),
    [
        (("connect", "1"), {"LABEL_STUDIO_API_KEY": "a" * 40}, 1, "refused the token"),
        (("connect", "1"), {"LABEL_STUDIO_API_KEY": ""}, 1, "No token for"),
        (("connect", "1"), {"LABEL_STUDIO_URL": "http://127.0.0.1:9"}, 1, "cannot be reached"),
        (("connect", "987654"), {}, 1, "has no project 987654"),
        (("export", "987654", "--data", "coco"), {}, 1, "has no project 987654"),
        (("connect", "1"), {"LABEL_STUDIO_URL": "{studio}/projects/3"}, 1, "without the path"),
        (("connect", "1", "--backend", "http://[::1"), {}, 2, "is not a valid backend address"),
        (("serve", "--port", "99999"), {}, 2, "a whole number from 0 to 65535"),
        (("endpoint", "--port", "-5"), {}, 2, "a whole number from 0 to 65535"),
        (("serve", "--host", "nonsense.invalid"), {}, 1, "--host takes an address"),
        (("connect", "nothing like it"), {}, 1, "Which project is 'nothing like it'?"),
        (("status", "7"), {}, 1, "Which project is '7'?"),
        (("versions", "../../etc"), {}, 1, "Which project is"),
        (("serve", "--port", "0"), {"PRELABEL_HOME": "/proc/nothing"}, 1, "PRELABEL_HOME"),
        (("serve",), {"PRELABEL_RETRAIN_AFTER": "some"}, 2, "PRELABEL_RETRAIN_AFTER must be"),
        (("serve",), {"PRELABEL_USER": "me"}, 2, "PRELABEL_PASSWORD"),
        (("serve", "--port", "many"), {}, 2, "a whole number from 0 to 65535"),
        (("nonsense",), {}, 2, "invalid choice"),
    ],
)
def test_bad_input_is_one_clear_sentence(
    studio: LabelStudioServer,
    tmp_path: Path,
    arguments: tuple[str, ...],
    change: dict[str, str],
    status: int,
    sentence: str,
) -> None:
    given = {
        "PRELABEL_HOME": str(tmp_path / "home"),
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
        **{name: value.format(studio=studio.url) for name, value in change.items()},
    }
    done = run_prelabel(*arguments, **given)
    assert done.returncode == status, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert given["LABEL_STUDIO_API_KEY"] not in done.stderr or not given["LABEL_STUDIO_API_KEY"]


def test_a_backend_that_label_studio_cannot_reach_is_explained(
    lab: LabelStudioUser, studio: LabelStudioServer, tmp_path: Path
) -> None:
    project = lab.create_project()
    nowhere = f"http://127.0.0.1:{find_free_port()}"
    done = run_prelabel(
        "connect",
        str(project),
        "--backend",
        nowhere,
        PRELABEL_HOME=str(tmp_path),
        LABEL_STUDIO_URL=studio.url,
        LABEL_STUDIO_API_KEY=studio.token,
    )
    assert done.returncode == 1
    port = nowhere.rpartition(":")[2]
    assert f"Nothing answers at {nowhere}: start `prelabel serve --port {port}`" in done.stderr
    assert "SSRF" not in done.stderr
    assert "<" not in done.stderr


def test_the_address_of_a_prelabel_is_not_taken_for_label_studios(
    backend: BackendServer, tmp_path: Path
) -> None:
    there = {"LABEL_STUDIO_URL": backend.url, "PRELABEL_HOME": str(tmp_path)}
    for named in ("by hand", "3"):
        done = run_prelabel("connect", named, **backend.environment | there)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "does not answer like Label Studio" in done.stderr or "has no project" in done.stderr


def test_a_taken_port_is_one_clear_sentence(
    backend: BackendServer, studio: LabelStudioServer, tmp_path: Path
) -> None:
    studio_port = studio.url.rpartition(":")[2]
    other_home = {"PRELABEL_HOME": str(tmp_path / "other")}
    for port, home, sentence in (
        (backend.port, {}, "Prelabel is already running at"),
        (backend.port, other_home, "Another Prelabel (home"),
        (studio_port, {}, f"Another program uses port {studio_port}: stop it"),
    ):
        done = run_prelabel("serve", "--port", str(port), **backend.environment | home)
        assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr
        assert "Traceback" not in done.stderr


def test_connect_restores_the_webhook_and_connects_smart_tools(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    config = CHOICES_CONFIG.format(choice="single").replace(
        "</View>",
        '<RectangleLabels name="box" toName="image" smart="true"><Label value="a"/>'
        "</RectangleLabels></View>",
    )
    project = lab.create_project(config, title="Cards and boxes")

    def connect(*more: str) -> Json:
        arguments = ("connect", "cards and", "--backend", backend.url, "--json", *more)
        return dict(json_output(run_prelabel(*arguments, **backend.environment)))

    def hooks() -> list[Json]:
        return list(lab.request("GET", "/api/webhooks/", params={"project": project}))

    first = connect()
    assert (first["connected"], first["webhook"], first["interactive"]) == (
        "now",
        "unchanged",
        True,
    )
    (connection,) = lab.request("GET", "/api/ml/", params={"project": project})
    assert connection["is_interactive"]
    (hook,) = hooks()
    lab.request("DELETE", f"/api/webhooks/{hook['id']}/")
    assert connect()["webhook"] == "restored"
    (hook,) = hooks()
    assert (hook["url"], hook["send_for_all_actions"]) == (f"{backend.url}/webhook", True)
    lab.request("PATCH", f"/api/webhooks/{hook['id']}/", json={"is_active": False})
    repaired = connect("--no-interactive")
    assert (repaired["connected"], repaired["webhook"]) == ("already", "restored")
    assert hooks()[0]["is_active"]
    (connection,) = lab.request("GET", "/api/ml/", params={"project": project})
    assert not connection["is_interactive"]
