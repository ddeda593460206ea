"""``prelabel deploy``: checked here, brought to Modal, and what to paste where."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.callbacks import LogCallback
from backend.endpoint.alert_rules import read_alert_rules
from backend.errors import PrelabelError, UsageError
from backend.settings import Settings
from backend.store.api_keys import ApiKeyStore
from backend.vision.encoders.base import DEFAULT_CLIP
from serverless.container_image import REPOSITORY_ROOT, find_live_encoders, is_local_file
from serverless.deployments import record_deployment
from serverless.modal_client import ModalClient
from serverless.modal_compute import check_train_timeout
from serverless.secrets import endpoint_secrets
from serverless.volume_sync import ALERTS_FILENAME, VolumeSync

LOCAL_DOMAIN_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Ends of names that mean something in one's own network only."""


@dataclass(frozen=True)
class DeploymentResult:
    """What stands on Modal now.

    Attributes:
        backend: the address that Label Studio is given.
        endpoint: the address that applications ask.
        functions: ids of the functions that were brought along.
    """

    backend: str
    endpoint: str
    functions: list[str]


def check_deployable(settings: Settings) -> None:
    """Make sure that a deployment would work, before anything is sent.

    Raises:
        UsageError: what is missing, and how to set it.
    """
    ModalClient(settings.modal_app)  # has a token
    if not settings.user:
        raise UsageError(
            "The backend on Modal has a public address: set PRELABEL_USER and PRELABEL_PASSWORD, "
            "which Label Studio will send along."
        )
    if not settings.api_key or not is_public_address(settings.label_studio_url):
        raise UsageError(
            "The backend on Modal needs LABEL_STUDIO_URL, an address that the internet can reach "
            f"(now {settings.label_studio_url}), and LABEL_STUDIO_API_KEY."
        )
    check_train_timeout(settings)
    check_encoders_available(settings)
    if not (REPOSITORY_ROOT / "pyproject.toml").is_file():
        raise UsageError(
            "Modal's images are made from the project's pyproject.toml: run `uv run prelabel "
            "deploy` in a clone of the repository."
        )
    read_alert_rules(settings.home / ALERTS_FILENAME)


def check_encoders_available(settings: Settings) -> None:
    """Make sure that what images are looked at with can be had on Modal too.

    Raises:
        UsageError: it is a file of this machine.
    """
    encoder_sources = {settings.encoder: "PRELABEL_ENCODER"} | find_live_encoders(settings.home)
    for encoder, source in encoder_sources.items():
        if is_local_file(encoder):
            raise UsageError(
                f"Modal cannot have the encoder of {source}, {encoder}, a file of this machine: set "
                f"PRELABEL_ENCODER to published weights, such as {DEFAULT_CLIP}, train with them, "
                "then deploy."
            )


def is_public_address(address: str) -> bool:
    """Whether an address may be one that the internet can reach: nobody is asked.

    >>> [is_public_address(f"https://{name}") for name in ("label.example.com", "localhost", "10.0.0.7")]
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
    """Bring the app and the live versions to Modal.

    Args:
        settings: of this machine; what is said there holds on Modal too.
        report: told of each step.

    Raises:
        PrelabelError: it did not work out.
    """
    check_deployable(settings)
    report("Deploying; the first time Modal builds the image, which takes minutes …")
    _run_modal_deploy(os.environ)
    record_deployment(
        settings.home,
        settings.modal_app,
        endpoint_secrets(os.environ, settings.home / ALERTS_FILENAME),
    )
    functions = VolumeSync(settings.home, settings.modal_app).upload_live_versions()
    backend, endpoint = (_web_url(settings.modal_app, name) for name in ("backend", "endpoint"))
    return DeploymentResult(backend, endpoint, functions)


def next_steps(deployment: DeploymentResult, settings: Settings) -> list[str]:
    """What a person does next, a line each."""
    keys = [key_hint for key_hint in ApiKeyStore(settings.home).all() if not key_hint.revoked]
    key_hint = "" if keys else " (make a key first: `prelabel keys create NAME`)"
    return [
        f"Label Studio: project → Settings → Model → Connect Model: {deployment.backend}",
        f"  with basic authentication as {settings.user!r} and PRELABEL_PASSWORD.",
        f"Applications: {deployment.endpoint}/v1/functions{key_hint}",
        "Train there from here: PRELABEL_COMPUTE=modal, for up to "
        f"{settings.monthly_budget:g} $ a month (PRELABEL_MONTHLY_BUDGET).",
    ]


def _run_modal_deploy(env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "modal", "deploy", "-m", "serverless.app"]
    process = subprocess.run(
        command,
        cwd=REPOSITORY_ROOT,
        env=dict(env),
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
    )
    sys.stderr.write(process.stderr)
    if process.returncode:
        lines = [line.strip(" │╭╮╰╯─") for line in process.stderr.splitlines()]
        reason = next((line for line in reversed(lines) if line), "no reason given")
        raise PrelabelError(f"Modal did not take the app: {reason}")


def _web_url(app: str, name: str) -> str:
    import modal

    return str(modal.Function.from_name(app, name).get_web_url()).rstrip("/")
