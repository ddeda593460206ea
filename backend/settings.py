"""Settings, read from the environment variables ``PRELABEL_*`` and ``LABEL_STUDIO_*``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.sources.utils import parse_env_vars

from backend.errors import StoreError, UsageError
from backend.server_url import normalize_server_url
from backend.store.login import NO_LOGIN, load_login
from backend.store.servers import is_same_server

log = logging.getLogger("prelabel")
MILLION = 1_000_000
PLAIN_TERMS = {
    "a valid integer": "a whole number",
    "a valid boolean": "0 or 1",
    "a valid number": "a number",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "'local' or 'modal'": "local or modal",
}
"""Phrases of pydantic's error messages and their replacements in :class:`UsageError`."""
COMPUTE_LOCAL: Literal["local"] = "local"
COMPUTE_MODAL: Literal["modal"] = "modal"


def _split_commas(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _from_millions(value: object) -> object:
    return int(value) * MILLION if isinstance(value, str) and value.isdigit() else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(str.strip)]
Url = Annotated[str, AfterValidator(normalize_server_url)]
Names = Annotated[frozenset[str], NoDecode, BeforeValidator(_split_commas)]
Servers = Annotated[
    Names, AfterValidator(lambda servers: frozenset(map(normalize_server_url, servers)))
]
FilePath = Annotated[Path, AfterValidator(Path.expanduser)]
Millions = Annotated[int, BeforeValidator(_from_millions), Field(ge=1)]
"""Bytes or pixels; the environment variable is in millions."""
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All settings. Each field's description is its row in ``docs/settings.md``.

    The constructor takes values by field name and ignores the environment;
    :func:`read_settings` reads the environment.
    """

    model_config = SettingsConfigDict(
        frozen=True, populate_by_name=True, case_sensitive=True, hide_input_in_errors=True
    )

    label_studio_url: Url = Field(
        default="http://localhost:8080",
        validation_alias="LABEL_STUDIO_URL",
        description="Address of your Label Studio. Default: the one of `prelabel login` or "
        "`prelabel init --start-label-studio`, else this.",
    )
    api_key: Text = Field(
        default="",
        validation_alias="LABEL_STUDIO_API_KEY",
        repr=False,
        description="Legacy token or personal access token. It is sent to `LABEL_STUDIO_URL` "
        "only. Without it, the token of `prelabel login` is used, or the one that Label Studio "
        "sends to `/setup`.",
    )
    label_studio_host: Url = Field(
        default_factory=lambda values: values["label_studio_url"],
        validation_alias="LABEL_STUDIO_HOST",
        json_schema_extra={"default": "`LABEL_STUDIO_URL`"},
        description="Address of Label Studio in browsers, if it differs.",
    )
    home: FilePath = Field(
        default=Path("~/.prelabel"),
        validate_default=True,
        validation_alias="PRELABEL_HOME",
        description="Folder for persistent data: versions, cards, embeddings, downscaled copies of "
        "images (8 GB at most), weights.",
    )
    encoder: Text = Field(
        default="auto",
        validation_alias="PRELABEL_ENCODER",
        description="`auto`: CLIP if its weights can be downloaded (600 MB, once), else "
        "`efficientnet-lite0`, which is installed with Prelabel. Or an open_clip `model/weights` "
        "such as `ViT-B-32-256/datacomp_s34b_b86k` (the weights may be a file), an ultralytics "
        "`…-cls.pt`, or `builtin`.",
    )
    detector: Text = Field(
        default="auto",
        validation_alias="PRELABEL_DETECTOR",
        description="Weights that boxes and points are fine-tuned from. `auto`: yolo26n, "
        "downloaded once from github.com (5 MB) and announced in the log; if github.com cannot "
        "be reached, `builtin`, a small network trained from scratch. Or a YOLO11, YOLO26 or "
        "RT-DETR weights file or name, or a `.yaml` to train from scratch.",
    )
    detector_size: int = Field(
        default=0,
        ge=0,
        le=1280,
        multiple_of=32,
        validation_alias="PRELABEL_DETECTOR_SIZE",
        description="Input size of a detector in pixels, a multiple of 32. Larger inputs detect "
        "smaller objects and are slower. 0: chosen from the image sizes.",
    )
    train_seconds: float = Field(
        default=600.0,
        ge=5,
        allow_inf_nan=False,
        validation_alias="PRELABEL_TRAIN_SECONDS",
        description="Time limit for fine-tuning in one round; the schedule is shortened to fit. "
        "At most 3300 on Modal.",
    )
    retrain_after: int = Field(
        default=10,
        ge=1,
        validation_alias="PRELABEL_RETRAIN_AFTER",
        description="Number of new or changed labels that start a round.",
    )
    quiet_seconds: Number = Field(
        default=30.0,
        validation_alias="PRELABEL_RETRAIN_QUIET",
        description="Pause in labeling, in seconds, after which a single new label starts a round, "
        "unless it [takes minutes](how-it-works.md#one-round).",
    )
    poll_seconds: float = Field(
        default=60.0,
        ge=0.2,
        allow_inf_nan=False,
        validation_alias="PRELABEL_POLL",
        description="Polling interval in seconds when no webhook arrives.",
    )
    precision: Fraction = Field(
        default=0.9,
        validation_alias="PRELABEL_PRECISION",
        description="Target precision of the pre-annotations that people see. Less confident "
        "ones are hidden as soon as the audit set proves that this helps. 0 shows all. Boxes and "
        "points use the threshold with the best F1 unless `model_precision` is set.",
    )
    accept_error: Fraction = Field(
        default=0.0,
        validation_alias="PRELABEL_ACCEPT_ERROR",
        description="Maximum error rate of predictions that are accepted as annotations without "
        "a person, such as 0.05. 0: none are accepted.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        validation_alias="PRELABEL_WORKERS",
        description="Number of worker processes. Each runs one round at a time and takes about "
        "600 MB of memory.",
    )
    user: str = Field(
        default="",
        validation_alias="PRELABEL_USER",
        description="User name for basic auth. `prelabel serve` then prints the URL to connect, "
        "which ends in a secret, because Label Studio sends webhooks without authentication.",
    )
    password: str = Field(
        default="",
        validation_alias="PRELABEL_PASSWORD",
        repr=False,
        description="Password for basic auth; required with `PRELABEL_USER`.",
    )
    allowed_hosts: Names = Field(
        default=frozenset(),
        validation_alias="PRELABEL_ALLOWED_HOSTS",
        description="Hosts with private addresses that images may be fetched from, separated by "
        "commas.",
    )
    allowed_servers: Servers = Field(
        default=frozenset(),
        validation_alias="PRELABEL_ALLOWED_SERVERS",
        json_schema_extra={"default": "any"},
        description="Addresses of the Label Studio servers that may connect, separated by commas.",
    )
    max_image_bytes: Millions = Field(
        default=64 * MILLION,
        validation_alias="PRELABEL_MAX_IMAGE_MB",
        description="Maximum size of an image file (megabytes). Larger ones are skipped and "
        "counted.",
    )
    max_image_pixels: Millions = Field(
        default=100 * MILLION,
        validation_alias="PRELABEL_MAX_IMAGE_MEGAPIXELS",
        description="Maximum size of an image (megapixels). Larger ones are skipped and counted.",
    )
    capture_below: Fraction = Field(
        default=0.8,
        validation_alias="PRELABEL_CAPTURE_BELOW",
        description="The endpoint captures images whose prediction has a lower confidence.",
    )
    capture_fraction: Fraction = Field(
        default=0.01,
        validation_alias="PRELABEL_CAPTURE_SHARE",
        description="Fraction of the other images that the endpoint captures at random.",
    )
    capture_per_day: int = Field(
        default=200,
        ge=0,
        validation_alias="PRELABEL_CAPTURE_PER_DAY",
        description="Maximum number of images captured per day and function. 0: none.",
    )
    capture_retention_days: Number = Field(
        default=30.0,
        validation_alias="PRELABEL_CAPTURE_DAYS",
        description="Days after which the endpoint deletes a captured image.",
    )
    fetch_urls: bool = Field(
        default=False,
        validation_alias="PRELABEL_FETCH_URLS",
        description="1: requests to the endpoint may contain https URLs of images on public hosts.",
    )
    max_request_bytes: Millions = Field(
        default=64 * MILLION,
        validation_alias="PRELABEL_MAX_REQUEST_MB",
        description="Maximum size of a request to the endpoint (megabytes).",
    )
    request_timeout_seconds: float = Field(
        default=30.0,
        ge=0.1,
        allow_inf_nan=False,
        validation_alias="PRELABEL_REQUEST_SECONDS",
        description="Time limit for receiving a request to the endpoint (seconds).",
    )
    compute: Annotated[Literal["local", "modal"], BeforeValidator(_lower)] = Field(
        default=COMPUTE_LOCAL,
        validation_alias="PRELABEL_COMPUTE",
        description="Where training and batch inference run: `local` or `modal`.",
    )
    gpus: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        default=("L4", "T4"),
        validation_alias="PRELABEL_GPU",
        description="GPU types on Modal, the preferred one first.",
    )
    monthly_budget: Number = Field(
        default=20.0,
        validation_alias="PRELABEL_MONTHLY_BUDGET",
        description="Monthly budget for Modal in dollars; training pauses when it is spent. 0: no "
        "limit.",
    )
    modal_app: Text = Field(
        default="prelabel",
        validation_alias="PRELABEL_MODAL_APP",
        description="Name of the app on Modal and prefix of its volumes' names. Each name is "
        "a separate installation.",
    )
    weights_dir: FilePath | None = Field(
        default=None,
        validation_alias="PRELABEL_WEIGHTS",
        description="Folder for downloaded weights.",
        json_schema_extra={"default": "`PRELABEL_HOME/weights`"},
    )
    endpoint_data_dir: FilePath | None = Field(
        default=None,
        validation_alias="PRELABEL_KEPT",
        description="Folder for the endpoint's captured images and counters, if it may not write "
        "to `PRELABEL_HOME`.",
        json_schema_extra={"default": "`PRELABEL_HOME`"},
    )
    seed: int = Field(
        default=0,
        ge=0,
        validation_alias="PRELABEL_SEED",
        description="Seed of all random numbers.",
    )

    @model_validator(mode="after")
    def _require_user_and_password(self) -> Self:
        if bool(self.user) != bool(self.password):
            raise ValueError(
                "Basic auth needs both PRELABEL_USER and PRELABEL_PASSWORD; set the other."
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *other_sources: PydanticBaseSettingsSource,
        **named_sources: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the constructor only (called by pydantic-settings)."""
        return (init_settings,)


