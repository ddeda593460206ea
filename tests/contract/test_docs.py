"""The documentation does what it says: every block of code is run, every message and link is there.

A comment in front of a block, ``<!-- test: … -->``, tells what else than "run it" is to be done.
What is typed is changed as little as the place demands, see ``SAID``, ``MORE`` and ``ENDLESS``.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import tests.support.json_examples
from backend.cli.main import COMMANDS, make_parser
from backend.endpoint.alert_rules import read_alert_rules
from backend.label_studio.labeling_config import read_config
from demo.label_studio import find_free_port
from tests.conftest import MakeStudio
from tests.contract.test_init import Terminal
from tests.support.harness import (
    CHOICES_CONFIG,
    BackendServer,
    EndpointServer,
    LabelStudioUser,
    make_png,
    wait_until,
)
from tests.support.json_examples import find_missing_keys, parse_elided_json, parse_last_json
from tests.support.modal_plane import ControlPlane

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "label_config" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCE = re.compile(r"(?:<!-- test: ([\w ]+) -->\n)?^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)
SAID = {"uv run ": "", "pip install uv": "uv --version", "curl -s": "curl -s --fail-with-body"}
"""Programs of this environment, and a failed request is a failure."""
MORE = {
    "prelabel demo": "--labels 10",
    "prelabel connect": "--backend {backend}",
    "prelabel doctor": "--backend {backend}",
    "pytest": f"--collect-only -q --rootdir {ROOT} -c {ROOT}/pyproject.toml",
}
"""Options for what takes long, and for what would look for the backend at its usual port."""
ENDLESS = {
    "prelabel serve": "--port {port}",
    "prelabel endpoint": "--port {port}",
    "prelabel init": "--job binary --labels red,blue --no-browser --backend http://127.0.0.1:{port}",
    "label-studio start": "--port {port} --no-browser --data-dir {folder}/studio",
}
"""What goes on until it is ended: it must listen, and answer at /health."""
APART = {"prelabel endpoint": "PRELABEL_KEPT={folder}/kept "}
"""One endpoint serves the home already."""
PHOTO_BYTES = 400_000
"""A camera's photo is larger than what a command line takes as one argument."""
PLANTS = {"red": "wilting", "blue": "healthy"}
UNTIL_IT_ANSWERS = """
endless() {
    local port=$1; shift
    "$@" & local child=$!
    for attempt in $(seq 900); do
        kill -0 $child || return 1
        curl -so /dev/null "http://127.0.0.1:$port/health" && break
        sleep 0.1
    done
    curl -so /dev/null "http://127.0.0.1:$port/health"
    kill -TERM $child  # a shell makes what it starts beside itself deaf to INT
    wait $child || true
}
"""


@dataclass(frozen=True)
class Block:
    """A block of code: its page and line, what a comment says of it, its language, its text."""

    page: Path
    line: int
    note: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        assert text.count("```") == 2 * len(FENCE.findall(text)), page
        for match in FENCE.finditer(text):
            line = text[: match.start()].count("\n") + 1
            body = re.sub(f"^{match[2]}", "", match[4], flags=re.M)
            found.append(Block(page, line, match[1] or "", match[3], body))
    return found


