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
from backend.endpoint.alert_rules import read_rules
from backend.errors import PrelabelError, UsageError
from backend.settings import Settings
from backend.store.api_keys import Keys
from backend.vision.encoders.base import DEFAULT_CLIP
from serverless.container_image import ROOT, live_encoders, own_file
from serverless.deployments import note_deployment
from serverless.modal_client import Cloud
from serverless.modal_compute import check_seconds
from serverless.secrets import of_endpoint
from serverless.volume_sync import ALERTS, Sharing

LOCAL_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Ends of names that mean something in one's own network only."""


@dataclass(frozen=True)
class Deployed:
    """What stands on Modal now.

    Attributes:
        backend: the address that Label Studio is given.
        endpoint: the address that applications ask.
        functions: ids of the functions that were brought along.
    """

    backend: str
    endpoint: str
    functions: list[str]


def check(settings: Settings) -> None:
    """Make sure that a deployment would work, before anything is sent.

    Raises:
        UsageError: what is missing, and how to set it.
    """
    Cloud(settings.app)  # has a token
    if not settings.user:
        raise UsageError(
            "The backend on Modal has a public address: set PRELABEL_USER and PRELABEL_PASSWORD, "
            "which Label Studio will send along."
        )
    if not settings.api_key or not reachable(settings.label_studio_url):
        raise UsageError(
            "The backend on Modal needs LABEL_STUDIO_URL, an address that the internet can reach "
            f"(now {settings.label_studio_url}), and LABEL_STUDIO_API_KEY."
        )
    check_seconds(settings)
    check_encoders(settings)
    if not (ROOT / "pyproject.toml").is_file():
        raise UsageError(
            "Modal's images are made from the project's pyproject.toml: run `uv run prelabel "
            "deploy` in a clone of the repository."
        )
    read_rules(settings.home / ALERTS)


def check_encoders(settings: Settings) -> None:
    """Make sure that what images are looked at with can be had on Modal too.

    Raises:
        UsageError: it is a file of this machine.
    """
    used = {settings.encoder: "PRELABEL_ENCODER"} | live_encoders(settings.home)
    for encoder, whose in used.items():
        if own_file(encoder):
            raise UsageError(
                f"Modal cannot have the encoder of {whose}, {encoder}, a file of this machine: set "
                f"PRELABEL_ENCODER to published weights, such as {DEFAULT_CLIP}, train with them, "
                "then deploy."
            )


def reachable(address: str) -> bool:
    """Whether an address may be one that the internet can reach: nobody is asked.

    >>> [reachable(f"https://{name}") for name in ("label.example.com", "localhost", "10.0.0.7")]
    [True, False, False]
    """
    parts = urlsplit(address)
    name = (parts.hostname or "").rstrip(".")
    if parts.scheme not in ("http", "https") or not name:
        return False
    try:
        return ipaddress.ip_address(name).is_global
    except ValueError:
        return "." in name and not name.endswith(LOCAL_NAMES)


def deploy(settings: Settings, say: LogCallback) -> Deployed:
    """Bring the app and the live versions to Modal.

    Args:
        settings: of this machine; what is said there holds on Modal too.
        say: told of each step.

    Raises:
        PrelabelError: it did not work out.
    """
    check(settings)
    say("Deploying; the first time Modal builds the image, which takes minutes …")
    _modal_deploy(os.environ)
    note_deployment(settings.home, settings.app, of_endpoint(os.environ, settings.home / ALERTS))
    functions = Sharing(settings.home, settings.app).publish()
    backend, endpoint = (_address(settings.app, name) for name in ("backend", "endpoint"))
    return Deployed(backend, endpoint, functions)


def what_to_do(deployed: Deployed, settings: Settings) -> list[str]:
    """What a person does next, a line each."""
    keys = [key for key in Keys(settings.home).all() if not key.revoked]
    key = "" if keys else " (make a key first: `prelabel keys create NAME`)"
    return [
        f"Label Studio: project → Settings → Model → Connect Model: {deployed.backend}",
        f"  with basic authentication as {settings.user!r} and PRELABEL_PASSWORD.",
        f"Applications: {deployed.endpoint}/v1/functions{key}",
        "Train there from here: PRELABEL_COMPUTE=modal, for up to "
        f"{settings.monthly_budget:g} $ a month (PRELABEL_MONTHLY_BUDGET).",
    ]


def _modal_deploy(env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "modal", "deploy", "-m", "serverless.app"]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(env), stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )
    sys.stderr.write(done.stderr)
    if done.returncode:
        lines = [line.strip(" │╭╮╰╯─") for line in done.stderr.splitlines()]
        why = next((line for line in reversed(lines) if line), "no reason given")
        raise PrelabelError(f"Modal did not take the app: {why}")


def _address(app: str, name: str) -> str:
    import modal

    return str(modal.Function.from_name(app, name).get_web_url()).rstrip("/")
