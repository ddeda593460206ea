"""The container's steps without a container: Dockerfile and compose file, in an empty folder.

Left out is only what needs an engine or the internet: the base image (this Python is of the same
version), compiled and copied files (they save time later), and wheels without CUDA.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from backend.demo.studio import Program, Studio, free_port
from tests.conftest import MakeStudio
from tests.harness import Lab

ROOT = Path(__file__).parents[2]
GIVEN = {"LABEL_STUDIO_USERNAME": "you@example.com", "LABEL_STUDIO_PASSWORD": "open sesame"}
GIVEN |= {"LABEL_STUDIO_API_KEY": "0" * 40}
OTHERS = {"UV_COMPILE_BYTECODE=1": "", "UV_LINK_MODE=copy": "", "--no-cache": ""}
OTHERS |= {'--torch-backend "$TORCH"': ""}


# -- the files as Docker reads them ----------------------------------------------------------


def instructions() -> list[tuple[int, str, str]]:
    """(stage, instruction, what follows) of the Dockerfile, whole lines."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found, stage = [], -1
    for line in lines:
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        found.append((stage, word, rest.strip()))
    return found


def of(stage: int, word: str) -> list[str]:
    return [rest for where, name, rest in instructions() if (where, name) == (stage, word)]


def services(given: dict[str, str]) -> dict[str, Any]:
    """The services of the compose file, with variables put in after it is parsed."""

    def value(match: re.Match[str]) -> str:
        name, kind, otherwise = match[1], match[2] or "", match[3] or ""
        if kind == ":?" and not given.get(name):
            raise KeyError(f"{name}: {otherwise}")
        return given.get(name) or (otherwise if kind == ":-" else "")

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: filled(one) for name, one in part.items()}
        if isinstance(part, list):
            return [filled(one) for one in part]
        variable = r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}"
        return re.sub(variable, value, part) if isinstance(part, str) else part

    found = filled(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])
    assert isinstance(found, dict)
    return found


def copied(to: Path) -> None:
    """What ``COPY . .`` copies: the patterns of .dockerignore, the last that fits decides."""
    patterns = [
        line.strip()
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    for file in git_files():
        left_out = False
        for pattern in patterns:
            keeps, plain = pattern.startswith("!"), pattern.lstrip("!").removeprefix("**/")
            parts = [file, *map(str, Path(file).parents), *Path(file).parts]
            if any(fnmatch(part, plain) for part in parts):
                left_out = not keeps
        if not left_out:
            target = to / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target)


def git_files() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


# -- what stands in them ---------------------------------------------------------------------


def test_the_dockerfile_has_no_fault_that_is_known() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_nobody_in_the_container_is_root_and_what_lasts_is_in_a_volume() -> None:
    assert of(1, "USER") == ["1000"]
    assert "--uid 1000 prelabel" in of(1, "RUN")[0]
    assert of(1, "VOLUME") == ["/data"]
    assert "PRELABEL_HOME=/data" in of(1, "ENV")[0]
    assert json.loads(of(1, "CMD")[0])[-1] == "0.0.0.0"  # noqa: S104 - inside of a container