@dataclass
class Place:
    """Where blocks are run: project 3 of a Label Studio has learned, its function answers."""

    folder: Path
    environment: dict[str, str]
    addresses: dict[str, str]
    printed: str = ""
    demo: str = ""

    def run(self, script: str, **more: str) -> str:
        """Run a script; what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", UNTIL_IT_ANSWERS + script],
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def place(make_studio: MakeStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("docs")
    photos = folder / "photos"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.png").write_bytes(make_png(("red", "blue")[number % 2], number))
    photo = make_png("red", 9) + bytes(PHOTO_BYTES)
    (folder / "plant.jpg").write_bytes(photo)
    studio = make_studio()
    lab = LabelStudioUser(studio.url, studio.token)
    config = CHOICES_CONFIG.format(choice="single")
    for colour, plant in PLANTS.items():
        config = config.replace(colour, plant)
    project = [lab.create_project(config) for _ in range(3)][-1]
    assert project == 3
    tasks = lab.import_colours(project, 6)
    given = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    backend = BackendServer(folder / "home", {**given, "PRELABEL_DETECTOR": "builtin"})
    backend.start()
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in tasks:
        lab.submit_annotation(task, PLANTS[lab.true_labels[task]])
    backend.train_and_wait(project, len(tasks))
    environment = {
        **os.environ,
        **backend.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
    }
    made = Place(folder, environment, {"8080": studio.url, "9090": backend.url})
    environment["KEY"] = json.loads(made.run("prelabel keys create tests --json"))["key"]
    app = EndpointServer(backend.home, {"PRELABEL_CAPTURE_SHARE": "0.999"})
    made.addresses["9091"] = app.url
    yield made
    app.stop()
    backend.stop()
    lab.close()


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_what_stands_there_works(
    block: Block, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match block.language, block.note:
        case "sh", "" if "docker " in block.text:
            check_containers(block.text)
        case "sh", "":
            place.printed = place.run(script(block.text, place))
            if "prelabel demo" in block.text:
                place.demo = place.printed
        case "sh", "on Modal":
            with ControlPlane() as plane:
                home = {"PRELABEL_HOME": str(tmp_path)}
                place.run(script(block.text, place), **plane.client_environment(), **home)
        case "sh", "refused":
            place.printed = place.run(script(block.text, place).replace("--fail-with-body", ""))
        case "json", "shows that":
            assert (
                find_missing_keys(parse_elided_json(block.text), parse_last_json(place.printed))
                == []
            )
        case "yaml", "":
            check_yaml(block.text, tmp_path)
        case "python", "":
            code = addressed(block.text, place)
            place.run(f"{sys.executable} -c {shlex.quote(code)}", PYTHONPATH=f"{ROOT}/serverless")
        case "text", "printed by the demo":
            assert block.text.splitlines()[0] in place.demo
        case "json", "like the answer above":
            assert alike(json.loads(block.text), json.loads(place.printed))
        case "json", "":
            assert set(json.loads(block.text)) == {"type", "title", "status", "detail", "requestId"}
        case "toml", "":
            monkeypatch.setenv("GREENHOUSE_SECRET", "whsec_" + "c2VjcmV0" * 4)
            (tmp_path / "alerts.toml").write_text(block.text)
            assert len(read_alert_rules(tmp_path / "alerts.toml")) == 1
        case "xml", "":
            assert read_config(block.text).controls
        case unknown:
            pytest.fail(f"{block}: nobody runs {unknown}")


def script(text: str, place: Place) -> str:
    """A block as it is run here."""
    text = addressed(text, place).replace("=…", "=${LABEL_STUDIO_API_KEY:-secret}")
    for old, new in SAID.items():
        text = text.replace(old, new)
    text = text.replace("tests/", f"{ROOT}/tests/")
    return "\n".join(whole(line, place) for line in text.splitlines())


def whole(line: str, place: Place) -> str:
    for start, more in MORE.items():
        if line.startswith(start):
            line = f"{line} {more.format(backend=place.addresses['9090'])}"
    for start, more in ENDLESS.items():
        if start in line and (start != "prelabel init" or "--serve" in line):
            port = find_free_port()
            before = APART.get(start, "").format(folder=place.folder)
            line = line.replace(start, f"{before}endless {port} {start}")
            line = f"{line} {more.format(port=port, folder=place.folder)}"
    return line


def addressed(text: str, place: Place) -> str:
    for port, url in place.addresses.items():
        text = text.replace(f"http://localhost:{port}", url)
    return text


OPTIONS = {
    "build": {"--tag": 1, "--build-arg": 1},
    "run": {"--detach": 0, "--publish": 1, "--volume": 1, "--env": 1},
    "compose": {"--profile": 1},
    "compose up": {"--build": 0, "--wait": 0},
    "compose run": {"--rm": 0, "-v": 1},
    "compose exec": {},
}
"""Of Docker, with how many words follow."""


def check_containers(text: str) -> None:
    """What test_container proves by steps: here, that files, services and commands are those."""
    for line in text.splitlines():
        words = shlex.split(line)
        if words[0] == "cp":
            assert (ROOT / words[1]).is_file()
            continue
        assert words.pop(0) == "docker", line
        if words[0] == "compose":
            check_compose(words[1:])
            continue
        command, *rest = words
        given, rest = split(rest, OPTIONS[command])
        for argument in given.get("--build-arg", []):
            assert f"ARG {argument.partition('=')[0]}" in (ROOT / "Dockerfile").read_text()
        assert rest == {"build": ["."], "run": ["prelabel"]}[command]


def check_compose(words: list[str]) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    before, (command, *rest) = split(words, OPTIONS["compose"])
    profiles = [name for service in services.values() for name in service.get("profiles", [])]
    assert set(before.get("--profile", [])) <= set(profiles)
    _, rest = split(rest, OPTIONS[f"compose {command}"])
    if command == "up":
        assert rest == []
        return
    service, *ours = rest
    assert service in services
    if command == "exec":  # after the program's name; what is run comes after the entry point
        assert ours.pop(0) == "prelabel"
    make_parser().parse_args(ours)


def split(words: list[str], known: dict[str, int]) -> tuple[dict[str, list[str]], list[str]]:
    """The options at the beginning with their values, and what follows."""
    given: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        assert option in known, option
        given.setdefault(option, []).extend(rest.pop(0) for _ in range(known[option]))
    return given, rest


def check_yaml(text: str, folder: Path) -> None:
    content = yaml.safe_load(text)
    if set(content) == {"scrape_configs"}:
        return
    assert set(content["services"]) <= {"label-studio", "prelabel", "endpoint"}
    (folder / "compose.yaml").write_text(text)
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.compose-spec"]
    command.append(str(folder / "compose.yaml"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def alike(one: Any, other: Any) -> bool:
    """Two answers have the same fields, however deep."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return bool(one) == bool(other) and (not one or alike(one[0], other[0]))
    return type(one) is type(other)


