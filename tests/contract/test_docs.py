"""The documentation is correct: code blocks run, quoted messages exist, links lead to files.

A comment in front of a block, ``<!-- test: … -->``, names a check other than running the block.
Commands run as written, except for ``COMMAND_REPLACEMENTS``, ``EXTRA_OPTIONS`` and
``SERVER_OPTIONS``.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import itertools
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
from backend.label_studio.local_server import find_free_port
from tests.support.harness import (
    CHOICES_CONFIG,
    BackendServer,
    EndpointServer,
    LabelStudioUser,
    MakeStudio,
    make_png,
    wait_until,
)
from tests.support.json_examples import find_missing_keys, parse_elided_json, parse_last_json
from tests.support.modal_plane import ControlPlane
from tests.support.room_imports import ARCHITECTURE_PAGE
from tests.support.terminal import Terminal

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "label_config" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCE = re.compile(
    r"(?:<!-- test: ([\w ]+) -->\n)?^( *)```(\w*)(?: (\w+))?\n(.*?)^ *```$", re.M | re.S
)
COMMAND_REPLACEMENTS = {
    "uv run ": "",
    "pip install uv": "uv --version",
    "curl -s": "curl -s --fail-with-body",
}
"""Use the programs of this environment, and let a failed request fail the block."""
EXTRA_OPTIONS = {
    "prelabel demo": "--labels 10",
    "prelabel connect": "--backend {backend}",
    "prelabel doctor": "--backend {backend}",
    "prelabel login": '<<< "$LABEL_STUDIO_API_KEY"',
    "pytest": f"{ROOT}/tests --collect-only -q --rootdir {ROOT} -c {ROOT}/pyproject.toml",
}
"""Options that shorten a command or replace the default port of the backend."""
SERVER_OPTIONS = {
    "prelabel serve": "--port {port}",
    "prelabel endpoint": "--port {port}",
    "prelabel init": "--job binary --labels red,blue --no-browser --backend http://127.0.0.1:{port}",
    "label-studio start": "--port {port} --no-browser --data-dir {folder}/studio",
}
"""Servers, which run until they are stopped; each must answer at /health."""
SERVER_VARIABLES = {"prelabel endpoint": "PRELABEL_KEPT={folder}/kept "}
"""A second endpoint on the same home needs a folder of its own."""
PHOTO_BYTES = 400_000
"""Larger than the longest argument of a command line, as photos of cameras are."""
LABEL_BY_COLOUR = {"red": "wilting", "blue": "healthy"}
RUN_SERVER_FUNCTION = """
run_server() {
    local port=$1; shift
    "$@" & local child=$!
    for attempt in $(seq 900); do
        kill -0 $child || return 1
        curl -so /dev/null "http://127.0.0.1:$port/health" && break
        sleep 0.1
    done
    curl -so /dev/null "http://127.0.0.1:$port/health"
    kill -TERM $child  # background processes of a shell ignore INT
    wait $child || true
}
"""


@dataclass(frozen=True)
class CodeBlock:
    """A block of code on a page.

    Attributes:
        line: of its fence, from 1.
        note: the text of its ``<!-- test: … -->`` comment, or the word after its language.
    """

    page: Path
    line: int
    note: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def code_blocks() -> list[CodeBlock]:
    found = []
    for page in PAGES:
        text = page.read_text()
        assert text.count("```") == 2 * len(FENCE.findall(text)), page
        for match in FENCE.finditer(text):
            line = text[: match.start()].count("\n") + 1
            body = re.sub(f"^{match[2]}", "", match[5], flags=re.M)
            found.append(CodeBlock(page, line, match[1] or match[4] or "", match[3], body))
    return found


@dataclass
class DocsServers:
    """Servers for the blocks: Label Studio, whose project 3 has a version, and two of ours."""

    folder: Path
    environment: dict[str, str]
    addresses: dict[str, str]
    last_output: str = ""
    demo_output: str = ""

    def run(self, script: str, **more: str) -> str:
        """Run a script and return its output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", RUN_SERVER_FUNCTION + script],
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
def servers(
    make_studio: MakeStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DocsServers]:
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
    for colour, plant in LABEL_BY_COLOUR.items():
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
        lab.submit_annotation(task, LABEL_BY_COLOUR[lab.true_labels[task]])
    backend.train_and_wait(project, len(tasks))
    environment = {
        **os.environ,
        **backend.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
    }
    made = DocsServers(folder, environment, {"8080": studio.url, "9090": backend.url})
    environment["KEY"] = json.loads(made.run("prelabel keys create tests --json"))["key"]
    app = EndpointServer(backend.home, {"PRELABEL_CAPTURE_SHARE": "0.999"})
    made.addresses["9091"] = app.url
    yield made
    app.stop()
    backend.stop()
    lab.close()


