"""The environment, read once: the one owner of ``PRELABEL_*`` and ``LABEL_STUDIO_*``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import UsageError

MILLION = 1_000_000
COMPUTE_LOCAL, COMPUTE_MODAL = "local", "modal"


@dataclass(frozen=True)
class Settings:
    """Everything a person can set.

    Attributes:
        home: the one folder for everything that lasts.
        label_studio_url: the Label Studio that ``api_key`` belongs to.
        label_studio_host: its address as people reach it, where that is another.
        api_key: legacy token or personal access token; empty: the token that /setup brings.
        encoder: ``auto``, ``builtin``, an open_clip ``model/weights``, or a ``…-cls.pt``.
        detector: ``auto``, ``builtin``, a detection weights file or name, or a ``.yaml``.
        detector_size: pixels of a detector's input; 0: by the images.
        train_seconds: how long a round may fine-tune detectors.
        retrain_after: new or changed labels that start a round.
        quiet_seconds: a round starts as well when labels are new and nobody labeled for so long.
        poll_seconds: how often Label Studio is asked although nothing woke the loop.
        precision: share of right answers wanted of the pre-annotations that are shown, 0 to 1.
        accept_error: share of wrong answers allowed among predictions that become annotations
            without a person; 0: none do.
        workers: processes that may run rounds of different projects at the same time.
        user: name for basic auth; empty: no auth.
        password: password for basic auth.
        allowed_hosts: hosts with private addresses that images may be fetched from.
        allowed_servers: Label Studio addresses that /setup may name; empty: any.
        max_image_bytes: larger images are not read.
        max_image_pixels: images with more pixels are not decoded.
        capture_below: the endpoint keeps images whose answer is less certain than this, 0 to 1.
        capture_fraction: and this share of the others, at random.
        capture_per_day: but not more a day and function; 0: none at all.
        capture_retention_days: after so many days they are removed there.
        fetch_urls: the endpoint fetches images by their https address.
        max_request_bytes: larger requests to the endpoint are refused.
        request_timeout_seconds: that a request to the endpoint may take to arrive.
        weights_dir: where published weights are kept; below the home folder when not given.
        endpoint_data_dir: where the endpoint writes what it keeps; the home folder, unless that may not be
            written to.
        compute: where training and looking at many images is done: ``local`` or ``modal``.
        gpus: kinds of GPU on Modal, the preferred one first.
        monthly_budget: dollars that Modal may cost a month; 0: no limit.
        modal_app: name of the Modal app, and the beginning of its volumes' names.
        seed: seed of everything random; on every card.
    """

    home: Path
    label_studio_url: str = "http://localhost:8080"
    label_studio_host: str = label_studio_url
    api_key: str = field(default="", repr=False)
    encoder: str = "auto"
    detector: str = "auto"
    detector_size: int = 0
    train_seconds: float = 600.0
    retrain_after: int = 10
    quiet_seconds: float = 30.0
    poll_seconds: float = 60.0
    precision: float = 0.9
    accept_error: float = 0.0
    workers: int = 1
    user: str = ""
    password: str = field(default="", repr=False)
    allowed_hosts: frozenset[str] = frozenset()
    allowed_servers: frozenset[str] = frozenset()
    max_image_bytes: int = 64 * MILLION
    max_image_pixels: int = 100 * MILLION
    capture_below: float = 0.8
    capture_fraction: float = 0.01
    capture_per_day: int = 200
    capture_retention_days: float = 30.0
    fetch_urls: bool = False
    max_request_bytes: int = 64 * MILLION
    request_timeout_seconds: float = 30.0
    weights_dir: Path | None = None
    endpoint_data_dir: Path | None = None
    compute: str = COMPUTE_LOCAL
    gpus: tuple[str, ...] = ("L4", "T4")
    monthly_budget: float = 20.0
    modal_app: str = "prelabel"
    seed: int = 0


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment.

    Args:
        environment: variables by name; the process's own when not given.

    Returns:
        the checked settings.

    Raises:
        UsageError: a variable has a value that cannot be meant.
    """
    env = os.environ if environment is None else environment
    defaults = Settings(home=_read_home(env))
    url = env.get("LABEL_STUDIO_URL", "").rstrip("/") or defaults.label_studio_url
    return Settings(
        home=defaults.home,
        label_studio_url=url,
        label_studio_host=env.get("LABEL_STUDIO_HOST", "").rstrip("/") or url,
        api_key=env.get("LABEL_STUDIO_API_KEY", "").strip(),
        encoder=env.get("PRELABEL_ENCODER", "").strip() or defaults.encoder,
        detector=env.get("PRELABEL_DETECTOR", "").strip() or defaults.detector,
        detector_size=_read_detector_size(env),
        train_seconds=_read_float(
            env, "PRELABEL_TRAIN_SECONDS", defaults.train_seconds, minimum=5.0
        ),
        retrain_after=_read_int(env, "PRELABEL_RETRAIN_AFTER", defaults.retrain_after, minimum=1),
        quiet_seconds=_read_float(env, "PRELABEL_RETRAIN_QUIET", defaults.quiet_seconds),
        poll_seconds=_read_float(env, "PRELABEL_POLL", defaults.poll_seconds, minimum=0.2),
        precision=_read_fraction(env, "PRELABEL_PRECISION", defaults.precision),
        accept_error=_read_fraction(env, "PRELABEL_ACCEPT_ERROR", defaults.accept_error),
        workers=_read_int(env, "PRELABEL_WORKERS", defaults.workers, minimum=1),
        user=env.get("PRELABEL_USER", ""),
        password=_read_password(env),
        allowed_hosts=_read_names(env, "PRELABEL_ALLOWED_HOSTS"),
        allowed_servers=frozenset(
            name.rstrip("/") for name in _read_names(env, "PRELABEL_ALLOWED_SERVERS")
        ),
        max_image_bytes=_read_int(
            env, "PRELABEL_MAX_IMAGE_MB", defaults.max_image_bytes // MILLION, minimum=1
        )
        * MILLION,
        max_image_pixels=_read_int(
            env, "PRELABEL_MAX_IMAGE_MEGAPIXELS", defaults.max_image_pixels // MILLION, minimum=1
        )
        * MILLION,
        capture_below=_read_fraction(env, "PRELABEL_CAPTURE_BELOW", defaults.capture_below),
        capture_fraction=_read_fraction(env, "PRELABEL_CAPTURE_SHARE", defaults.capture_fraction),
        capture_per_day=_read_int(
            env, "PRELABEL_CAPTURE_PER_DAY", defaults.capture_per_day, minimum=0
        ),
        capture_retention_days=_read_float(
            env, "PRELABEL_CAPTURE_DAYS", defaults.capture_retention_days, unit="days"
        ),
        fetch_urls=_read_bool(env, "PRELABEL_FETCH_URLS"),
        max_request_bytes=_read_int(
            env, "PRELABEL_MAX_REQUEST_MB", defaults.max_request_bytes // MILLION, minimum=1
        )
        * MILLION,
        request_timeout_seconds=_read_float(
            env, "PRELABEL_REQUEST_SECONDS", defaults.request_timeout_seconds, minimum=0.1
        ),
        weights_dir=_read_path(env, "PRELABEL_WEIGHTS"),
        endpoint_data_dir=_read_path(env, "PRELABEL_KEPT"),
        compute=_read_compute(env),
        gpus=tuple(_read_list(env, "PRELABEL_GPU")) or defaults.gpus,
        monthly_budget=_read_float(
            env, "PRELABEL_MONTHLY_BUDGET", defaults.monthly_budget, unit="dollars"
        ),
        modal_app=env.get("PRELABEL_MODAL_APP", "").strip() or defaults.modal_app,
        seed=_read_int(env, "PRELABEL_SEED", defaults.seed, minimum=0),
    )


