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
    from backend.store.api_keys import ApiKeyStore

    settings = read_settings()
    keys = ApiKeyStore(settings.home)
    match options.action:
        case "create":
            return _create_key(keys, settings, options)
        case "revoke":
            return _revoke_key(keys, options)
    return _list_keys(keys, options)


def _create_key(keys: Any, settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import print_line
    from backend.store.projects import ProjectStore

    if not 0 < options.rate < 1e6 or options.quota < 0:
        raise UsageError("--rate must be above 0, and --quota must not be negative.")
    functions = options.function
    is_before_projects = (
        functions and not ProjectStore(settings.home).all()
    )  # a key may be made before a project
    if not is_before_projects:
        functions = [known.find_project(settings, function_ids).id for function_ids in functions]
    key, text = keys.create(
        options.name, tuple(dict.fromkeys(functions)), options.rate, options.quota
    )
    print_line(text, options)
    print_line(f"Key {key.id} for {key.name}. Copy it now: it is shown this once.", options)
    if is_before_projects:
        function_ids = ", ".join(key.functions)
        print_line(
            f"No project is connected yet: the key is for those with the id {function_ids}.",
            options,
        )
    share_error = _share_keys()
    if share_error:
        print_line(f"The endpoint on Modal does not know it yet: {share_error}", options)
        print_line("`prelabel deploy` brings it there.", options)
    return {"id": key.id, "name": key.name, "key": text, "shared": not share_error}


def _revoke_key(keys: Any, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import print_line

    if not options.name:
        raise UsageError("Say which key: `prelabel keys list` shows their ids.")
    key = keys.revoke(options.name)
    share_error = _share_keys()
    if share_error:
        raise PrelabelError(
            f"Key {key.id} ({key.name}) is revoked here, but the endpoint on Modal still accepts "
            f"it, until `prelabel keys revoke {key.id}` says otherwise: {share_error}"
        )
    print_line(f"Key {key.id} ({key.name}) is worthless from now on.", options)
    return {"id": key.id, "revoked": key.revoked}


def _share_keys() -> str:
    """Let endpoints on Modal know of it: why one does not; empty where all do, or there is none."""
    from backend.bootstrap import publish_to_endpoints

    try:
        publish_to_endpoints(read_settings())
    except PrelabelError as error:
        return str(error)
    return ""


def _list_keys(keys: Any, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import print_line

    all_keys = keys.all()
    for key in all_keys:
        functions = ", ".join(key.functions) or "all functions"
        state = f"revoked {key.revoked[:10]}" if key.revoked else f"{key.rate:g} images/s"
        quota = f", {key.quota} a month" if key.quota and not key.revoked else ""
        print_line(f"{key.id}  {key.name:<20} {functions:<20} {state}{quota}", options)
    if not all_keys:
        print_line("There is no key yet: `prelabel keys create NAME` makes one.", options)
    return {"keys": [{k: v for k, v in asdict(key).items() if k != "hash"} for key in all_keys]}
