"""The imitation of Modal's control plane: the real client deploys a small app and calls it."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import modal
import modal.exception
import pytest

from tests.support.harness import wait_until
from tests.support.modal_plane import ControlPlane, DeployError, VolumeMount, read_tree
from tests.support.modal_plane import toy_app as toy_module
from tests.support.modal_plane.sandbox import find_namespace_command

LIBRARY = '''
"""Local source of the toy, to be mounted."""


class ToyError(Exception):
    """An exception of the user's own."""
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project: the app's file and a module beside it."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copy(str(toy_module.__file__), folder / "toy.py")
    (folder / "toylib.py").write_text(LIBRARY)
    return folder


@pytest.fixture(scope="module")
def plane(folder: Path) -> Iterator[ControlPlane]:
    with ControlPlane(environment={"OMP_NUM_THREADS": "1"}) as plane:
        plane.deploy("toy.py", cwd=folder)
        with plane.use_in_process():
            yield plane


@pytest.fixture
def work(plane: ControlPlane, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(folder))
    return modal.Function.from_name("toy", "work")


def function(name: str) -> Any:
    return modal.Function.from_name("toy", name)


def is_running(plane: ControlPlane, call: Any) -> bool:
    return any(call.object_id in container.running for container in plane.containers)


def test_the_facts_of_a_deployment_are_those_of_the_code(plane: ControlPlane) -> None:
    assert plane.unanswered == []
    assert plane.apps == ["toy"]
    assert set(plane.functions()) == {
        "work", "write", "read", "vandal", "Greeter.*", "site", "careless", "slow",
    }  # fmt: skip
    work = plane.function("work")
    assert work.gpus == ("L4", "T4")
    assert (work.timeout, work.startup_timeout) == (1200, 300)
    assert (work.max_containers, work.scaledown_window) == (2, 30)
    assert work.retries == 2
    assert [secret.keys for secret in work.secrets] == [("PASSWORD",)]
    assert work.files == ("/root/toy.py", "/root/toylib.py")
    installs = [line for layer in work.image for line in layer.installs]
    assert any("fastapi==0.116.1" in line for line in installs)
    read = plane.function("read")
    assert read.volumes == (VolumeMount("/vol", "toy-store", True),)
    assert read.block_network
    assert plane.function("site").web == "asgi"
    assert plane.function("site").max_inputs == 4
    assert plane.function("Greeter.*").memory_snapshot


def test_a_spawned_call_is_polled_until_its_result(work: Any) -> None:
    call = work.spawn("sleep", 1.0)
    again = modal.FunctionCall.from_id(call.object_id)
    with pytest.raises(TimeoutError):
        again.get(timeout=0)
    assert again.get(timeout=20) == "slept"
    assert work.remote("double", 21) == 42


def test_an_exception_of_the_users_own_type_comes_back_after_the_retries(
    plane: ControlPlane, work: Any
) -> None:
    from toylib import ToyError  # type: ignore[import-not-found]

    with pytest.raises(ToyError, match="no luck"):
        work.remote("raise", "no luck")
    assert plane.container_logs("work").count("no luck") >= 3


def test_a_retry_runs_the_whole_function_again(work: Any, plane: ControlPlane) -> None:
    assert work.remote("count", "attempts") == 3
    assert read_tree(plane.volume_folder("toy-store"))["attempts"] == b"xxx"


def test_a_cancelled_call_ends_and_its_container_serves_on(plane: ControlPlane, work: Any) -> None:
    call = work.spawn("sleep", 60.0)
    wait_until("running", lambda: is_running(plane, call))
    time.sleep(2)  # a container ignores cancellation until it has registered its input
    started = time.monotonic()
    call.cancel()
    with pytest.raises(modal.exception.RemoteError, match="cancelled"):
        call.get(timeout=40)
    assert time.monotonic() - started < 40  # of the 60 seconds that it would sleep
    assert work.remote("double", 1) == 2
    assert -9 not in [c.exit_code for c in plane.containers]


def test_a_call_is_cancelled_with_its_container(work: Any, plane: ControlPlane) -> None:
    call = work.spawn("sleep", 60.0)
    wait_until("running", lambda: is_running(plane, call))
    call.cancel(terminate_containers=True)
    with pytest.raises(modal.exception.RemoteError, match="cancelled"):
        call.get(timeout=20)
    assert -9 in [c.exit_code for c in plane.containers if c.function == "work"]


def test_an_input_whose_container_dies_goes_to_another(plane: ControlPlane, work: Any) -> None:
    with pytest.raises(modal.exception.InternalFailure, match="status 3"):
        work.remote("die")
    call = work.spawn("sleep", 2.0)
    wait_until("running", lambda: is_running(plane, call))
    assert plane.kill_containers("work") >= 1
    assert call.get(timeout=30) == "slept"


