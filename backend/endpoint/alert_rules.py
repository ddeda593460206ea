"""Read and validate alert rules: ``alerts.toml`` in ``PRELABEL_HOME``."""

from __future__ import annotations

import base64
import logging
import os
import threading
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from backend.errors import UsageError
from backend.store.files import file_signature

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

log = logging.getLogger("prelabel")
ALERT_RULES_FILENAME = "alerts.toml"
SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret
KEY_SIZE_BYTES = (24, 64)
"""Allowed sizes of a signing key, as Standard Webhooks recommends."""
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
    """The condition for an alert, and the webhook that receives it.

    Attributes:
        name: name of the rule.
        function: id of the function whose predictions are checked.
        label: the label to alert on.
        url: URL of the webhook.
        confidence: minimum confidence, 0 to 1.
        count: minimum number of objects with that confidence, for boxes and points.
        secret: signing secret of the webhook.
    """

    name: str
    function: str
    label: str
    url: str
    confidence: float = 0.5
    count: int = 1
    secret: str = field(default="", repr=False)


def _integer_to_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or not url.isprintable() or " " in url:
        raise PydanticCustomError("url", "Input should be an http or https URL")
    return url


Text = Annotated[str, Field(pattern=r"\S")]


class AlertTable(BaseModel):
    """An ``[[alert]]`` table; the environment variable ``secret_env`` may hold the secret."""

    model_config = ConfigDict(extra="forbid", strict=True)

    function: Annotated[Text, BeforeValidator(_integer_to_text)]
    label: Text
    url: Annotated[Text, AfterValidator(_check_url)]
    name: Text | None = None
    confidence: float = Field(default=0.5, ge=0, le=1)
    count: int = Field(default=1, ge=1, le=100_000)
    secret: str = ""
    secret_env: str = ""


def read_alert_rules(file: Path, environment: Mapping[str, str] | None = None) -> list[AlertRule]:
    """Return the alert rules of a file; an empty list if the file does not exist.

    Args:
        file: TOML file with an ``[[alert]]`` table per rule.
        environment: environment variables with the secrets; ``os.environ`` by default.

    Raises:
        UsageError: the file or one of its rules is invalid.
    """
    env = os.environ if environment is None else environment
    rules: dict[str, AlertRule] = {}
    for location, table in _read_tables(file):
        rule = _parse_rule(table, location, env)
        if rule.name in rules:
            raise UsageError(f"{file} has several alerts named {rule.name!r}: rename one.")
        rules[rule.name] = rule
    return list(rules.values())


def read_valid_rules(file: Path) -> list[AlertRule]:
    """Return the valid alert rules of a file, and log the invalid ones.

    On Modal the endpoint must start even if the secret of a rule is missing.
    """
    rules: dict[str, AlertRule] = {}
    try:
        for location, table in _read_tables(file):
            try:
                rule = _parse_rule(table, location, os.environ)
                rules.setdefault(rule.name, rule)
            except UsageError as error:
                log.warning("Ignoring an invalid alert rule: %s", error)
    except UsageError as error:
        log.warning("Ignoring all alert rules: %s", error)
    return list(rules.values())


class AlertRulesFile:
    """The alert rules of a file, which are read again when the file changes; thread-safe.

    Args:
        file: TOML file of the rules.
        read: reads the rules of a file.

    Attributes:
        rules: the current rules; the list is updated in place, so other objects can share it.

    Raises:
        UsageError: the file or one of its rules is invalid.
    """

    def __init__(
        self, file: Path, read: Callable[[Path], list[AlertRule]] = read_alert_rules
    ) -> None:
        self._file = file
        self._read = read
        self._lock = threading.Lock()
        self._signature = file_signature(file)
        self.rules = read(file)
        if self._signature:
            self._log_names()

    def reload(self) -> bool:
        """Read the rules if the file changed, and return whether they were replaced.

        An invalid file is logged, and the rules stay as they were.
        """
        with self._lock:
            signature = file_signature(self._file)
            if signature == self._signature:
                return False
            self._signature = signature
            try:
                self.rules[:] = self._read(self._file)
            except UsageError as error:
                log.error("The alert rules stay as they were: %s", error)
                return False
            self._log_names()
            return True

    def _log_names(self) -> None:
        names = ", ".join(f"{rule.name} (function {rule.function})" for rule in self.rules)
        log.info("Alert rules loaded from %s: %s", self._file, names or "none")


