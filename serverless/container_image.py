"""Build the container image: dependencies, weights, settings and source code, in this order."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.server.source_archive import INSTALLED_SOURCE_FOLDER, PROJECT_FILES
from backend.settings import read_settings, setting_variables

if TYPE_CHECKING:
    import modal

REPOSITORY_ROOT = Path(__file__).parents[1]
PYTHON_VERSION = "3.11"
EXCLUDED_DEPENDENCIES = frozenset({"label-studio-ml", "redis", "rq", "modal"})
"""Dependencies that the containers do not need; Modal installs its own client."""
SOURCE_PACKAGES = ("backend", "serverless")
"""Packages to copy, including their data files."""
CONTAINER_SOURCE_FOLDER = "/root"
"""Folder in which Modal installs the source code."""
HOME_MOUNT, ENDPOINT_MOUNT, JOBS_MOUNT, WEIGHTS_IMAGE_PATH = "/data", "/kept", "/jobs", "/weights"
"""Mount points of the volumes, and the image's folder of weights."""
TRAIN_TIMEOUT_SECONDS = 3600
"""Time limit of a training call on Modal."""
BACKEND_SECRET_NAMES = ("LABEL_STUDIO_API_KEY", "PRELABEL_USER", "PRELABEL_PASSWORD")
UNFORWARDED_SETTINGS = frozenset(
    {
        *("PRELABEL_HOME", "PRELABEL_KEPT", "PRELABEL_WEIGHTS", "PRELABEL_COMPUTE"),
        *BACKEND_SECRET_NAMES,
    }
)
"""Settings that have other values in the containers, and secrets."""


def read_pyproject() -> dict[str, Any]:
    """Return the parsed pyproject.toml."""
    return tomllib.loads((REPOSITORY_ROOT / "pyproject.toml").read_text("utf-8"))


def container_dependencies() -> list[str]:
    """Return the requirements of pyproject.toml that the containers need."""
    requirements = read_pyproject()["project"]["dependencies"]
    return [
        line
        for line in requirements
        if re.split(r"[\s;<>=\[!~]", line)[0] not in EXCLUDED_DEPENDENCIES
    ]


def dependency_overrides() -> list[str]:
    """Return uv's dependency overrides from pyproject.toml."""
    override_lines: list[str] = read_pyproject()["tool"]["uv"]["override-dependencies"]
    return override_lines


def find_live_encoders(home: Path) -> dict[str, str]:
    """Return the encoder settings of live versions, each with a description of one version."""
    from backend.store.projects import ProjectStore
    from backend.store.versions import VersionStore

    projects, descriptions = ProjectStore(home), dict[str, str]()
    for record in projects.all():
        card = VersionStore(projects.folder(record.id)).live_card()
        if card and card.encoder.setting:
            description = f"the live version {card.version} of project {record.id}"
            descriptions.setdefault(card.encoder.setting, description)
    return dict(sorted(descriptions.items()))


def is_local_file(encoder: str) -> bool:
    """Whether an encoder setting selects weights that are a file on this machine.

    >>> [is_local_file(name) for name in ("ViT-B-32//home/me/w.pt", "ViT-B-32/openai", "auto")]
    [True, False, False]
    """
    if Path(encoder).suffix == ".pt" and "/" not in encoder:
        return False  # the name of published weights, which are downloaded
    weights = encoder.partition("/")[2]
    paths = [Path(text).expanduser() for text in (encoder, weights) if text]
    return "/" in weights or any(path.is_absolute() or path.is_file() for path in paths)