def test_the_questions_that_the_readme_promises_are_asked_and_lead_to_a_project(
    place: Place, tmp_path: Path
) -> None:
    (typed,) = re.findall(r"^uv run prelabel (init .*)$", (ROOT / "README.md").read_text(), re.M)
    command = shlex.split(typed.replace("~", str(place.folder)))
    nobody = ["--backend", f"http://127.0.0.1:{find_free_port()}", "--no-browser"]
    home = {"PRELABEL_HOME": str(tmp_path)}
    seat = Terminal([*command, *nobody], {**place.environment, **home})
    for question, answer in (
        ("What shall be done", "sort"),
        ("how many there are?", "no"),
        ("small part of a busy picture", "no"),
        ("Can several labels be right", "no"),
        ("Which labels?", "wilting = brown, hanging leaves; healthy"),
    ):
        seat.sees(question)
        seat.types(f"{answer}\n")
    seat.sees("Labels: wilting (brown, hanging leaves), healthy.")
    seat.sees("4 images imported")
    seat.sees("Label a few images of each kind.")
    seat.types("\x03")
    assert seat.ends() == 130


# -- what is said ---------------------------------------------------------------------------


@cache
def sentences() -> str:
    """Every text of the program; what is put in when it runs is left open."""
    return texts([f for folder in ("backend", "serverless") for f in (ROOT / folder).rglob("*.py")])


def texts(files: list[Path]) -> str:
    """Every text in some files of Python."""
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(_part(value) for value in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def _part(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "\0"


def test_every_message_of_the_troubleshooting_page_is_one_of_ours() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = messages(page[page.index("## Prelabel says") : page.index("## What looks wrong")])
    assert len(told) >= 30
    assert [message for message in told if message not in sentences()] == []


def test_every_message_of_label_studio_is_one_of_its_own() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = messages(page[page.index("## Label Studio says") : page.index("## Prelabel says")])
    assert len(told) >= 8
    code = sources("label_studio", "ml", "jwt_auth", "core")
    assert [message for message in told if message not in code] == []


def messages(part: str) -> list[str]:
    """What the first columns of tables quote."""
    rows = [line.split(" | ")[0] for line in part.splitlines() if line.startswith("|")]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


@cache
def sources(package: str, *rooms: str) -> str:
    """The texts in another package's code, each in one line."""
    spec = importlib.util.find_spec(package)
    assert spec
    root = Path(str(spec.origin)).parent
    files = [file for room in rooms for file in (root / room).rglob("*.py")]
    return texts([file for file in files if "tests" not in file.parts])


def test_what_reads_the_pages_works_as_its_examples_say() -> None:
    found = doctest.testmod(tests.support.json_examples)
    assert found.attempted
    assert not found.failed


def named() -> dict[str, Path]:
    """The commands of ours that sentences name, without the program's name."""
    code = re.compile(r"`(?:uv run )?prelabel ([a-z][^`…]*)`")
    return {one: page for page in PAGES for one in code.findall(FENCE.sub("", page.read_text()))}


@pytest.mark.parametrize("command", named())
def test_a_command_that_a_sentence_names_exists(command: str) -> None:
    words = shlex.split(command)
    if words not in [[command.name] for command in COMMANDS]:  # else only named, without what it needs
        make_parser().parse_args(words)  # exits where it cannot be meant


def test_every_route_is_told_of_with_a_request(place: Place) -> None:
    told = (ROOT / "docs" / "api.md").read_text()
    for port in ("9090", "9091"):
        document = httpx.get(f"{place.addresses[port]}/openapi.json", trust_env=False).json()
        for path in document["paths"]:
            like = re.sub(r"\\{[^}]*\\}", "[^/ ]+", re.escape(path))
            assert re.search(rf"curl.*http://localhost:{port}{like}(?:[\s?\"]|$)", told, re.M), path


def test_every_kind_of_problem_is_told_of() -> None:
    told, kinds = (ROOT / "docs" / "api.md").read_text(), set()
    for file in (ROOT / "serverless" / "endpoint").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(ast.Name("Problem"), [_, ast.Constant(str(kind)), *_]):
                    kinds.add(kind)
    assert len(kinds) > 15
    assert {kind for kind in kinds if f"`{kind}`" not in told} == set()


def test_every_setting_is_told_of() -> None:
    code = (ROOT / "backend" / "settings.py").read_text()
    names = set(re.findall(r'"((?:PRELABEL|LABEL_STUDIO)_[A-Z_]+)"', code))
    page = (ROOT / "docs" / "settings.md").read_text()
    assert len(names) >= 30
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda p: p.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    near = [link for link in links if not link.startswith("http")]
    assert [link for link in near if not (page.parent / link).exists()] == []


def test_every_command_is_in_the_readme() -> None:
    page = (ROOT / "README.md").read_text()
    assert [command.name for command in COMMANDS if f"prelabel {command.name}" not in page] == []


def test_it_is_never_left_running(place: Place) -> None:
    """What blocks started is gone with them."""
    here = str(place.folder)
    wait_until("ended", lambda: not _running(here))


def _running(folder: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/studio" in line:
            found.append(line)
    return found