def _read_tables(file: Path) -> Iterator[tuple[str, object]]:
    """Yield the location (for error messages) and the content of each table."""
    if not file.exists():
        return
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as TOML: {error}.") from error
    tables = content.get("alert", [])
    if content.keys() - {"alert"} or not isinstance(tables, list):
        raise UsageError(f"{file} may only contain tables [[alert]], such as:\n{EXAMPLE_RULES}")
    yield from ((f"{file}, alert {number}", table) for number, table in enumerate(tables, 1))


def _parse_rule(content: object, location: str, env: Mapping[str, str]) -> AlertRule:
    try:
        table = AlertTable.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{location}: {_describe_error(error.errors()[0])}.") from None
    return AlertRule(
        name=table.name or table.label,
        function=table.function,
        label=table.label,
        url=table.url,
        confidence=table.confidence,
        count=table.count,
        secret=_find_secret(table, location, env),
    )


def _describe_error(error: ErrorDetails) -> str:
    """Return a description of a validation error; it does not contain the secret."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name!r} is missing"
    if error["type"] == "extra_forbidden":
        return f"{name!r} is not one of {', '.join(AlertTable.model_fields)}"
    shown_value = "" if name == "secret" else f", not {error['input']!r}"
    return f"{name or 'the table'}: {error['msg']}{shown_value}"


def _find_secret(table: AlertTable, location: str, env: Mapping[str, str]) -> str:
    secret = table.secret
    if not secret:
        if not table.secret_env:
            raise UsageError(
                f"{location}: set 'secret_env' to the name of an environment variable with the "
                "secret."
            )
        secret = env.get(table.secret_env, "")
        if not secret:
            raise UsageError(
                f"{location}: the environment variable {table.secret_env} is not set: set it to "
                "the secret."
            )
    try:
        signing_key(secret)
    except ValueError as error:
        low, high = KEY_SIZE_BYTES
        raise UsageError(
            f"{location}: a secret that starts with {SECRET_PREFIX} must continue with {low} to "
            f"{high} bytes in base64: make one with `echo {SECRET_PREFIX}$(openssl rand -base64 "
            "32)`."
        ) from error
    return secret


def signing_key(secret: str) -> bytes:
    """Return the signing key: the base64-decoded part after ``whsec_``, or the raw bytes.

    Raises:
        ValueError: the part after ``whsec_`` is not base64, or too short or too long.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    if not KEY_SIZE_BYTES[0] <= len(key) <= KEY_SIZE_BYTES[1]:
        raise ValueError(f"{len(key)} bytes")
    return key


def log_unknown_labels(rules: Sequence[AlertRule], function: str, labels: Collection[str]) -> None:
    """Log the rules of a function whose label the function cannot predict."""
    for rule in rules:
        if rule.function == function and rule.label not in labels:
            log.error(
                "Alert rule %r: function %s has no label %r; its labels are: %s.",
                *(rule.name, function, rule.label, ", ".join(sorted(labels))),
            )


def log_unknown_functions(rules: Sequence[AlertRule], functions: Collection[str]) -> None:
    """Log the rules for functions that do not exist."""
    unknown = [f"{r.function!r} (rule {r.name!r})" for r in rules if r.function not in functions]
    if unknown:
        log.error(
            "Alert rules refer to functions that do not exist: %s. Functions: %s.",
            *(", ".join(unknown), ", ".join(sorted(functions)) or "none yet"),
        )
