"""The container files: linted, valid, and carried out step by step in a clean room."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.label_studio.local_server import find_free_port
from tests.support.compose_network import (
    ServiceNetwork,
    make_service_sandbox,
    missing_capability,
    read_compose,
    read_env,
)
from tests.support.container_engine import (
    BuiltImage,
    ChrootSandbox,
    ImageBuilder,
    list_build_context,
    render_hosts_file,
)
from tests.support.harness import LabelStudioUser, make_png, wait_until

ROOT = Path(__file__).parents[2]
SECRETS = {"LABEL_STUDIO_API_KEY": "5e" * 20, "LABEL_STUDIO_PASSWORD": "open sesame"}
BACKEND = "http://prelabel.internal:9090"
HOME = "/tmp/home"  # noqa: S108 - of a read-only container
SECONDS = 60.0


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: uv sync"
    return found


def compose() -> dict[str, Any]:
    variables = {**read_env((ROOT / ".env.example").read_text()), **SECRETS}
    # the copied database has a user of the default name, whose token would stay
    variables["LABEL_STUDIO_USERNAME"] = "team@example.com"
    return read_compose((ROOT / "compose.yaml").read_text(), variables)


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_is_valid_by_the_specification() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(ROOT / "compose.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_settings_fit_each_other_and_nobody_is_given_more_than_needed() -> None:
    file = compose()
    services = file["services"]
    studio, backend, endpoint = (services[n] for n in ("label-studio", "prelabel", "endpoint"))
    given = studio["environment"]
    assert given["ML_BLOCK_LOCAL_IP"] == given["SSRF_PROTECTION_ENABLED"] == "false"
    assert given["LABEL_STUDIO_USER_TOKEN"] == backend["environment"]["LABEL_STUDIO_API_KEY"]
    assert given["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert given["LABEL_STUDIO_HOST"] == backend["environment"]["LABEL_STUDIO_HOST"]
    assert backend["environment"]["LABEL_STUDIO_URL"] == "http://label-studio:8080"
    assert backend["depends_on"]["label-studio"]["condition"] == "service_healthy"
    for service in (backend, endpoint):
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["volumes"] == ["prelabel:/data"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert {volume.split(":")[0] for volume in service["volumes"]} <= file["volumes"].keys()
    pinned = studio["image"].rpartition(":")[2]
    assert f'"label-studio=={pinned}"' in (ROOT / "pyproject.toml").read_text(), "what is tested"


def test_secrets_are_asked_for_and_in_no_file() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name in SECRETS:
        known = {"LABEL_STUDIO_USERNAME": "you@example.com", **SECRETS, name: ""}
        with pytest.raises(KeyError, match=name):
            read_compose(text, known)
    told = read_env((ROOT / ".env.example").read_text())
    assert not any(told[name] for name in SECRETS)
    ignored = subprocess.run(
        ["git", "check-ignore", ".env", "prelabel.env"], cwd=ROOT, capture_output=True, text=True
    )
    assert ignored.stdout.split() == [".env", "prelabel.env"]


def test_the_build_sees_the_source_and_nothing_else(tmp_path: Path) -> None:
    ignore = (ROOT / ".dockerignore").read_text()
    files = list_build_context(ROOT, ignore)
    tops = {file.parts[0] for file in files}
    assert tops == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "backend",
        "demo",
        "label_config",
        "serverless",
    }
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in (".env", "prelabel.env", "backend/a.py", "backend/__pycache__/a.pyc", "tests/b.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
    assert list_build_context(tmp_path, ignore) == [Path("backend/a.py")]


def test_what_the_dockerfile_starts_serves_and_is_called_healthy(tmp_path: Path) -> None:
    """On this machine itself: all that can be proven where rooms are not allowed."""
    text = (ROOT / "Dockerfile").read_text()
    port = find_free_port()
    start, serve, health = (
        json.loads(re.findall(rf"{word} (\[.*\])", text, re.M)[-1].replace("9090", str(port)))
        for word in ("^ENTRYPOINT", "^CMD", "^    CMD")
    )
    tools = f"{Path(tool('label-studio')).parent}:/usr/bin:/bin"
    given = {"PATH": tools, "HOME": str(tmp_path), "PRELABEL_HOME": str(tmp_path)}

    def healthy() -> bool:
        return not subprocess.run(health, env=given, capture_output=True, check=False).returncode

    assert not healthy()
    with (tmp_path / "log").open("wb") as log:
        served = subprocess.Popen([*start, *serve], env=given, stdout=log, stderr=log)
    try:
        wait_until("it is healthy", healthy, SECONDS)
    finally:
        served.terminate()
        served.wait()


# -- carried out ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """The services of the compose file, running.

    Attributes:
        street: their network.
        services: as the file has them.
        image: that the Dockerfile makes.
        rooms: of the services made of it.
        logs: folder of what they say.
    """

    street: ServiceNetwork
    services: dict[str, Any]
    image: BuiltImage
    rooms: dict[str, ChrootSandbox]
    logs: Path

    def start(self, name: str) -> None:
        """What ``docker compose up`` does with a service of ours."""
        command = self.services[name].get("command") or self.image.command
        inside = [*self.image.entrypoint, *command]
        self.street.start(name, self.rooms[name].wrap_command(inside), self.logs / f"{name}.log")
        self.wait(name)

    def execute(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """``docker compose exec``."""
        return self.street.run(name, self.rooms[name].wrap_command(command), SECONDS)

    def wait(self, name: str) -> None:
        """Until the service's own health check succeeds."""
        deadline = time.monotonic() + SECONDS
        while (done := self.check(name)).returncode:
            said = (self.logs / f"{name}.log").read_text()
            assert time.monotonic() < deadline, f"{name}: {said[-2000:]} {done.stderr}"
            time.sleep(0.3)

    def check(self, name: str) -> subprocess.CompletedProcess[str]:
        """One health check."""
        word, *test = self.services[name].get("healthcheck", {}).get("test") or [
            "CMD",
            *self.image.health_check,
        ]
        assert word == "CMD"
        return self.execute(name, *test) if name in self.rooms else self.street.run(name, test)