def test_map_fans_out_and_keeps_the_order(work: Any, plane: ControlPlane) -> None:
    assert list(work.starmap([("double", n) for n in range(20)])) == [2 * n for n in range(20)]
    live = [c for c in plane.containers if c.function == "work" and c.exit_code is None]
    assert 1 <= len(live) <= 2


def test_arguments_of_several_megabytes_travel_both_ways(work: Any) -> None:
    assert work.remote("double", b"x" * 3_000_000) == b"x" * 6_000_000
    assert work.spawn("double", b"x" * 20_000).get() == b"x" * 40_000


def test_a_container_sees_its_image_and_secrets_and_nothing_of_the_caller(
    work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["FROM_IMAGE", "PASSWORD", "OMP_NUM_THREADS", "PRELABEL_HOME", "MODAL_TOKEN_ID"]
    monkeypatch.setenv("PRELABEL_HOME", "/somewhere")
    variables = work.remote("environment", names)
    assert variables == dict(zip(names, ["yes", "sesame", "1", None, None], strict=True))


def test_what_a_container_committed_is_read_by_a_client_and_by_another_container(
    plane: ControlPlane,
) -> None:
    content = os.urandom(9_000_000)
    writer = function("write").remote("weights.bin", content)
    volume = modal.Volume.from_name("toy-store")
    assert b"".join(volume.read_file("weights.bin")) == content
    assert "weights.bin" in [entry.path for entry in volume.listdir("/")]
    assert function("read").remote("weights.bin") == content
    made = [(c.kind, c.container) for c in plane.volume_calls if c.volume == "toy-store"]
    assert ("commit", writer) in made
    assert [kind for kind, _ in made][-1] == "reload"
    assert modal.Dict.from_name("toy-dict")["last"] == "weights.bin"
    assert "writing weights.bin" in plane.container_logs("write")


def test_a_write_is_seen_by_others_only_after_commit_and_reload(plane: ControlPlane) -> None:
    """An app that forgets one of them fails here as it would on Modal."""
    careless, read = function("careless"), function("read")
    assert careless.remote(leave="uncommitted", look_for="uncommitted")
    with pytest.raises(FileNotFoundError):
        read.remote("uncommitted")
    function("write").remote("later", b"x")
    assert not careless.remote(look_for="later")
    assert careless.remote(look_for="later", reload=True)
    assert read.remote("uncommitted") == b"left"


def test_a_client_writes_and_removes_files_of_a_volume(plane: ControlPlane) -> None:
    volume = modal.Volume.from_name("files", create_if_missing=True, version=2)
    large = bytes(5_000_000) + os.urandom(5_000_000)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"small"), "/a/small.txt")
        batch.put_file(io.BytesIO(b"small"), "/b.txt")
        batch.put_file(io.BytesIO(large), "/large.bin")
        batch.put_file(io.BytesIO(b""), "/empty")
    volume.remove_file("a/small.txt")
    with pytest.raises(FileNotFoundError):
        list(volume.read_file("a/small.txt"))
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"other"), "/b.txt")
    assert b"".join(volume.read_file("large.bin")) == large
    assert read_tree(plane.volume_folder("files")) == {
        "b.txt": b"small", "empty": b"", "large.bin": large,
    }  # fmt: skip


def test_reload_is_refused_while_a_file_of_the_volume_is_open() -> None:
    function("write").remote("open.bin", b"x")
    with pytest.raises(RuntimeError, match=r"open files.*open\.bin"):
        function("read").remote("open.bin", keep_open=True)


def test_a_read_only_volume_cannot_be_written(plane: ControlPlane) -> None:
    (mount,) = plane.function("vandal").volumes
    assert mount.read_only
    if find_namespace_command():
        with pytest.raises(OSError, match="Read-only"):
            function("vandal").remote()
        assert "vandal" not in read_tree(plane.volume_folder("toy-store"))


def test_a_class_enters_before_and_after_its_snapshot(plane: ControlPlane) -> None:
    assert modal.Cls.from_name("toy", "Greeter")().greet.remote() == ["snap", "restored"]


def test_a_dictionary_is_shared_by_name(plane: ControlPlane) -> None:
    known = modal.Dict.from_name("counts", create_if_missing=True)
    known["a"] = 1
    again = modal.Dict.from_name("counts")
    assert (again.get("a"), again.get("b")) == (1, None)
    assert again.pop("a") == 1
    assert known.get("a") is None


def test_a_web_function_receives_and_sends_megabytes(plane: ControlPlane) -> None:
    with httpx.Client(base_url=plane.web_url("site"), timeout=30, trust_env=False) as http:
        assert http.post("/size", content=b"x" * 3_500_000).json() == {"size": 3_500_000}
        answer = http.get("/big", params={"count": 5_000_000})
        assert (len(answer.content), answer.headers["content-type"]) == (5_000_000, "image/png")
        assert http.get("/absent").status_code == 404
        assert http.get("/broken").status_code == 500
    assert function("site").get_web_url().rstrip("/") == plane.web_url("site")