def _read_home(env: Mapping[str, str]) -> Path:
    configured = env.get("PRELABEL_HOME", "")
    return Path(configured).expanduser() if configured else Path.home() / ".prelabel"


def _read_path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]).expanduser() if env.get(name) else None


def _read_password(env: Mapping[str, str]) -> str:
    user, password = env.get("PRELABEL_USER", ""), env.get("PRELABEL_PASSWORD", "")
    if bool(user) != bool(password):
        raise UsageError(
            "Basic auth needs both PRELABEL_USER and PRELABEL_PASSWORD; set the other."
        )
    return password


def _read_int(env: Mapping[str, str], name: str, default: int, minimum: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or int(text) < minimum:
        raise UsageError(f"{name} must be a whole number of at least {minimum}, not {text!r}.")
    return int(text)


def _read_bool(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").strip().lower()
    if text not in ("", "0", "1", "off", "on", "no", "yes", "false", "true"):
        raise UsageError(f"{name} must be 0 or 1, not {text!r}.")
    return text in ("1", "on", "yes", "true")


def _read_float(
    env: Mapping[str, str], name: str, default: float, minimum: float = 0.0, unit: str = "seconds"
) -> float:
    text = env.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = float("nan")
    if not minimum <= value < float("inf"):
        raise UsageError(
            f"{name} must be a number of {unit} of at least {minimum:g}, not {text!r}."
        )
    return value


def _read_fraction(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1:
        raise UsageError(f"{name} must be a share from 0 to below 1, such as 0.05, not {text!r}.")
    return value


def _read_detector_size(env: Mapping[str, str]) -> int:
    size = _read_int(env, "PRELABEL_DETECTOR_SIZE", 0, minimum=0)
    if size and (size % 32 or size > 1280):
        raise UsageError(
            f"PRELABEL_DETECTOR_SIZE must be a multiple of 32 up to 1280, such as 640, not {size}."
        )
    return size


def _read_compute(env: Mapping[str, str]) -> str:
    text = env.get("PRELABEL_COMPUTE", "").strip().lower() or COMPUTE_LOCAL
    if text not in (COMPUTE_LOCAL, COMPUTE_MODAL):
        raise UsageError(
            f"PRELABEL_COMPUTE must be {COMPUTE_LOCAL} or {COMPUTE_MODAL}, not {text!r}."
        )
    return text


def _read_names(env: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(_read_list(env, name))


def _read_list(env: Mapping[str, str], name: str) -> list[str]:
    return [item.strip() for item in env.get(name, "").split(",") if item.strip()]
