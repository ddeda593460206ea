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
SECRET_PREFIX = "whsec_"
KEY_SIZE_BYTES = (24, 64)
"""Of a secret, as Standard Webhooks recommends."""
EXAMPLE_RULES = """\
[[alert]]
name = "wilting"
function = "3"
label = "wilting"
confidence = 0.8
url = "https://example.com/hooks/greenhouse"
secret_env = "GREENHOUSE_SECRET"
"""


@dataclass(frozen=True)
class AlertRule:
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


def read_alert_rules(file: Path, environment: Mapping[str, str] | None = None) -> list[AlertRule]:
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
        raise UsageError(f"{file} may hold tables [[alert]] only, such as:\n{EXAMPLE_RULES}")
    env = os.environ if environment is None else environment
    rules = [_parse_rule(row, f"{file}, alert {i}", env) for i, row in enumerate(rows, 1)]
    names = [rule.name for rule in rules]
    duplicate_names = {name for name in names if names.count(name) > 1}
    if duplicate_names:
        raise UsageError(
            f"{file} has several alerts named {sorted(duplicate_names)[0]!r}: rename one."
        )
    return rules


def read_valid_rules(file: Path) -> list[AlertRule]:
    """The rules that can be meant; the others are told of in the log.

    Where nobody watches, answering goes on without a rule that waits for a secret.
    """
    try:
        return read_alert_rules(file)
    except UsageError as error:
        log.warning("Not all alert rules hold: %s", error)
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8")).get("alert", [])
    except (OSError, ValueError):
        return []
    rules_by_name: dict[str, AlertRule] = {}
    for number, row in enumerate(rows if isinstance(rows, list) else [], 1):
        try:
            rule = _parse_rule(row, f"{file}, alert {number}", os.environ)
            rules_by_name.setdefault(rule.name, rule)
        except UsageError as error:
            log.warning("An alert rule is left out: %s", error)
    return list(rules_by_name.values())


def check_rule_labels(rules: list[AlertRule], function: str, labels: frozenset[str]) -> None:
    """Make sure that a function can give what its rules wait for.

    Raises:
        UsageError: it has no such label.
    """
    for rule in rules:
        if rule.function == function and rule.label not in labels:
            known_labels = ", ".join(sorted(labels))
            raise UsageError(
                f"Alert {rule.name!r} waits for label {rule.label!r}, which function {function} "
                f"does not have: {known_labels}."
            )


def check_rule_functions(rules: list[AlertRule], known_functions: Collection[str]) -> None:
    """Make sure that the functions are there whose answers rules wait for.

    Raises:
        UsageError: one or several are not.
    """
    missing_rules = [
        f"{r.name!r} for {r.function!r}" for r in rules if r.function not in known_functions
    ]
    if missing_rules:
        available = (
            f"there is: {', '.join(sorted(known_functions))}"
            if known_functions
            else "there is none yet"
        )
        message = f"Alerts wait for functions that do not answer ({', '.join(missing_rules)}); {available}."
        raise UsageError(message)


def _parse_rule(row: Any, location: str, env: Mapping[str, str]) -> AlertRule:
    if not isinstance(row, dict):
        raise UsageError(f"{location} is no table.")
    allowed = {rule_field.name for rule_field in fields(AlertRule)} | {"secret_env"}
    unknown = sorted(row.keys() - allowed)
    missing = sorted({"function", "label", "url"} - row.keys())
    if unknown:
        raise UsageError(f"{location} has {unknown[0]!r}, which is none of {sorted(allowed)}.")
    if missing:
        raise UsageError(f"{location} needs {missing[0]!r}.")
    function = row["function"]
    if isinstance(function, int) and not isinstance(function, bool):
        function = str(function)  # `function = 3` means what it says
    return AlertRule(
        name=_parse_text(row.get("name", row["label"]), location, "name"),
        function=_parse_text(function, location, "function"),
        label=_parse_text(row["label"], location, "label"),
        url=_parse_url(row["url"], location),
        confidence=_parse_number(row.get("confidence", 0.5), location, "confidence", 0, 1),
        count=_parse_count(row.get("count", 1), location),
        secret=_parse_secret(row, location, env),
    )


def signing_key(secret: str) -> bytes:
    """What a secret signs with: the bytes behind ``whsec_``, in base64; or else its own.

    Raises:
        ValueError: it begins with ``whsec_`` and does not go on as Standard Webhooks has it.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    if not KEY_SIZE_BYTES[0] <= len(key) <= KEY_SIZE_BYTES[1]:
        raise ValueError(f"{len(key)} bytes")
    return key


def _parse_secret(row: Mapping[str, Any], location: str, env: Mapping[str, str]) -> str:
    secret, name = row.get("secret", ""), row.get("secret_env", "")
    if not secret:
        if not name:
            raise UsageError(
                f"{location} needs 'secret_env', the name of a variable with the secret."
            )
        name = _parse_text(name, location, "secret_env")
        secret = env.get(name, "")
        if not secret:
            raise UsageError(f"{location}: the environment has no {name}; set it to the secret.")
    secret = _parse_text(secret, location, "secret")
    try:
        signing_key(secret)
    except ValueError as error:
        raise UsageError(
            f"{location}: a secret that begins with {SECRET_PREFIX} goes on with {KEY_SIZE_BYTES[0]} to "
            f"{KEY_SIZE_BYTES[1]} bytes in base64: `echo {SECRET_PREFIX}$(openssl rand -base64 32)` makes one."
        ) from error
    return secret


def _parse_url(value: Any, location: str) -> str:
    text = _parse_text(value, location, "url")
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or not text.isprintable() or " " in text:
        raise UsageError(f"{location}: url must be an http or https address, not {text!r}.")
    return text


def _parse_text(value: Any, location: str, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{location}: {name} must be a text, not {value!r}.")
    return value


def _parse_count(value: Any, location: str) -> int:
    if not isinstance(value, int):
        raise UsageError(f"{location}: count must be a whole number, not {value!r}.")
    return int(_parse_number(value, location, "count", 1, 100_000))


def _parse_number(value: Any, location: str, name: str, minimum: float, maximum: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not minimum <= value <= maximum:
        raise UsageError(
            f"{location}: {name} must be a number from {minimum} to {maximum}, not {value!r}."
        )
    return float(value)