def test_requests_run_concurrently_in_one_container(plane: ControlPlane) -> None:
    url = plane.web_url("site") + "/company"

    def ask(_: int) -> int:
        return int(httpx.get(url, timeout=30, trust_env=False).json()["together"])

    with ThreadPoolExecutor(3) as threads:
        assert max(threads.map(ask, range(3))) == 3
    assert len([c for c in plane.containers if c.function == "site"]) == 1


def test_a_function_over_its_time_is_ended() -> None:
    with pytest.raises(modal.exception.FunctionTimeoutError, match="1s"):
        function("slow").remote()


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(modal.exception.NotFoundError):
        function("absent").remote()
    with pytest.raises(modal.exception.NotFoundError):
        modal.Volume.from_name("absent").listdir("/")


APP = """
import importlib
import modal

app = modal.App("small")
image = modal.Image.debian_slim(){mounts}
store = modal.Volume.from_name("small", create_if_missing=True)

@app.function(image=image, volumes={{"{path}": store}})
def imported(name):
    open("{path}/written", "w").write("by a container")
    return importlib.import_module(name).__name__
"""


@pytest.mark.parametrize("namespaces", [True, False])
def test_a_forgotten_local_source_is_caught(tmp_path: Path, namespaces: bool) -> None:
    """The project is installed in this environment, but containers must not see it."""
    (tmp_path / "mylib.py").write_text("")
    at = f"{tempfile.gettempdir()}/plane-test-{os.getpid()}"
    with ControlPlane(namespaces=namespaces) as plane, plane.use_in_process():
        imported = modal.Function.from_name("small", "imported")

        def deploy(mounts: str) -> None:
            (tmp_path / "small.py").write_text(APP.format(mounts=mounts, path=at))
            plane.deploy("small.py", cwd=tmp_path)

        deploy("")
        for module in ("mylib", "backend"):
            with pytest.raises(ModuleNotFoundError, match=module):
                imported.remote(module)
        for more in ("", ", copy=True"):
            deploy(f'.add_local_python_source("mylib"{more})')
            assert imported.remote("mylib") == "mylib"
            assert "/root/mylib.py" in plane.function("imported").files
        assert read_tree(plane.volume_folder("small")) == {"written": b"by a container"}
    assert not Path(at).is_symlink()


def test_another_deployment_replaces_containers_and_keeps_what_runs(tmp_path: Path) -> None:
    lines = ["import modal, time", "app = modal.App('rolling')", "@app.function()"]
    with ControlPlane() as plane, plane.use_in_process():

        def deploy(number: int) -> None:
            body = f"def version(s):\n    time.sleep(s)\n    return {number}"
            (tmp_path / "rolling.py").write_text("\n".join([*lines, body]))
            plane.deploy("-m", "rolling", cwd=tmp_path)

        deploy(1)
        version = modal.Function.from_name("rolling", "version")
        call = version.spawn(4)
        wait_until("running", lambda: is_running(plane, call))
        deploy(2)
        assert version.remote(0) == 2
        assert call.get(timeout=20) == 1
        assert plane.apps == ["rolling"]


def test_a_module_that_cannot_be_imported_fails_the_call_and_the_deployment(
    tmp_path: Path,
) -> None:
    app = APP.format(mounts="", path="/vol")
    with ControlPlane() as plane, plane.use_in_process():
        (tmp_path / "small.py").write_text("import forgotten\n" + app)
        with pytest.raises(DeployError, match="forgotten"):
            plane.deploy("small.py", cwd=tmp_path)
        (tmp_path / "forgotten.py").write_text("")
        plane.deploy("small.py", cwd=tmp_path)
        with pytest.raises(ModuleNotFoundError, match="forgotten"):
            modal.Function.from_name("small", "imported").remote("os")


def test_nothing_is_left_when_the_plane_is_closed(folder: Path) -> None:
    before = set(threading.enumerate())
    with ControlPlane() as plane:
        plane.deploy("toy.py", cwd=folder)
        with plane.use_in_process():
            function("work").spawn("sleep", 60.0)
            wait_until("running", lambda: plane.containers and plane.containers[0].running)
        home = plane.folder
    assert not home.exists()
    assert not [p for p in Path("/proc").glob("[0-9]*") if str(home) in _root(p)]
    assert not [t for t in set(threading.enumerate()) - before if t.name == "plane"]


def _root(process: Path) -> str:
    try:
        return str((process / "root").readlink()) + (process / "cmdline").read_text()
    except OSError:
        return ""
