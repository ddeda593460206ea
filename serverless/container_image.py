"""What Modal's containers are made of: the project's own dependencies, weights, source last."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.server.source_archive import BESIDE, PACKED
from backend.settings import read_settings

if TYPE_CHECKING:
    import modal

ROOT = Path(__file__).parents[1]
PYTHON = "3.11"
LEFT_OUT = frozenset({"label-studio-ml", "redis", "rq", "modal"})
"""Dependencies that nothing in the cloud imports; modal is there anyway."""
SOURCES = ("backend", "serverless")
"""All of their files: a network's description is one too."""
THERE = "/root"
"""Where Modal puts the source."""
HOME, KEPT, JOBS, WEIGHTS = "/data", "/kept", "/jobs", "/weights"
"""Where the volumes are, and the weights that were baked."""
TRAIN_SECONDS = 3600
"""That one training may take there, and then Modal ends it."""
NOT_PASSED = frozenset(
    {
        *("PRELABEL_HOME", "PRELABEL_KEPT", "PRELABEL_WEIGHTS", "PRELABEL_COMPUTE"),
        *("PRELABEL_USER", "PRELABEL_PASSWORD", "LABEL_STUDIO_API_KEY"),
    }
)
"""Settings that are others there, and what travels as a secret."""


def project() -> dict[str, Any]:
    """The project's own description."""
    described: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return described


def dependencies() -> list[str]:
    """What is installed, as pyproject names it."""
    wanted = project()["project"]["dependencies"]
    return [line for line in wanted if re.split(r"[\s;<>=\[!~]", line)[0] not in LEFT_OUT]


def overrides() -> list[str]:
    """What replaces what dependencies ask for, as pyproject tells uv."""
    wanted: list[str] = project()["tool"]["uv"]["override-dependencies"]
    return wanted


def live_encoders(home: Path) -> dict[str, str]:
    """What live versions look with, and for each encoder one of these versions, in words.

    Args:
        home: the folder that they are in.
    """
    from backend.store.projects import Projects
    from backend.store.versions import Versions

    projects, found = Projects(home), dict[str, str]()
    for record in projects.all():
        card = Versions(projects.folder(record.id)).live_card()
        if card and card.encoder.get("setting"):
            words = f"the live version {card.version} of project {record.id}"
            found.setdefault(card.encoder["setting"], words)
    return dict(sorted(found.items()))


def own_file(encoder: str) -> bool:
    """Whether an encoder is a file of this machine, which is nowhere else.

    >>> [own_file(one) for one in ("ViT-B-32//home/me/w.safetensors", "ViT-B-32/openai", "auto")]
    [True, False, False]
    """
    if Path(encoder).suffix == ".pt" and "/" not in encoder:
        return False  # published by that name, and fetched
    weights = encoder.partition("/")[2]
    paths = [Path(text).expanduser() for text in (encoder, weights) if text]
    return "/" in weights or any(path.is_absolute() or path.is_file() for path in paths)


def weight_commands(encoder: str, detector: str, live: Iterable[str] = ()) -> list[str]:
    """Shell commands that bring the weights of the settings into the image.

    Args:
        encoder: ``PRELABEL_ENCODER``.
        detector: ``PRELABEL_DETECTOR``.
        live: encoders of live versions.

    Returns:
        one command a file; none for what needs no download.
    """
    from backend.vision.detection.network import DEFAULT
    from backend.vision.encoders.base import DEFAULT_CLIP

    chosen = DEFAULT_CLIP if encoder == "auto" else encoder
    encoders = [one for one in dict.fromkeys([chosen, *live]) if not own_file(one)]
    commands = [f"mkdir -p {WEIGHTS}"]
    for clip in (one for one in encoders if "/" in one and not one.endswith(".pt")):
        model, _, tag = clip.rpartition("/")
        make = f"open_clip.create_model_and_transforms({model!r}, pretrained={tag!r})"
        commands.append(f'python -c "import open_clip; {make}"')
    named = [DEFAULT if detector == "auto" else detector, *encoders]
    for name in (name for name in named if Path(name).suffix == ".pt" and "/" not in name):
        fetch = f"attempt_download_asset({f'{WEIGHTS}/{name}'!r})"
        get = "from ultralytics.utils.downloads import attempt_download_asset"
        commands.append(f'python -c "{get}; {fetch}"')
    return commands


class _Asked(dict[str, str]):
    """Variables that note which of them are asked for."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self.names: dict[str, None] = {}

    def get(self, name: str, default: Any = None, /) -> Any:
        """See ``dict.get``."""
        self.names[name] = None
        return super().get(name, default)


def passed_on(env: Mapping[str, str]) -> list[str]:
    """Names of the settings of the machine that deploys that hold there too: nearly all.

    Args:
        env: of that machine.
    """
    asked = _Asked(env)
    read_settings(asked)
    return [name for name in asked.names if name not in NOT_PASSED]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of the containers; secrets come another way.

    Args:
        env: of the machine that deploys.
    """
    passed = {name: env[name] for name in passed_on(env) if env.get(name)}
    return {
        **passed,
        "PRELABEL_HOME": HOME,
        "PRELABEL_KEPT": KEPT,
        "PRELABEL_WEIGHTS": WEIGHTS,
        "PRELABEL_COMPUTE": "modal",
        "HF_HUB_OFFLINE": "1",
        "YOLO_OFFLINE": "true",
    }


def build() -> modal.Image:
    """The image of all functions: what changes often comes late, so that it is built rarely."""
    import modal

    base = modal.Image.debian_slim(python_version=PYTHON)
    if not modal.is_local():
        return base  # inside, the image is what it is
    env = os.environ
    listed = Path(tempfile.mkdtemp()) / "overrides.txt"
    listed.write_text("\n".join(overrides()) + "\n", encoding="utf-8")
    image = (
        base.apt_install("libglib2.0-0")
        .add_local_file(listed, "/overrides.txt", copy=True)
        .uv_pip_install(*dependencies(), extra_options="--override /overrides.txt")
        .run_commands(
            *weight_commands(
                env.get("PRELABEL_ENCODER") or "auto",
                env.get("PRELABEL_DETECTOR") or "auto",
                live_encoders(read_settings().home),
            )
        )
        .env(environment(env))
    )
    # what /source offers beside the packages, as the licence wants
    image = image.add_local_dir(ROOT / "label_config", f"{THERE}/label_config")
    for name in BESIDE:
        image = image.add_local_file(ROOT / name, f"{THERE}/{PACKED.name}/{name}")
    return image.add_local_python_source(*SOURCES, ignore=["**/__pycache__/**"])
