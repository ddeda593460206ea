"""Deploy to Modal: check the settings, deploy the app, upload live versions, print next steps."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.callbacks import LogCallback
from backend.endpoint.alert_rules import ALERT_RULES_FILENAME, read_alert_rules
from backend.errors import PrelabelError, UsageError
from backend.settings import Settings
from backend.store.api_keys import ApiKeyStore
from backend.vision.encoders.base import DEFAULT_CLIP
from serverless.container_image import (
    REPOSITORY_ROOT,
    endpoint_secrets,
    find_live_encoders,
    is_local_file,
)
from serverless.modal_client import ModalClient
from serverless.modal_compute import check_train_timeout
from serverless.volume_sync import VolumeSync, record_deployment

LOCAL_DOMAIN_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Suffixes of host names in private networks."""


@dataclass(frozen=True)
class DeploymentResult:
    """The result of a deployment.

    Attributes:
        backend: URL of the ML backend, to connect in Label Studio.
        endpoint: URL of the predict endpoint.
        functions: ids of the uploaded functions.
    """

    backend: str
    endpoint: str
    functions: list[str]


def check_deployable(settings: Settings) -> None:
    """Check the settings for a deployment before anything is uploaded.

    Raises:
        UsageError: a setting is missing or invalid.
    """
    ModalClient(settings.modal_app)  # raises without a token
    if not settings.user:
        raise UsageError(
            "The backend on Modal has a public URL: set PRELABEL_USER and PRELABEL_PASSWORD, with "
            "which Label Studio authenticates."
        )
    if not settings.api_key or not is_public_url(settings.label_studio_url):
        raise UsageError(
            "The backend on Modal needs LABEL_STUDIO_URL, reachable from the internet "
            f"(now {settings.label_studio_url}), and LABEL_STUDIO_API_KEY."
        )
    check_train_timeout(settings)
    check_encoders_available(settings)
    if not (REPOSITORY_ROOT / "pyproject.toml").is_file():
        raise UsageError(
            "Modal's image is built from the project's pyproject.toml: run `uv run prelabel "
            "deploy` in a clone of the repository."
        )
    read_alert_rules(settings.home / ALERT_RULES_FILENAME)


def check_encoders_available(settings: Settings) -> None:
    """Check that the containers can download the encoders of the settings and of live versions.

    Raises:
        UsageError: the weights of an encoder are a file on this machine.
    """
    encoder_sources = {settings.encoder: "PRELABEL_ENCODER"} | find_live_encoders(settings.home)
    for encoder, source in encoder_sources.items():
        if is_local_file(encoder):
            raise UsageError(
                f"The encoder of {source}, {encoder}, is a file on this machine, which Modal "
                f"cannot download: set PRELABEL_ENCODER to published weights, such as "
                f"{DEFAULT_CLIP}, train a version with them, then deploy."
            )


def is_public_url(address: str) -> bool:
    """Whether a URL may be reachable from the internet; no request is made.

    >>> hosts = ("label.example.com", "localhost", "10.0.0.7")
    >>> [is_public_url(f"https://{host}") for host in hosts]
    [True, False, False]
    """
    parts = urlsplit(address)
    hostname = (parts.hostname or "").rstrip(".")
    if parts.scheme not in ("http", "https") or not hostname:
        return False
    try:
        return ipaddress.ip_address(hostname).is_global
    except ValueError:
        return "." in hostname and not hostname.endswith(LOCAL_DOMAIN_SUFFIXES)


def deploy(settings: Settings, report: LogCallback) -> DeploymentResult:
    """Deploy the app and upload the live versions.

    Args:
        settings: settings of this machine; most of them apply on Modal too.
        report: called with a line of text per step.

    Raises:
        PrelabelError: the deployment failed.
    """
    check_deployable(settings)
    report("Deploying; the first deployment builds the image, which takes some minutes …")
    _run_modal_deploy(settings)
    secret_names = endpoint_secrets(os.environ, settings.home / ALERT_RULES_FILENAME)
    record_deployment(settings.home, settings.modal_app, secret_names)
    functions = VolumeSync(settings.home, settings.modal_app).upload_live_versions()
    backend, endpoint = (_web_url(settings.modal_app, name) for name in ("backend", "endpoint"))
    return DeploymentResult(backend, endpoint, functions)


def next_steps(deployment: DeploymentResult, settings: Settings) -> list[str]:
    """Return the instructions to print after a deployment, as lines."""
    has_key = any(not key.revoked for key in ApiKeyStore(settings.home).all())
    key_hint = "" if has_key else " (create an API key first: `prelabel keys create NAME`)"
    return [
        f"Label Studio: project → Settings → Model → Connect Model: {deployment.backend}",
        f"  with basic authentication: user {settings.user!r}, password PRELABEL_PASSWORD.",
        f"Applications: {deployment.endpoint}/v1/functions{key_hint}",
        "To train on Modal from this machine, set PRELABEL_COMPUTE=modal; the budget is "
        f"{settings.monthly_budget:g} $ a month (PRELABEL_MONTHLY_BUDGET).",
    ]


def _run_modal_deploy(settings: Settings) -> None:
    login = {  # may be the stored login, which the environment lacks
        "LABEL_STUDIO_URL": settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": settings.api_key,
    }
    process = subprocess.run(
        [sys.executable, "-m", "modal", "deploy", "-m", "serverless.app"],
        cwd=REPOSITORY_ROOT,
        env={**os.environ, **login},
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
    )
    sys.stderr.write(process.stderr)
    if process.returncode:
        lines = [line.strip(" │╭╮╰╯─") for line in process.stderr.splitlines()]
        reason = next((line for line in reversed(lines) if line), "no reason given")
        raise PrelabelError(f"Modal rejected the app: {reason}")


def _web_url(app: str, name: str) -> str:
    import modal

    return str(modal.Function.from_name(app, name).get_web_url()).rstrip("/")