def test_both_services_fit_each_other_and_hold_no_secret() -> None:
    with pytest.raises(KeyError, match=r"set it in \.env"):
        services({})
    found = services(GIVEN)
    studio, ours = found["label-studio"]["environment"], found["prelabel"]["environment"]
    assert studio["ML_BLOCK_LOCAL_IP"] == studio["SSRF_PROTECTION_ENABLED"] == "false"
    assert studio["LABEL_STUDIO_USER_TOKEN"] == ours["LABEL_STUDIO_API_KEY"] == "0" * 40
    assert studio["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert studio["LABEL_STUDIO_HOST"] == ours["LABEL_STUDIO_HOST"]
    assert ours["LABEL_STUDIO_URL"] == "http://label-studio:8080"
    for service in found.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert all(wait["condition"] == "service_healthy" for wait in waits(service))
    assert "healthcheck" in found["label-studio"]
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert set(GIVEN) <= set(example)
    assert not example["LABEL_STUDIO_PASSWORD"]
    assert not example["LABEL_STUDIO_API_KEY"]


def waits(service: dict[str, Any]) -> list[dict[str, str]]:
    return list(service.get("depends_on", {}).values())


# -- the same commands, without a container --------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The first stage, run in an empty folder: the environment it makes."""
    folder = tmp_path_factory.mktemp("image")
    app, made = folder / "app", folder / "opt" / "prelabel"
    app.mkdir()
    environment = {
        **os.environ,
        "HOME": str(folder / "nobody"),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
        "VIRTUAL_ENV": str(made),
    }
    for _, word, rest in [row for row in instructions() if row[0] == 0]:
        if word == "COPY" and rest == "pyproject.toml ./":
            shutil.copy2(ROOT / "pyproject.toml", app)
        elif word == "COPY":
            assert rest == ". ."
            copied(app)
        elif word == "RUN" and not rest.startswith("pip install"):  # uv is here already
            for old, new in OTHERS.items():
                rest = rest.replace(old, new)
            ran = subprocess.run(
                ["bash", "-euc", rest.replace("uv venv", f"uv venv --python {sys.executable}")],
                cwd=app,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stderr
    yield made
    shutil.rmtree(folder)


def test_what_is_built_serves_is_healthy_and_connects(
    built: Path, make_studio: MakeStudio, tmp_path: Path
) -> None:
    found = services(GIVEN)
    wanted = {k: v for k, v in found["label-studio"]["environment"].items() if k.isupper()}
    for name in ("LABEL_STUDIO_HOST", "LABEL_STUDIO_USERNAME", "LABEL_STUDIO_PASSWORD"):
        del wanted[name]  # of the database that tests share
    studio = make_studio(**wanted)
    healthy(found["label-studio"]["healthcheck"]["test"], 8080, studio.url, sys.executable)
    with_studio = {k: here(v, studio) for k, v in found["prelabel"]["environment"].items()}
    port = free_port()
    environment = {**with_studio, "PRELABEL_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    entry = [str(built / "bin" / json.loads(of(1, "ENTRYPOINT")[0])[0])]
    command = [*entry, *json.loads(of(1, "CMD")[0]), "--port", str(port)]
    program = Program(command, environment, tmp_path / "log")
    try:
        program.wait_for(f"http://127.0.0.1:{port}/health", 60, lambda waited: None)
        check = re.sub(r"^.* CMD ", "", of(1, "HEALTHCHECK")[0])
        healthy(json.loads(check), 9090, f"http://127.0.0.1:{port}", str(built / "bin" / "python"))
        lab = Lab(studio.url, studio.token)
        project = lab.project()
        connected = subprocess.run(
            [*entry, "connect", str(project), "--backend", f"http://127.0.0.1:{port}"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert connected.returncode == 0, connected.stderr
        assert lab.call("GET", "/api/ml/", params={"project": project})[0]["state"] == "CO"
        lab.close()
        page = httpx.get(f"http://127.0.0.1:{port}/", headers={"accept": "text/html"})
        assert (page.status_code, "<html" in page.text) == (200, True)
        source = httpx.get(f"http://127.0.0.1:{port}/source", trust_env=False)
        assert source.content.startswith(b"PK")
    finally:
        program.stop()


def here(value: str, studio: Studio) -> str:
    """A variable for one machine: names of services and the published port are its own."""
    return re.sub(r"http://(label-studio|localhost):8080", studio.url, value)


def healthy(test: list[str], port: int, url: str, python: str) -> None:
    """The check of a container, at the port that it has here; it fails where nobody listens."""
    command = shlex.join(test[1:] if test[0] == "CMD" else test)
    command = command.replace("python3 ", "python ").replace(
        "python ", f"{shlex.quote(python)} ", 1
    )
    for where, status in ((url.rpartition(":")[2], 0), (str(free_port()), 1)):
        done = subprocess.run(
            ["bash", "-c", command.replace(str(port), where)], capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr
