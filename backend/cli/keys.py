"""``prelabel keys``: create, list and revoke the endpoint's API keys."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backend.cli.command import Command, CommandResult
from backend.cli.projects import find_project
from backend.cli.terminal import format_table, print_line
from backend.errors import PrelabelError, UsageError
from backend.json_records import to_json

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.store.api_keys import ApiKeyStore


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("create", "list", "revoke"), help="action")
    parser.add_argument(
        "name", nargs="?", default="", help="name of the key to create, or id of the key to revoke"
    )
    parser.add_argument(
        "--function",
        action="append",
        default=[],
        metavar="PROJECT",
        help="number or title of a project that the key may use; can be repeated (default: all)",
    )
    parser.add_argument(
        "--rate", type=float, default=100.0, help="rate limit in images per second (default 100)"
    )
    parser.add_argument(
        "--quota", type=int, default=0, help="quota in images per month (default: unlimited)"
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.settings import read_settings
    from backend.store.api_keys import ApiKeyStore

    settings = read_settings()
    keys = ApiKeyStore(settings.home)
    match options.action:
        case "create":
            return _create_key(keys, settings, options)
        case "revoke":
            return _revoke_key(keys, settings, options)
    return _list_keys(keys, options)


def _create_key(
    keys: ApiKeyStore, settings: Settings, options: argparse.Namespace
) -> CommandResult:
    from backend.store.projects import ProjectStore

    if not 0 < options.rate < 1e6 or options.quota < 0:
        raise UsageError("--rate must be above 0, and --quota must not be negative.")
    functions = options.function
    # A key may be created before its project is connected.
    is_before_projects = functions and not ProjectStore(settings.home).all()
    if not is_before_projects:
        functions = [find_project(settings, function).id for function in functions]
    key, text = keys.create(
        options.name, tuple(dict.fromkeys(functions)), options.rate, options.quota
    )
    print_line(text, options)
    print_line(f"Key {key.id} for {key.name}. Copy it now: it is not shown again.", options)
    if is_before_projects:
        print_line(
            "No project is connected yet: the key will be valid for projects with the id "
            f"{', '.join(key.functions)}.",
            options,
        )
    publish_error = _publish_keys(settings)
    if publish_error:
        print_line(f"The endpoint on Modal does not have it yet: {publish_error}", options)
        print_line("Run `prelabel deploy` to publish it.", options)
    return {"id": key.id, "name": key.name, "key": text, "shared": not publish_error}


def _revoke_key(
    keys: ApiKeyStore, settings: Settings, options: argparse.Namespace
) -> CommandResult:
    if not options.name:
        raise UsageError("Which key? `prelabel keys list` shows the ids.")
    key = keys.revoke(options.name)
    publish_error = _publish_keys(settings)
    if publish_error:
        raise PrelabelError(
            f"Key {key.id} ({key.name}) is revoked here, but the endpoint on Modal still accepts "
            f"it: run `prelabel keys revoke {key.id}` again. {publish_error}"
        )
    print_line(f"Key {key.id} ({key.name}) is revoked.", options)
    return {"id": key.id, "revoked": key.revoked}


def _publish_keys(settings: Settings) -> str:
    """Send the keys to the endpoint on Modal; return the error message, or "" on success."""
    from backend.bootstrap import sync_endpoints

    try:
        sync_endpoints(settings)
    except PrelabelError as error:
        return str(error)
    return ""


def _list_keys(keys: ApiKeyStore, options: argparse.Namespace) -> CommandResult:
    all_keys = keys.all()
    rows = [
        (
            key.id,
            key.name,
            ", ".join(key.functions) or "all",
            f"{key.rate:g} images/s",
            f"{key.quota} images a month" if key.quota else "unlimited",
            f"revoked {key.revoked[:10]}" if key.revoked else "active",
        )
        for key in all_keys
    ]
    if rows:
        headers = ("id", "name", "functions", "rate", "quota", "state")
        for line in format_table(headers, rows, options):
            print_line(line, options)
    else:
        print_line("There is no key yet: create one with `prelabel keys create NAME`.", options)
    return {"keys": [{k: v for k, v in to_json(key).items() if k != "hash"} for key in all_keys]}


COMMAND = Command(
    "keys",
    "create, list and revoke the endpoint's API keys",
    "prelabel keys create greenhouse --function 3 --quota 10000",
    _add_options,
    _run,
)