def weight_download_commands(
    encoder: str, detector: str, live_settings: Iterable[str] = ()
) -> list[str]:
    """Return the shell commands that download weights into the image, one per file.

    Args:
        encoder: ``PRELABEL_ENCODER``.
        detector: ``PRELABEL_DETECTOR``.
        live_settings: encoder settings of live versions.
    """
    from backend.vision.detection.network import DEFAULT_WEIGHTS
    from backend.vision.encoders.base import DEFAULT_CLIP

    settings = dict.fromkeys([DEFAULT_CLIP if encoder == "auto" else encoder, *live_settings])
    encoders = [setting for setting in settings if not is_local_file(setting)]
    commands = [f"mkdir -p {WEIGHTS_IMAGE_PATH}"]
    for setting in encoders:
        if "/" in setting and not setting.endswith(".pt"):
            model, _, tag = setting.rpartition("/")
            create_call = f"open_clip.create_model_and_transforms({model!r}, pretrained={tag!r})"
            commands.append(f'python -c "import open_clip; {create_call}"')
    import_statement = "from ultralytics.utils.downloads import attempt_download_asset"
    for name in [DEFAULT_WEIGHTS if detector == "auto" else detector, *encoders]:
        if Path(name).suffix == ".pt" and "/" not in name:
            download_call = f"attempt_download_asset({f'{WEIGHTS_IMAGE_PATH}/{name}'!r})"
            commands.append(f'python -c "{import_statement}; {download_call}"')
    return commands


def container_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of the containers, without secrets.

    Args:
        env: environment variables of the deploying machine.
    """
    names = set(setting_variables().values()) - UNFORWARDED_SETTINGS
    forwarded = {name: env[name] for name in sorted(names) if env.get(name)}
    return {
        **forwarded,
        "PRELABEL_HOME": HOME_MOUNT,
        "PRELABEL_KEPT": ENDPOINT_MOUNT,
        "PRELABEL_WEIGHTS": WEIGHTS_IMAGE_PATH,
        "PRELABEL_COMPUTE": "modal",
        "HF_HUB_OFFLINE": "1",
        "YOLO_OFFLINE": "true",
    }


def backend_secrets(env: Mapping[str, str]) -> dict[str, str | None]:
    """Return the backend's secrets: Label Studio's API key, and its own user and password."""
    return {name: env[name] for name in BACKEND_SECRET_NAMES if env.get(name)}


def endpoint_secrets(env: Mapping[str, str], rules_file: Path) -> dict[str, str | None]:
    """Return the endpoint's secrets, which sign its alerts.

    Args:
        env: environment variables of the deploying machine; empty in a container.
        rules_file: the file of alert rules, which may be invalid.
    """
    if not env or not rules_file.is_file():
        return {}
    rows = tomllib.loads(rules_file.read_text(encoding="utf-8")).get("alert", [])
    names = (str(row.get("secret_env", "")) for row in rows)
    return {name: env[name] for name in names if env.get(name)}


# -- image ----------------------------------------------------------------------------------


def build_container_image() -> modal.Image:
    """Return the image of all functions; its most frequently changed layers come last."""
    import modal

    base = modal.Image.debian_slim(python_version=PYTHON_VERSION)
    if not modal.is_local():
        return base  # a container runs in the image that is already built
    env = os.environ
    override_file = Path(tempfile.mkdtemp()) / "overrides.txt"
    override_file.write_text("\n".join(dependency_overrides()) + "\n", encoding="utf-8")
    image = (
        base.apt_install("libglib2.0-0")
        .add_local_file(override_file, "/overrides.txt", copy=True)
        .uv_pip_install(*container_dependencies(), extra_options="--override /overrides.txt")
        .run_commands(
            *weight_download_commands(
                env.get("PRELABEL_ENCODER") or "auto",
                env.get("PRELABEL_DETECTOR") or "auto",
                find_live_encoders(read_settings().home),
            )
        )
        .env(container_environment(env))
    )
    # the AGPL requires /source to offer the whole project
    image = image.add_local_dir(
        REPOSITORY_ROOT / "label_config", f"{CONTAINER_SOURCE_FOLDER}/label_config"
    )
    source_folder = f"{CONTAINER_SOURCE_FOLDER}/{INSTALLED_SOURCE_FOLDER.name}"
    for name in PROJECT_FILES:
        image = image.add_local_file(REPOSITORY_ROOT / name, f"{source_folder}/{name}")
    return image.add_local_python_source(*SOURCE_PACKAGES, ignore=["**/__pycache__/**"])