@pytest.fixture(scope="module")
def stack(migrated_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if missing_capability():
        pytest.skip(f"NOT PROVEN, no rooms and networks of their own here: {missing_capability()}")
    folder = tmp_path_factory.mktemp("containers")
    (folder / "images").mkdir()
    (folder / "volumes").mkdir()
    cache = Path(
        subprocess.run(
            [tool("uv"), "cache", "dir"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    services = compose()["services"]
    street = ServiceNetwork(services)
    try:
        start_studio(street, services["label-studio"], migrated_studio, folder)
        # TORCH: PyTorch's own index cannot be reached everywhere where tests run
        builder = ImageBuilder(folder / "images", ROOT, {"TORCH": ""}, Path(tool("uv")), cache)
        image = builder.build((ROOT / "Dockerfile").read_text())
        rooms = {
            name: make_service_sandbox(
                image, service, folder / "volumes", street.host_addresses, cache
            )
            for name, service in services.items()
            if "build" in service
        }
        stack = Stack(street, services, image, rooms, folder)
        stack.wait("label-studio")
        stack.start("prelabel")
        yield stack
    finally:
        street.close()


def start_studio(
    street: ServiceNetwork, service: dict[str, Any], migrated_studio: Path, folder: Path
) -> None:
    """Label Studio as its image starts it, with the environment of the compose file."""
    shutil.copytree(migrated_studio, folder / "label-studio")
    hosts = folder / "hosts"
    hosts.write_text(render_hosts_file(street.host_addresses))
    image = {"LABEL_STUDIO_BASE_DATA_DIR": str(folder / "label-studio")}
    quiet = {"LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": ""}
    home = {
        "HOME": str(folder / "nobody"),
        "PATH": f"{Path(tool('label-studio')).parent}:/usr/bin:/bin",
    }
    (folder / "nobody").mkdir()
    script = f"mount --bind {hosts} /etc/hosts && exec label-studio"
    street.start(
        "label-studio",
        ["unshare", "--mount", "sh", "-c", script],
        folder / "label-studio.log",
        env={**home, **image, **quiet, **service["environment"]},
    )


def test_steps_are_carried_out_both_become_healthy_and_a_project_is_connected(
    stack: Stack,
) -> None:
    address = stack.street.addresses["label-studio"]
    lab = LabelStudioUser(f"http://{address}:8080", SECRETS["LABEL_STUDIO_API_KEY"])

    def prepare() -> int:
        project = lab.create_project(title="in a container")
        file = ("red.png", make_png("red", 1), "image/png")
        lab.request("POST", f"/api/projects/{project}/import", files={"file": file})
        return project

    number = stack.street.call_on_bridge(prepare)
    connect = ("prelabel", "connect", str(number), "--json", "--backend")
    refused = stack.execute("prelabel", *connect, "http://prelabel:9090")
    assert refused.returncode == 2
    assert "such as prelabel.internal" in refused.stderr
    told = stack.execute("prelabel", *connect, BACKEND)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.splitlines()[-1])["connected"] == "now"

    api = f"http://{stack.street.addresses['prelabel']}:9090/api/projects"

    def state() -> Any:
        found = httpx.get(api, trust_env=False).json()
        return next((project for project in found if project["tasks"]), None)

    seen = wait_until("a first look", lambda: stack.street.call_on_bridge(state), SECONDS)
    assert seen["version"]
    assert seen["left_out"] == {}, "the image came from Label Studio by its name"
    assert stack.check("label-studio").returncode == 0
    assert stack.check("prelabel").returncode == 0
    hooks = stack.street.call_on_bridge(
        lambda: lab.request("GET", "/api/webhooks/", params={"project": number})
    )
    assert [hook["url"] for hook in hooks] == [f"{BACKEND}/webhook"]


def test_it_runs_as_nobody_in_particular_and_writes_to_its_volume_alone(stack: Stack) -> None:
    assert stack.execute("prelabel", "id", "-u").stdout.strip() == "1000"
    attempt = "touch /data/x && ! touch /app/x && ! touch /etc/x && touch /tmp/x"
    assert stack.execute("prelabel", "sh", "-c", attempt).returncode == 0
    capabilities = stack.execute("prelabel", "grep", "CapEff", "/proc/self/status").stdout
    assert int(capabilities.split()[1], 16) == 0


def test_the_health_check_fails_where_nothing_serves(stack: Stack) -> None:
    assert stack.check("endpoint").returncode != 0


def test_the_same_image_is_the_endpoint(stack: Stack) -> None:
    made = stack.execute("prelabel", "prelabel", "keys", "create", "greenhouse", "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout.splitlines()[-1])["key"]
    stack.start("endpoint")
    url = f"http://{stack.street.addresses['endpoint']}:9091/v1/functions"

    def ask(**headers: str) -> int:
        return httpx.get(url, headers=headers, trust_env=False).status_code

    assert stack.street.call_on_bridge(lambda: ask(Authorization=f"Bearer {key}")) == 200
    assert stack.street.call_on_bridge(ask) == 401


def test_it_is_healthy_with_basic_auth_too(stack: Stack, tmp_path: Path) -> None:
    room = stack.rooms["endpoint"]
    auth = {"PRELABEL_USER": "team", "PRELABEL_PASSWORD": "x", "PRELABEL_HOME": HOME}
    served = replace(room, environment={**room.environment, **auth})
    street = ServiceNetwork({"prelabel": {}})
    try:
        command = [*stack.image.entrypoint, *stack.image.command]
        street.start("prelabel", served.wrap_command(command), tmp_path / "log")
        wait_until(
            "a health check",
            lambda: (
                not street.run("prelabel", served.wrap_command(stack.image.health_check)).returncode
            ),
        )
    finally:
        street.close()
