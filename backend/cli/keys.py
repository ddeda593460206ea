"""``prelabel keys``: who may ask the endpoint."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from backend.cli import projects as known
from backend.errors import PrelabelError, UsageError
from backend.settings import Settings, read_settings

HELP = "create, list and revoke the endpoint's API keys"
EXAMPLE = "prelabel keys create greenhouse --function 3 --quota 10000"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=("create", "list", "revoke"), help="what to do")
    parser.add_argument("name", nargs="?", default="", help="of the new key; id of the revoked")
    parser.add_argument(
        "--function", action="append", default=[], metavar="PROJECT", help="one it may ask (all)"
    )
    parser.add_argument("--rate", type=float, default=100.0, help="images a second (100)")
    parser.add_argument("--quota", type=int, default=0, help="images a month (no limit)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Do it.

    Raises:
        UsageError: a name is missing, or a number cannot be meant.
        NotThere: no key has this id, or no project this number or title.
    """
    from backend.store.api_keys import Keys

    settings = read_settings()
    keys = Keys(settings.home)
    match options.action:
        case "create":
            return _create(keys, settings, options)
        case "revoke":
            return _revoke(keys, options)
    return _list(keys, options)


def _create(keys: Any, settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import say
    from backend.store.projects import Projects

    if not 0 < options.rate < 1e6 or options.quota < 0:
        raise UsageError("--rate must be above 0, and --quota must not be negative.")
    functions = options.function
    early = functions and not Projects(settings.home).all()  # a key may be made before a project
    if not early:
        functions = [known.find(settings, named).id for named in functions]
    key, text = keys.create(
        options.name, tuple(dict.fromkeys(functions)), options.rate, options.quota
    )
    say(text, options)
    say(f"Key {key.id} for {key.name}. Copy it now: it is shown this once.", options)
    if early:
        named = ", ".join(key.functions)
        say(f"No project is connected yet: the key is for those with the id {named}.", options)
    unknown = _unknown_to()
    if unknown:
        say(f"The endpoint on Modal does not know it yet: {unknown}", options)
        say("`prelabel deploy` brings it there.", options)
    return {"id": key.id, "name": key.name, "key": text, "shared": not unknown}


def _revoke(keys: Any, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import say

    if not options.name:
        raise UsageError("Say which key: `prelabel keys list` shows their ids.")
    key = keys.revoke(options.name)
    unknown = _unknown_to()
    if unknown:
        raise PrelabelError(
            f"Key {key.id} ({key.name}) is revoked here, but the endpoint on Modal still accepts "
            f"it, until `prelabel keys revoke {key.id}` says otherwise: {unknown}"
        )
    say(f"Key {key.id} ({key.name}) is worthless from now on.", options)
    return {"id": key.id, "revoked": key.revoked}


def _unknown_to() -> str:
    """Let endpoints on Modal know of it: why one does not; empty where all do, or there is none."""
    from backend.bootstrap import share

    try:
        share(read_settings())
    except PrelabelError as error:
        return str(error)
    return ""


def _list(keys: Any, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import say

    all_keys = keys.all()
    for key in all_keys:
        functions = ", ".join(key.functions) or "all functions"
        state = f"revoked {key.revoked[:10]}" if key.revoked else f"{key.rate:g} images/s"
        quota = f", {key.quota} a month" if key.quota and not key.revoked else ""
        say(f"{key.id}  {key.name:<20} {functions:<20} {state}{quota}", options)
    if not all_keys:
        say("There is no key yet: `prelabel keys create NAME` makes one.", options)
    return {"keys": [{k: v for k, v in asdict(key).items() if k != "hash"} for key in all_keys]}
