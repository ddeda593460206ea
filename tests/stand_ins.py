"""Programs that documents name and that do not run to their end in a test.

``python -m tests.stand_ins PROGRAM ARGUMENT…`` checks that such a command exists, with its options,
or starts a server and lets it answer once. Anything unknown fails.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import yaml

from backend.cli.main import _parser

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SERVERS = ("serve", "endpoint")
LONG = ("demo", "advise")
"""Commands of ours that take minutes; tests of their own run them."""
PROGRAMS: dict[str, Callable[[list[str]], None]] = {}
PARTS = {"up", "down", "exec", "run", "logs", "build", "pull", "ps", "restart", "config"}
"""Of ``docker compose``."""
COMPOSE_OPTIONS = {
    *("--detach", "--wait", "--build", "--rm", "--volumes", "--follow", "--profile", "--volume"),
    *("--env", "--file", "--no-deps"),
}
WITH_VALUE = {
    "--profile",
    "--volume",
    "--env",
    "--file",
    "--publish",
    "--tag",
    "--build-arg",
    "--name",
}
DOCKER_OPTIONS = {"--detach", "--rm", "--gpus", *WITH_VALUE}


class Wrong(Exception):
    """A document names what does not exist."""


def program(run: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """A stand-in; its name is the program's."""
    PROGRAMS[run.__name__.replace("_", "-")] = run
    return run


@program
def prelabel(words: list[str]) -> None:
    """Ours: run, but for what serves for ever, takes minutes, or asks a person."""
    command = next((word for word in words if not word.startswith("-")), "")
    options = _parser().parse_args(words)
    stays = command == "init" and (options.serve or not options.job)  # or asks a person
    if command in LONG or stays:
        return
    if command in SERVERS:
        _answers_once(words)
        return
    if "--backend" not in words and hasattr(options, "backend"):
        words = [*words, "--backend", os.environ["BACKEND"]]  # where it runs in the test
    raise SystemExit(subprocess.run([BIN / "prelabel", *words], check=False).returncode)


def _answers_once(words: Sequence[str]) -> None:
    """Start a server at another port, in a home of its own if it would write, and end it."""
    environment = dict(os.environ)
    if words[0] != "endpoint":
        environment["PRELABEL_HOME"] = environment["EMPTY_HOME"]
    command = [str(BIN / "prelabel"), *words, "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                found = re.search(r"listens at (http://[\w.:]+)", line)
                if found:
                    status = httpx.get(f"{found[1]}/health", trust_env=False).status_code
                    if status not in (200, 401):
                        raise Wrong(f"{found[1]} answers with {status}")
                    return
        finally:
            server.terminate()
    raise Wrong(f"{words} serves nothing")


@program
def uv(words: list[str]) -> None:
    """``uv run PROGRAM``: the program; ``uv sync``: as it is."""
    if words[0] == "run":
        run(words[1], words[2:])
    elif words != ["sync"]:
        raise Wrong(f"uv {words}")


@program
def pytest(words: list[str]) -> None:
    """Its folders are there."""
    for word in words:
        if not word.startswith("-") and not word.isdigit() and not (ROOT / word).exists():
            raise Wrong(f"there is no {word}")


@program
def pip(words: list[str]) -> None:
    """Installs what the project knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = (project["project"]["dependencies"], project["dependency-groups"]["dev"])
    known = {re.split(r"[\s;<>=\[]", line)[0] for lines in lists for line in lines}
    if words[0] != "install" or not set(words[1:]) <= known:
        raise Wrong(f"pip {words}: not among {sorted(known)}")


@program
def modal(words: list[str]) -> None:
    """Its command line."""
    done = subprocess.run(
        [BIN / "modal", *words, "--help"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Wrong(done.stderr)


@program
def label_studio(words: list[str]) -> None:
    """Its command line; a server that would run for ever."""
    shown = subprocess.run(
        [BIN / "label-studio", *words[:1], "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in (word for word in words if word.startswith("--")):
        if option not in shown:
            raise Wrong(f"label-studio has no {option}")


@program
def docker(words: list[str]) -> None:
    """``docker compose``, ``build`` and ``run``; what is run inside is checked as ours."""
    match words:
        case ["compose", *rest]:
            _compose(rest)
        case ["build", *rest]:
            options, names = _split(rest, DOCKER_OPTIONS)
            _known(options, DOCKER_OPTIONS)
            for argument in options.get("--build-arg", []):
                if f"ARG {argument.partition('=')[0]}" not in (ROOT / "Dockerfile").read_text():
                    raise Wrong(f"the Dockerfile has no ARG {argument}")
            if names != ["."]:
                raise Wrong(f"docker build {names}")
        case ["run", *rest]:
            options, names = _split(rest, DOCKER_OPTIONS)
            _known(options, DOCKER_OPTIONS)
            _ours(names[0] == "prelabel", names[1:] or ["serve"])
        case _:
            raise Wrong(f"docker {words}")


def _compose(words: list[str]) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    before, rest = _split(words, COMPOSE_OPTIONS)
    part, *rest = rest
    options, names = _split(rest, COMPOSE_OPTIONS)
    _known({**before, **options}, COMPOSE_OPTIONS)
    profiles = {name for service in services.values() for name in service.get("profiles", ())}
    if not set(before.get("--profile", [])) <= profiles:
        raise Wrong(f"no service has the profile {before['--profile']}")
    if part not in PARTS or (names and names[0] not in services):
        raise Wrong(f"docker compose {part} {names[:1]}")
    if part == "exec":  # as typed: the program's name first
        _ours(names[1] == "prelabel", names[2:])
    elif part == "run":  # after the image's entry point
        _ours("build" in services[names[0]], names[1:])


def _ours(is_ours: bool, words: Sequence[str]) -> None:
    if not is_ours:
        raise Wrong(f"{words} is run in an image of others")
    _parser().parse_args(words)


def _split(words: Sequence[str], known: set[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options at the beginning with their values, and the rest."""
    options: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        options.setdefault(option, []).extend([rest.pop(0)] if option in WITH_VALUE else [])
    return options, rest


def _known(options: dict[str, list[str]], known: set[str]) -> None:
    unknown = options.keys() - known
    if unknown:
        raise Wrong(f"options {sorted(unknown)} are not known here")


def run(name: str, words: list[str]) -> None:
    """One command.

    Raises:
        Wrong: it does not exist.
    """
    if name not in PROGRAMS:
        raise Wrong(f"nothing stands in for {name}")
    PROGRAMS[name](words)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    options, words = parser.parse_known_args()
    try:
        run(options.program, words)
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
