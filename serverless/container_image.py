"""What Modal's containers are made of: the project's own dependencies, weights, source last."""

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
"""Dependencies that nothing in the cloud imports; modal is there anyway."""
SOURCE_PACKAGES = ("backend", "serverless")
"""All of their files: a network's description is one too."""
CONTAINER_SOURCE_FOLDER = "/root"
"""Where Modal puts the source."""
HOME_MOUNT, ENDPOINT_MOUNT, JOBS_MOUNT, WEIGHTS_FOLDER = "/data", "/kept", "/jobs", "/weights"
"""Where the volumes are, and the weights that were baked."""
TRAIN_TIMEOUT_SECONDS = 3600
"""That one training may take there, and then Modal ends it."""
UNFORWARDED_SETTINGS = frozenset(
    {
        *("PRELABEL_HOME", "PRELABEL_KEPT", "PRELABEL_WEIGHTS", "PRELABEL_COMPUTE"),
        *("PRELABEL_USER", "PRELABEL_PASSWORD", "LABEL_STUDIO_API_KEY"),
    }
)
"""Settings that are others there, and what travels as a secret."""


def read_pyproject() -> dict[str, Any]:
    """The project's own description."""
    pyproject: dict[str, Any] = tomllib.loads(
        (REPOSITORY_ROOT / "pyproject.toml").read_text("utf-8")
    )
    return pyproject


def container_dependencies() -> list[str]:
    """What is installed, as pyproject names it."""
    requirements = read_pyproject()["project"]["dependencies"]
    return [
        line
        for line in requirements
        if re.split(r"[\s;<>=\[!~]", line)[0] not in EXCLUDED_DEPENDENCIES
    ]


def dependency_overrides() -> list[str]:
    """What replaces what dependencies ask for, as pyproject tells uv."""
    override_lines: list[str] = read_pyproject()["tool"]["uv"]["override-dependencies"]
    return override_lines


def find_live_encoders(home: Path) -> dict[str, str]:
    """What live versions look with, and for each encoder one of these versions, in words.

    Args:
        home: the folder that they are in.
    """
    from backend.store.projects import ProjectStore
    from backend.store.versions import VersionStore

    projects, descriptions = ProjectStore(home), dict[str, str]()
    for record in projects.all():
        card = VersionStore(projects.folder(record.id)).live_card()
        if card and card.encoder.get("setting"):
            description = f"the live version {card.version} of project {record.id}"
            descriptions.setdefault(card.encoder["setting"], description)
    return dict(sorted(descriptions.items()))


def is_local_file(encoder: str) -> bool:
    """Whether an encoder is a file of this machine, which is nowhere else.

    >>> [is_local_file(one) for one in ("ViT-B-32//home/me/w.safetensors", "ViT-B-32/openai", "auto")]
    [True, False, False]
    """
    if Path(encoder).suffix == ".pt" and "/" not in encoder:
        return False  # published by that name, and fetched
    weights = encoder.partition("/")[2]
    paths = [Path(text).expanduser() for text in (encoder, weights) if text]
    return "/" in weights or any(path.is_absolute() or path.is_file() for path in paths)


def weight_download_commands(
    encoder: str, detector: str, live_settings: Iterable[str] = ()
) -> list[str]:
    """Shell commands that bring the weights of the settings into the image.

    Args:
        encoder: ``PRELABEL_ENCODER``.
        detector: ``PRELABEL_DETECTOR``.
        live_settings: encoders of live versions.

    Returns:
        one command a file; none for what needs no download.
    """
    from backend.vision.detection.network import DEFAULT_WEIGHTS
    from backend.vision.encoders.base import DEFAULT_CLIP

    configured_encoder = DEFAULT_CLIP if encoder == "auto" else encoder
    encoders = [
        candidate
        for candidate in dict.fromkeys([configured_encoder, *live_settings])
        if not is_local_file(candidate)
    ]
    commands = [f"mkdir -p {WEIGHTS_FOLDER}"]
    for clip_setting in (
        candidate for candidate in encoders if "/" in candidate and not candidate.endswith(".pt")
    ):
        model, _, tag = clip_setting.rpartition("/")
        create_call = f"open_clip.create_model_and_transforms({model!r}, pretrained={tag!r})"
        commands.append(f'python -c "import open_clip; {create_call}"')
    weight_names = [DEFAULT_WEIGHTS if detector == "auto" else detector, *encoders]
    for name in (name for name in weight_names if Path(name).suffix == ".pt" and "/" not in name):
        download_call = f"attempt_download_asset({f'{WEIGHTS_FOLDER}/{name}'!r})"
        import_statement = "from ultralytics.utils.downloads import attempt_download_asset"
        commands.append(f'python -c "{import_statement}; {download_call}"')
    return commands


def container_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of the containers; secrets come another way.

    Args:
        env: of the machine that deploys.
    """
    names = set(setting_variables().values()) - UNFORWARDED_SETTINGS
    forwarded = {name: env[name] for name in sorted(names) if env.get(name)}
    return {
        **forwarded,
        "PRELABEL_HOME": HOME_MOUNT,
        "PRELABEL_KEPT": ENDPOINT_MOUNT,
        "PRELABEL_WEIGHTS": WEIGHTS_FOLDER,
        "PRELABEL_COMPUTE": "modal",
        "HF_HUB_OFFLINE": "1",
        "YOLO_OFFLINE": "true",
    }


def build_container_image() -> modal.Image:
    """The image of all functions: what changes often comes late, so that it is built rarely."""
    import modal

    base = modal.Image.debian_slim(python_version=PYTHON_VERSION)
    if not modal.is_local():
        return base  # inside, the image is what it is
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
    # what /source offers beside the packages, as the licence wants
    image = image.add_local_dir(
        REPOSITORY_ROOT / "label_config", f"{CONTAINER_SOURCE_FOLDER}/label_config"
    )
    for name in PROJECT_FILES:
        image = image.add_local_file(
            REPOSITORY_ROOT / name,
            f"{CONTAINER_SOURCE_FOLDER}/{INSTALLED_SOURCE_FOLDER.name}/{name}",
        )
    return image.add_local_python_source(*SOURCE_PACKAGES, ignore=["**/__pycache__/**"])