@pytest.mark.parametrize("block", code_blocks(), ids=str)
def test_a_code_block_works_as_written(
    block: CodeBlock, servers: DocsServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match block.language, block.note:
        case "sh", "" if "docker " in block.text:
            check_containers(block.text)
        case "sh", "":
            servers.last_output = servers.run(prepare_script(block.text, servers))
            if "prelabel demo" in block.text:
                servers.demo_output = servers.last_output
        case "sh", "on Modal":
            with ControlPlane() as plane:
                home = {"PRELABEL_HOME": str(tmp_path)}
                servers.run(
                    prepare_script(block.text, servers), **plane.client_environment(), **home
                )
        case "sh", "options of uv":
            check_uv_options(block.text)
        case "sh", "refused":
            servers.last_output = servers.run(
                prepare_script(block.text, servers).replace("--fail-with-body", "")
            )
        case "json", "shows that":
            assert (
                find_missing_keys(
                    parse_elided_json(block.text), parse_last_json(servers.last_output)
                )
                == []
            )
        case "yaml", "":
            check_yaml(block.text, tmp_path)
        case "python", "":
            code = replace_addresses(block.text, servers)
            servers.run(f"{sys.executable} -c {shlex.quote(code)}", PYTHONPATH=f"{ROOT}/serverless")
        case "text", "printed by the demo":
            assert block.text.splitlines()[0] in servers.demo_output
        case "text", "imports":
            assert block.page == ARCHITECTURE_PAGE  # test_architecture.py compares the text
        case "json", "like the answer above":
            assert has_same_fields(json.loads(block.text), json.loads(servers.last_output))
        case "json", "":
            assert set(json.loads(block.text)) == {"type", "title", "status", "detail", "requestId"}
        case "toml", "":
            monkeypatch.setenv("GREENHOUSE_SECRET", "whsec_" + "c2VjcmV0" * 4)
            (tmp_path / "alerts.toml").write_text(block.text)
            assert len(read_alert_rules(tmp_path / "alerts.toml")) == 1
        case "xml", "":
            assert read_config(block.text).controls
        case unknown:
            pytest.fail(f"{block}: no check for {unknown}")


def check_uv_options(text: str) -> None:
    """Check that uv has the options; the commands would change the environment of the tests."""
    for line in text.splitlines():
        words = shlex.split(line)
        if words[0] != "uv":
            continue
        command = list(itertools.takewhile(str.isalpha, words[1:]))
        help_text = subprocess.run(
            ["uv", *command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert [word for word in words if word.startswith("--") and word not in help_text] == []


def prepare_script(text: str, servers: DocsServers) -> str:
    """Return a block's commands with the addresses and options of this test."""
    text = replace_addresses(text, servers).replace("=…", "=${LABEL_STUDIO_API_KEY:-secret}")
    for old, new in COMMAND_REPLACEMENTS.items():
        text = text.replace(old, new)
    text = text.replace("tests/", f"{ROOT}/tests/")
    return "\n".join(prepare_line(line, servers) for line in text.splitlines())


def prepare_line(line: str, servers: DocsServers) -> str:
    for start, more in EXTRA_OPTIONS.items():
        if line.startswith(start):
            line = f"{line} {more.format(backend=servers.addresses['9090'])}"
    for start, more in SERVER_OPTIONS.items():
        if start in line and (start != "prelabel init" or "--serve" in line):
            port = find_free_port()
            before = SERVER_VARIABLES.get(start, "").format(folder=servers.folder)
            line = line.replace(start, f"{before}run_server {port} {start}")
            line = f"{line} {more.format(port=port, folder=servers.folder)}"
    return line


def replace_addresses(text: str, servers: DocsServers) -> str:
    for port, url in servers.addresses.items():
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
"""Options of docker commands, and how many values each takes."""


def check_containers(text: str) -> None:
    """Check that files, services and commands exist; test_container.py runs them."""
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
        given, rest = split_options(rest, OPTIONS[command])
        for argument in given.get("--build-arg", []):
            assert f"ARG {argument.partition('=')[0]}" in (ROOT / "Dockerfile").read_text()
        assert rest == {"build": ["."], "run": ["prelabel"]}[command]


def check_compose(words: list[str]) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    before, (command, *rest) = split_options(words, OPTIONS["compose"])
    profiles = [name for service in services.values() for name in service.get("profiles", [])]
    assert set(before.get("--profile", [])) <= set(profiles)
    _, rest = split_options(rest, OPTIONS[f"compose {command}"])
    if command == "up":
        assert rest == []
        return
    service, *ours = rest
    assert service in services
    if command == "exec":  # exec does not use the entry point
        assert ours.pop(0) == "prelabel"
    make_parser().parse_args(ours)


def split_options(
    words: list[str], known: dict[str, int]
) -> tuple[dict[str, list[str]], list[str]]:
    """Split leading options with their values from the words that follow."""
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


def has_same_fields(one: Any, other: Any) -> bool:
    """Return whether two responses have the same fields at every depth."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            has_same_fields(one[key], other[key]) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return bool(one) == bool(other) and (not one or has_same_fields(one[0], other[0]))
    return type(one) is type(other)


def test_the_questions_in_the_readme_are_asked_and_lead_to_a_project(
    servers: DocsServers, tmp_path: Path
) -> None:
    (typed,) = re.findall(r"^uv run prelabel (init .*)$", (ROOT / "README.md").read_text(), re.M)
    command = shlex.split(typed.replace("~", str(servers.folder)))
    nobody = ["--backend", f"http://127.0.0.1:{find_free_port()}", "--no-browser"]
    home = {"PRELABEL_HOME": str(tmp_path)}
    terminal = Terminal([*command, *nobody], {**servers.environment, **home})
    for question, answer in (
        ("What is the task", "sort"),
        ("number of objects matter", "no"),
        ("small part of a busy image", "no"),
        ("Can an image have several labels", "no"),
        ("Which labels?", "wilting = brown, hanging leaves; healthy"),
    ):
        terminal.wait_for(question)
        terminal.type(f"{answer}\n")
    terminal.wait_for("Labels and their keys: wilting [1] (brown, hanging leaves), healthy [2].")
    terminal.wait_for("4 images imported")
    terminal.wait_for("Label a few images of each kind.")
    terminal.type("\x03")
    assert terminal.wait_for_exit() == 130


# -- messages, commands, links ---------------------------------------------------------------


@cache
def product_texts() -> str:
    """Return every string of the product, with ``\\0`` for values that are filled in."""
    folders = ("backend", "serverless", "demo")
    return python_texts([file for folder in folders for file in (ROOT / folder).rglob("*.py")])


def python_texts(files: list[Path]) -> str:
    """Return every string of some Python files, one per line."""
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(_text_part(value) for value in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def _text_part(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "\0"


def test_messages_under_prelabel_on_the_troubleshooting_page_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = quoted_messages(
        page[page.index("## Prelabel says") : page.index("## What looks wrong")]
    )
    assert len(messages) >= 30
    assert [message for message in messages if message not in product_texts()] == []


def test_messages_under_label_studio_on_the_troubleshooting_page_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = quoted_messages(
        page[page.index("## Label Studio says") : page.index("## Prelabel says")]
    )
    assert len(messages) >= 8
    code = package_texts("label_studio", "ml", "jwt_auth", "core")
    assert [message for message in messages if message not in code] == []


def quoted_messages(part: str) -> list[str]:
    """Return the code quoted in the first columns of tables."""
    rows = [line.split(" | ")[0] for line in part.splitlines() if line.startswith("|")]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


@cache
def package_texts(package: str, *rooms: str) -> str:
    """Return every string in folders of an installed package, one per line."""
    spec = importlib.util.find_spec(package)
    assert spec
    root = Path(str(spec.origin)).parent
    files = [file for room in rooms for file in (root / room).rglob("*.py")]
    return python_texts([file for file in files if "tests" not in file.relative_to(root).parts])


def test_the_examples_in_json_examples_run() -> None:
    found = doctest.testmod(tests.support.json_examples)
    assert found.attempted
    assert not found.failed


def commands_in_sentences() -> dict[str, Path]:
    """Return the `prelabel` commands quoted in sentences, with the page of each."""
    code = re.compile(r"`(?:uv run )?prelabel ([a-z][^`…]*)`")
    return {one: page for page in PAGES for one in code.findall(FENCE.sub("", page.read_text()))}


@pytest.mark.parametrize("command", commands_in_sentences())
def test_a_command_quoted_in_a_sentence_is_valid(command: str) -> None:
    words = shlex.split(command)
    if words not in [[command.name] for command in COMMANDS]:  # a bare name may lack arguments
        make_parser().parse_args(words)  # exits if it is invalid


def test_every_route_has_an_example_request(servers: DocsServers) -> None:
    page_text = (ROOT / "docs" / "api.md").read_text()
    for port in ("9090", "9091"):
        document = httpx.get(f"{servers.addresses[port]}/openapi.json", trust_env=False).json()
        for path in document["paths"]:
            like = re.sub(r"\\{[^}]*\\}", "[^/ ]+", re.escape(path))
            assert re.search(
                rf"curl.*http://localhost:{port}{like}(?:[\s?\"]|$)", page_text, re.M
            ), path


def test_every_problem_type_is_documented() -> None:
    page_text, kinds = (ROOT / "docs" / "api.md").read_text(), set()
    for file in (ROOT / "backend" / "endpoint").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(ast.Name("ProblemError"), [_, ast.Constant(str(kind)), *_]):
                    kinds.add(kind)
    assert len(kinds) > 15
    assert {kind for kind in kinds if f"`{kind}`" not in page_text} == set()


def test_every_setting_is_documented() -> None:
    code = (ROOT / "backend" / "settings.py").read_text()
    names = set(re.findall(r'"((?:PRELABEL|LABEL_STUDIO)_[A-Z_]+)"', code))
    page = (ROOT / "docs" / "settings.md").read_text()
    assert len(names) >= 30
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)\s]+)\)", page.read_text())
    targets = [(link, page.parent / link.partition("#")[0]) for link in links]
    broken = [link for link, file in targets if "#" not in link and not file.exists()]
    for link, file in targets:
        name, _, anchor = link.partition("#")
        target = file if name else page
        if anchor and (not target.exists() or anchor not in heading_anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def heading_anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_is_in_the_readme() -> None:
    page = (ROOT / "README.md").read_text()
    assert [command.name for command in COMMANDS if f"prelabel {command.name}" not in page] == []


def test_no_server_of_a_block_is_still_running(servers: DocsServers) -> None:
    here = str(servers.folder)
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
