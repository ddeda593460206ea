"""Every code block of the README and the documents is run, or checked for what it names."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import tests.docs
from backend.cli.main import COMMANDS, _parser
from backend.errors import PrelabelError
from backend.label_studio.config import read_config
from serverless.endpoint.rules import read_rules
from tests.conftest import MakeStudio
from tests.docs import ROOT, Block, blocks, blocks_of, commands, last_json, like_json, missing
from tests.harness import Application, Backend, Lab, png
from tests.plane import ControlPlane
from tests.stand_ins import PROGRAMS

PROJECT = 3
TRUTH = {"red": "wilting", "blue": "healthy"}
VERSION = r"\bv\d+-[0-9a-f]{8}\b|\bVERSION\b"
PASSWORD = "open sesame"
PRELUDE = "import os\nfrom serverless.client import Client\n"
"""What readers of a Python block have copied already."""
TROUBLE = ROOT / "docs" / "troubleshooting.md"
BLOCKS = blocks()
Check = Callable[[Block, "World"], None]


@dataclass(frozen=True)
class World:
    """What documents talk about.

    Attributes:
        folder: where a reader types: a clone, with some images.
        variables: the environment there.
        places: patterns of what is replaced in a block, and by what.
        plane: Modal.
    """

    folder: Path
    variables: dict[str, str]
    places: dict[str, str]
    plane: ControlPlane

    def meant(self, text: str) -> str:
        """A block with everything that stands for something replaced."""
        for pattern, place in self.places.items():
            text = re.sub(pattern, place.replace("\\", r"\\"), text)
        return text

    def place(self, name: str) -> str:
        """What an address of the documents becomes."""
        return self.places[re.escape(name)]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program as the reader does."""
        environment = {**os.environ, **self.variables, **self.plane.environment()}
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture(scope="module")
def world(make_studio: MakeStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("reader")
    studio = make_studio()
    lab = Lab(studio.url, studio.token)
    known = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    backend = Backend(folder / "home", known)
    backend.start()
    application = None
    try:
        version = teach(lab, backend)
        clone = make_clone(folder)
        key = make_key(backend)
        keeps = {"PRELABEL_CAPTURE_SHARE": "0.99"}  # so that any image can be corrected
        application = Application(backend.home, {**known, **keeps})
        with ControlPlane(environment={"OMP_NUM_THREADS": "1"}) as plane:
            variables = reader_variables(folder, key, backend.environment)
            addresses = {
                "http://localhost:8080": studio.url,
                "https://label.example.com": studio.url,
                "http://localhost:9090": backend.url,
                "http://127.0.0.1:9090": backend.url,
                "http://localhost:9091": application.url,
            }
            places = {
                **{re.escape(name): address for name, address in addresses.items()},
                r"(?<=LABEL_STUDIO_API_KEY=)(\.\.\.|…)": studio.token,
                r"(?<=PRELABEL_PASSWORD=)(\.\.\.|…)": f"'{PASSWORD}'",
                VERSION: version,
                r"\b4711\b": str(min(lab.truth)),
                r"\bPROJECT\b": str(PROJECT),
                r"\bIMAGE\b": "plant.jpg",
                r"\bNAME\b": "greenhouse",
            }
            yield World(clone, variables | {"BACKEND": backend.url}, places, plane)
    finally:
        lab.close()
        if application:
            application.stop()
        backend.stop()


def teach(lab: Lab, backend: Backend) -> str:
    """Project 3 of plants, learned from some labels; its live version."""
    config = (ROOT / "label_config" / "plants.xml").read_text()
    numbers = [lab.project(config, f"plants {n}") for n in range(1, PROJECT + 1)]
    assert numbers[-1] == PROJECT
    tasks = lab.add(PROJECT, 8)
    lab.connect(PROJECT, backend.url)
    first = str(backend.settled(PROJECT)["version"])
    for task in tasks[:12]:
        lab.label(task, TRUTH[lab.truth[task]], control="plant")
    return str(backend.learn(PROJECT, 12, first)["version"])


def make_clone(folder: Path) -> Path:
    """What a reader has: the files that blocks name."""
    clone = folder / "prelabel"
    (clone / "photos").mkdir(parents=True)
    for number in range(3):
        for kind in ("png", "jpg"):  # browsers and Pillow look at what is inside
            (clone / "photos" / f"{number}.{kind}").write_bytes(png("red", 100 + number))
    (clone / "plant.jpg").write_bytes(png("red", 99))
    (clone / ".env.example").write_bytes((ROOT / ".env.example").read_bytes())
    programs = folder / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        script = f'#!/bin/sh\nexec {sys.executable} -m tests.stand_ins {name} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    return clone


def make_key(backend: Backend) -> str:
    from backend.store.keys import Keys

    return Keys(backend.home).create("reader")[1]


def reader_variables(folder: Path, key: str, environment: dict[str, str]) -> dict[str, str]:
    return {
        **environment,
        "KEY": key,
        "GREENHOUSE_SECRET": "whsec_c2VjcmV0",
        "HOME": str(folder / "prelabel"),
        "EMPTY_HOME": str(folder / "empty"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "no_proxy": "*",
    }


# -- one check per language -----------------------------------------------------------------


def run_shell(block: Block, world: World) -> None:
    script = 'set -e\ncurl() { command curl --silent --show-error --fail-with-body "$@"; }\n'
    done = world.run("bash", "-c", script + world.meant(block.text))
    assert (done.returncode != 0) == block.refused, f"{done.stdout}\n{done.stderr}"
    if block.comes_back:
        real = last_json(done.stdout)
        assert real is not None, done.stdout + done.stderr
        assert not missing(like_json(block.comes_back), real), done.stdout


def run_python(block: Block, world: World) -> None:
    done = world.run(sys.executable, "-c", PRELUDE + world.meant(block.text))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def check_json(block: Block, world: World) -> None:
    like_json(block.text)


def check_toml(block: Block, world: World) -> None:
    content = tomllib.loads(block.text)
    assert set(content) == {"alert"}, "what else is TOML for?"
    file = world.folder / "alerts.toml"
    file.write_text(block.text)
    assert read_rules(file, {"GREENHOUSE_SECRET": "whsec_c2VjcmV0"})


def check_yaml(block: Block, world: World) -> None:
    content = yaml.safe_load(block.text)
    if "services" in content:
        file = world.folder / "compose.override.yaml"
        file.write_text(block.text)
        command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
        done = world.run(*command)
        assert done.returncode == 0, done.stdout
        known = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
        assert set(content["services"]) <= set(known)
    else:
        assert set(content) == {"scrape_configs"}, "what else is YAML for?"
        (job,) = content["scrape_configs"]
        answer = httpx.get(
            world.place("http://localhost:9091") + job["metrics_path"],
            headers={"Authorization": f"Bearer {world.variables['KEY']}"},
            trust_env=False,
        )
        assert "prelabel_requests_total" in answer.text


def check_env(block: Block, world: World) -> None:
    """Settings: each is one that the code reads, with a value that it takes."""
    from backend.settings import read_settings

    given = dict(
        line.split("=", 1) for line in block.text.splitlines() if line[:1] not in ("#", "")
    )
    read_settings(given)
    text = (ROOT / "backend" / "settings.py").read_text()
    assert all(f'"{name}"' in text for name in given)


def check_xml(block: Block, world: World) -> None:
    assert read_config(block.text).controls


def check_output(block: Block, world: World) -> None:
    """What a program prints: the words of its first line are in the code."""
    first = block.text.splitlines()[0]
    parts = [part for part in re.split(r"\s{2,}|[0-9:%/(),]+", first) if len(part) > 3]
    assert parts
    assert not [part for part in parts if part.strip() not in everything_said()]


CHECKS: dict[str, Check] = {
    "sh": run_shell,
    "bash": run_shell,
    "python": run_python,
    "json": check_json,
    "toml": check_toml,
    "yaml": check_yaml,
    "env": check_env,
    "xml": check_xml,
    "": check_output,
}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_does_what_the_document_says(block: Block, world: World) -> None:
    assert block.language in CHECKS, f"nobody runs {block}: give it a language of {list(CHECKS)}"
    CHECKS[block.language](block, world)


def test_no_fence_is_overlooked() -> None:
    for file in {ROOT / block.file for block in BLOCKS}:
        fences = re.findall(r"^ *```", file.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(blocks_of(file)), file


def test_what_reads_the_documents_works_as_its_examples_say() -> None:
    found = doctest.testmod(tests.docs)
    assert found.attempted
    assert not found.failed


def test_a_wrong_block_is_noticed(world: World) -> None:
    for language, text in (
        ("sh", "uv run prelabel serve --nonsense"),
        ("sh", "docker compose exec prelabel prelabel nonsense"),
        ("sh", "docker compose up --detach nobody"),
        ("sh", "curl http://localhost:9090/api/nonsense"),
        ("sh", "pip install nonsense-of-ours"),
        ("python", "Client('http://localhost:9091').nonsense()"),
        ("json", "{nonsense}"),
        ("toml", '[[alert]]\nfunction = "3"'),
        ("yaml", "services:\n  prelabel:\n    nonsense: 1"),
        ("env", "PRELABEL_NONSENSE=1"),
        ("xml", "<View/>"),
        ("", "nonsense  of ours"),
    ):
        with pytest.raises((AssertionError, ValueError, PrelabelError)):
            CHECKS[language](Block("here", 1, language, text), world)
    shows = Block("here", 1, "sh", "curl http://localhost:9090/health", '{"nonsense": 1}')
    with pytest.raises(AssertionError, match="nonsense"):
        run_shell(shows, world)


# -- what documents name --------------------------------------------------------------------


NAMED = {
    command: str(file.relative_to(ROOT))
    for file in (ROOT / "README.md", ROOT / "label_config" / "README.md", *ROOT.glob("docs/*.md"))
    for command in commands(file.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("command", NAMED)
def test_a_command_that_a_sentence_names_exists(command: str) -> None:
    words = shlex.split(command)
    if words not in [[name] for name in COMMANDS]:  # else only named, without what it needs
        _parser().parse_args(words)  # exits where it cannot be meant


def test_every_route_is_documented(world: World) -> None:
    told = (ROOT / "docs" / "api.md").read_text().replace(str(PROJECT), "{}").replace("bed-7", "{}")
    for place in ("http://localhost:9090", "http://localhost:9091"):
        document = httpx.get(world.place(place) + "/openapi.json", trust_env=False).json()
        for path in document["paths"]:
            plain = re.sub(r"\{[^}]*\}", "{}", path)
            assert f"{plain}" in told, f"docs/api.md does not tell of {path}"
            assert re.search(rf"curl.*{re.escape(place + plain)}", told), f"no curl for {path}"


def test_every_problem_is_documented() -> None:
    told = (ROOT / "docs" / "api.md").read_text()
    kinds: set[str] = set()
    for file in (ROOT / "serverless" / "endpoint").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(ast.Name("Problem"), [_, ast.Constant(str(kind)), *_]):
                    kinds.add(kind)
    assert len(kinds) > 15
    assert not {kind for kind in kinds if f"`{kind}`" not in told}


def messages() -> list[str]:
    """What the page on troubleshooting quotes: its headings, and the first column of tables."""
    text = TROUBLE.read_text(encoding="utf-8")
    return re.findall(r"^(?:### |\| )`([^`]+)`", text, re.MULTILINE)


@pytest.mark.parametrize("message", messages())
def test_a_message_that_is_explained_is_still_said(message: str) -> None:
    pieces = [piece.strip() for piece in re.split(r"…", message) if len(piece.strip()) > 3]
    assert pieces
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    where = label_studio_says() if message in of_label_studio() else everything_said()
    assert any(pattern.search(line) for line in where.splitlines()), pieces


def of_label_studio() -> set[str]:
    """The messages below the heading that names Label Studio as the speaker."""
    text = TROUBLE.read_text(encoding="utf-8")
    part = text[text.index("\n## Label Studio says") :]
    end = part.find("\n## ", 1)
    return set(re.findall(r"^### `([^`]+)`", part[: end if end > 0 else None], re.MULTILINE))


@cache
def everything_said() -> str:
    """Every text in our code, one a line; what is filled in is left out."""
    files = [file for room in ("backend", "serverless") for file in (ROOT / room).rglob("*.py")]
    return "\n".join(text for file in files for text in texts(file))


def texts(file: Path) -> list[str]:
    """The texts of a module, each as one line."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.append("".join(filled(part) for part in node.values))
    return [re.sub(r"\{\w*[^}]*\}", "…", text).replace("\n", " ") for text in found]


def filled(part: Any) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"


@cache
def label_studio_says() -> str:
    """Label Studio's own source, without line breaks inside of texts."""
    spec = importlib.util.find_spec("label_studio")
    assert spec
    root = Path(str(spec.origin)).parent
    rooms = (
        "ml",
        "ml_models",
        "jwt_auth",
        "core",
        "data_import",
        "io_storages",
        "tasks",
        "projects",
    )
    files = [file for room in rooms for file in (root / room).rglob("*.py")]
    found = [text for file in files if "tests" not in file.parts for text in texts(file)]
    scripts = [file.read_text(errors="replace") for file in (root / "core/static").rglob("main.js")]
    return "\n".join([*found, *scripts])