class _MappingSource(EnvSettingsSource):
    """Settings source that reads a mapping instead of ``os.environ``."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        values = {name: value for name, value in self._environment.items() if value.strip()}
        return parse_env_vars(values, case_sensitive=True)


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from environment variables; empty ones are ignored.

    Without ``LABEL_STUDIO_URL`` or ``LABEL_STUDIO_API_KEY``, the login in the home folder is used.

    Args:
        environment: variables by name; ``os.environ`` by default.

    Raises:
        UsageError: a variable has an invalid value.
    """
    values = _MappingSource(os.environ if environment is None else environment)()
    try:
        return _apply_login(Settings(**values))
    except ValidationError as error:
        raise UsageError(_describe_error(error)) from None  # its text contains the password


def _apply_login(settings: Settings) -> Settings:
    """Return the settings with the stored login, where the environment sets none."""
    given = settings.model_fields_set
    if "api_key" in given and "label_studio_url" in given:
        return settings
    try:
        login = load_login(settings.home)
    except StoreError as error:  # `prelabel doctor` reports an unreadable home folder
        log.warning("The stored login is not used. %s", error)
        return settings
    if login == NO_LOGIN:
        return settings
    updates = {}
    if "label_studio_url" not in given:
        updates = {"label_studio_url": login.server}
        updates |= {} if "label_studio_host" in given else {"label_studio_host": login.server}
    elif not is_same_server(settings.label_studio_url, login.server):
        return settings
    if "api_key" not in given:
        updates["api_key"] = login.token
    return settings.model_copy(update=updates)


def configured_variable(environment: Mapping[str, str] | None = None) -> str:
    """Return the variable that configures a Label Studio: its address or token; "" if none does."""
    values = os.environ if environment is None else environment
    names = ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY")
    return next((name for name in names if values.get(name, "").strip()), "")


def setting_variables() -> dict[str, str]:
    """Return the environment variable of each field: field name → variable."""
    return {name: str(field.validation_alias) for name, field in Settings.model_fields.items()}


def _describe_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    rule = first["msg"].replace("Input should be", "must be").partition(", unable")[0]
    for pydantic_term, plain_term in PLAIN_TERMS.items():
        rule = rule.replace(pydantic_term, plain_term)
    return f"{first['loc'][0]} {rule}, not {first['input']!r}."
