"""The file of alert rules: read once, checked whole."""

from __future__ import annotations

import base64
import logging
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.errors import UsageError

log = logging.getLogger("prelabel")
MARK = "whsec_"
KEY_BYTES = (24, 64)
"""Of a secret, as Standard Webhooks recommends."""
EXAMPLE = """\
[[alert]]
name = "wilting"
function = "3"
label = "wilting"
confidence = 0.8
url = "https://example.com/hooks/greenhouse"
secret_env = "GREENHOUSE_SECRET"
"""


@dataclass(frozen=True)
class Rule:
    """When somebody is told.

    Attributes:
        name: of the rule.
        function: id of the function that answers.
        label: that it has to give.
        url: where to post to.
        confidence: from which on, 0 to 1.
        count: how many of them have to be found; of boxes and points.
        secret: signs the posts.
    """

    name: str
    function: str
    label: str
    url: str
    confidence: float = 0.5
    count: int = 1
    secret: str = field(default="", repr=False)


def read_rules(file: Path, environment: Mapping[str, str] | None = None) -> list[Rule]:
    """Read the rules; none where there is no file.

    Args:
        file: TOML, a table ``[[alert]]`` a rule.
        environment: where ``secret_env`` is looked up; the process's own when not given.

    Raises:
        UsageError: something in it cannot be meant.
    """
    if not file.exists():
        return []
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as TOML: {error}.") from error
    unknown = content.keys() - {"alert"}
    rows = content.get("alert", [])
    if unknown or not isinstance(rows, list):
        raise UsageError(f"{file} may hold tables [[alert]] only, such as:\n{EXAMPLE}")
    env = os.environ if environment is None else environment
    rules = [_rule(row, f"{file}, alert {i}", env) for i, row in enumerate(rows, 1)]
    names = [rule.name for rule in rules]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"{file} has several alerts named {sorted(twice)[0]!r}: rename one.")
    return rules


def sound_rules(file: Path) -> list[Rule]:
    """The rules that can be meant; the others are told of in the log.

    Where nobody watches, answering goes on without a rule that waits for a secret.
    """
    try:
        return read_rules(file)
    except UsageError as error:
        log.warning("Not all alert rules hold: %s", error)
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8")).get("alert", [])
    except (OSError, ValueError):
        return []
    found: dict[str, Rule] = {}
    for number, row in enumerate(rows if isinstance(rows, list) else [], 1):
        try:
            rule = _rule(row, f"{file}, alert {number}", os.environ)
            found.setdefault(rule.name, rule)
        except UsageError as error:
            log.warning("An alert rule is left out: %s", error)
    return list(found.values())


def check_labels(rules: list[Rule], function: str, labels: frozenset[str]) -> None:
    """Make sure that a function can give what its rules wait for.

    Raises:
        UsageError: it has no such label.
    """
    for rule in rules:
        if rule.function == function and rule.label not in labels:
            known = ", ".join(sorted(labels))
            raise UsageError(
                f"Alert {rule.name!r} waits for label {rule.label!r}, which function {function} "
                f"does not have: {known}."
            )


def check_functions(rules: list[Rule], known: Collection[str]) -> None:
    """Make sure that the functions are there whose answers rules wait for.

    Raises:
        UsageError: one or several are not.
    """
    lost = [f"{r.name!r} for {r.function!r}" for r in rules if r.function not in known]
    if lost:
        there = f"there is: {', '.join(sorted(known))}" if known else "there is none yet"
        told = f"Alerts wait for functions that do not answer ({', '.join(lost)}); {there}."
        raise UsageError(told)


def _rule(row: Any, where: str, env: Mapping[str, str]) -> Rule:
    if not isinstance(row, dict):
        raise UsageError(f"{where} is no table.")
    allowed = {f.name for f in fields(Rule)} | {"secret_env"}
    unknown = sorted(row.keys() - allowed)
    missing = sorted({"function", "label", "url"} - row.keys())
    if unknown:
        raise UsageError(f"{where} has {unknown[0]!r}, which is none of {sorted(allowed)}.")
    if missing:
        raise UsageError(f"{where} needs {missing[0]!r}.")
    function = row["function"]
    if isinstance(function, int) and not isinstance(function, bool):
        function = str(function)  # `function = 3` means what it says
    return Rule(
        name=_text(row.get("name", row["label"]), where, "name"),
        function=_text(function, where, "function"),
        label=_text(row["label"], where, "label"),
        url=_url(row["url"], where),
        confidence=_number(row.get("confidence", 0.5), where, "confidence", 0, 1),
        count=_count(row.get("count", 1), where),
        secret=_secret(row, where, env),
    )


def key_of(secret: str) -> bytes:
    """What a secret signs with: the bytes behind ``whsec_``, in base64; or else its own.

    Raises:
        ValueError: it begins with ``whsec_`` and does not go on as Standard Webhooks has it.
    """
    if not secret.startswith(MARK):
        return secret.encode()
    key = base64.b64decode(secret.removeprefix(MARK), validate=True)
    if not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
        raise ValueError(f"{len(key)} bytes")
    return key


def _secret(row: Mapping[str, Any], where: str, env: Mapping[str, str]) -> str:
    secret, name = row.get("secret", ""), row.get("secret_env", "")
    if not secret:
        if not name:
            raise UsageError(f"{where} needs 'secret_env', the name of a variable with the secret.")
        name = _text(name, where, "secret_env")
        secret = env.get(name, "")
        if not secret:
            raise UsageError(f"{where}: the environment has no {name}; set it to the secret.")
    secret = _text(secret, where, "secret")
    try:
        key_of(secret)
    except ValueError as error:
        raise UsageError(
            f"{where}: a secret that begins with {MARK} goes on with {KEY_BYTES[0]} to "
            f"{KEY_BYTES[1]} bytes in base64: `echo {MARK}$(openssl rand -base64 32)` makes one."
        ) from error
    return secret


def _url(value: Any, where: str) -> str:
    text = _text(value, where, "url")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text:
        raise UsageError(f"{where}: url must be an http or https address, not {text!r}.")
    return text


def _text(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where}: {name} must be a text, not {value!r}.")
    return value


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int):
        raise UsageError(f"{where}: count must be a whole number, not {value!r}.")
    return int(_number(value, where, "count", 1, 100_000))


def _number(value: Any, where: str, name: str, least: float, most: float) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        raise UsageError(f"{where}: {name} must be a number from {least} to {most}, not {value!r}.")
    return float(value)
