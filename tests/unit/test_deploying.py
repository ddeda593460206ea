"""Checks before a deployment, and the settings and secrets that it takes along."""

from __future__ import annotations

import doctest
import logging
from pathlib import Path

import pytest

from backend.endpoint.alert_rules import read_valid_rules
from backend.errors import UsageError
from backend.settings import Settings
from serverless import asgi_apps
from serverless import container_image as images
from serverless.container_image import (
    backend_secrets,
    container_environment,
    endpoint_secrets,
    find_live_encoders,
    weight_download_commands,
)
from serverless.deploy import check_encoders_available, is_public_url
from serverless.modal_compute import check_train_timeout
from serverless.volume_sync import read_deployments, record_deployment
from tests.support.published_models import publish_version, train_colour_model

ALERTS = """
[[alert]]
function = "3"
label = "wilting"
url = "https://example.com/hook"
secret_env = "GREENHOUSE_SECRET"

[[alert]]
function = "3"
label = "healthy"
url = "https://example.com/hook"
secret_env = "NEW_SECRET"
"""


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("https://label.example.com", True),
        ("https://label.example.com:8443/studio", True),
        ("http://8.8.8.8:8080", True),
        ("http://localhost:8080", False),  # the default
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://0.0.0.0:8080", False),
        ("http://192.168.1.4:8080", False),
        ("http://100.64.0.9", False),  # shared address space of a provider (RFC 6598)
        ("http://label-studio:8080", False),  # name of a container
        ("http://desk.local:8080", False),
        ("label.example.com", False),
        ("ftp://label.example.com", False),
        ("", False),
    ],
)
def test_addresses_that_modal_cannot_reach_are_recognized(address: str, is_public: bool) -> None:
    assert is_public_url(address) is is_public


def test_a_training_time_above_modals_limit_is_refused(tmp_path: Path) -> None:
    check_train_timeout(Settings(home=tmp_path, train_seconds=3300))
    with pytest.raises(UsageError, match=r"PRELABEL_TRAIN_SECONDS is 7200, but .* 3300 seconds"):
        check_train_timeout(Settings(home=tmp_path, train_seconds=7200))


@pytest.mark.parametrize(
    "encoder", ["ViT-B-32//home/me/w.safetensors", "/home/me/yolo11n-cls.pt", "~/mine-cls.pt"]
)
def test_an_encoder_from_a_local_file_is_refused(tmp_path: Path, encoder: str) -> None:
    with pytest.raises(
        UsageError, match=r"of PRELABEL_ENCODER, .* a file on this machine"
    ) as raised:
        check_encoders_available(Settings(home=tmp_path, encoder=encoder))
    assert encoder in str(raised.value)
    assert weight_download_commands(encoder, "builtin") == ["mkdir -p /weights"]


def test_encoders_of_live_versions_are_downloaded_too_or_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, encoder="builtin")
    version = publish_version(tmp_path, "1", *train_colour_model())
    card = tmp_path / "projects" / "1" / "versions" / version / "card.json"
    plain = card.read_text()
    assert list(find_live_encoders(tmp_path)) == ["builtin"]
    check_encoders_available(settings)
    card.write_text(plain.replace('"builtin"', '"ViT-B-16/openai"'))
    check_encoders_available(settings)
    live = find_live_encoders(tmp_path)
    commands = weight_download_commands("auto", "builtin", live)
    assert ["datacomp" in line for line in commands] == [False, True, False]
    assert "'ViT-B-16', pretrained='openai'" in commands[-1]
    assert len(weight_download_commands("ViT-B-16/openai", "builtin", live)) == 2
    card.write_text(plain.replace('"builtin"', '"ViT-B-16//home/me/w.pt"'))
    with pytest.raises(UsageError, match=f"of the live version {version} of project 1, ViT-B-16//"):
        check_encoders_available(settings)


def test_the_examples_in_the_docstrings_are_right() -> None:
    assert doctest.testmod(images).attempted
    assert not doctest.testmod(images).failed


def test_all_settings_are_forwarded_except_secrets_and_local_paths() -> None:
    env = {
        "PRELABEL_ENCODER": "builtin",
        "PRELABEL_SEED": "7",
        "LABEL_STUDIO_URL": "https://label.example.com",
        "LABEL_STUDIO_HOST": "https://people.example.com",
        "PRELABEL_HOME": "/home/somebody",
        "PRELABEL_WEIGHTS": "/home/somebody/weights",
        "PRELABEL_KEPT": "/home/somebody/kept",
        "PRELABEL_COMPUTE": "local",
        "PRELABEL_USER": "team",
        "PRELABEL_PASSWORD": "open sesame",
        "LABEL_STUDIO_API_KEY": "a secret token",
        "PRELABEL_ALERT_SECRET": "not a setting",
        "PRELABEL_POLL": "",
    }
    assert container_environment(env) == {
        "PRELABEL_ENCODER": "builtin",
        "PRELABEL_SEED": "7",
        "LABEL_STUDIO_URL": "https://label.example.com",
        "LABEL_STUDIO_HOST": "https://people.example.com",
        "PRELABEL_HOME": "/data",
        "PRELABEL_WEIGHTS": "/weights",
        "PRELABEL_KEPT": "/kept",
        "PRELABEL_COMPUTE": "modal",
        "HF_HUB_OFFLINE": "1",
        "YOLO_OFFLINE": "true",
    }
    assert backend_secrets(env).keys() == {
        "LABEL_STUDIO_API_KEY",
        "PRELABEL_USER",
        "PRELABEL_PASSWORD",
    }


def test_only_the_secrets_of_alert_rules_are_sent_to_the_endpoint(tmp_path: Path) -> None:
    file = tmp_path / "alerts.toml"
    env = {"GREENHOUSE_SECRET": "sesame", "OTHER": "private", "LABEL_STUDIO_API_KEY": "token"}
    assert endpoint_secrets(env, file) == {}
    file.write_text(ALERTS)
    assert endpoint_secrets(env, file) == {"GREENHOUSE_SECRET": "sesame"}
    file.write_text("damaged [[")
    assert endpoint_secrets({}, file) == {}  # the environment is empty in a container


def test_a_rule_without_its_secret_is_ignored_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "alerts.toml"
    monkeypatch.setenv("GREENHOUSE_SECRET", "sesame")
    caplog.set_level(logging.WARNING, logger="prelabel")
    assert read_valid_rules(file) == []
    file.write_text(ALERTS)
    assert [rule.label for rule in read_valid_rules(file)] == ["wilting"]
    assert "NEW_SECRET" in caplog.text
    file.write_text("damaged [[")
    assert read_valid_rules(file) == []
    assert "TOML" in caplog.text


def test_the_endpoint_on_modal_starts_although_a_rule_lacks_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    monkeypatch.setenv("PRELABEL_KEPT", str(tmp_path / "kept"))
    (tmp_path / "alerts.toml").write_text(ALERTS)
    app = asgi_apps.modal_endpoint_app(lambda *arguments: [], lambda: None, lambda: None)
    assert "/v1/functions" in {getattr(route, "path", "") for route in app.routes}
    assert "GREENHOUSE_SECRET" in caplog.text


def test_deployed_apps_are_recorded_with_their_secrets(tmp_path: Path) -> None:
    assert read_deployments(tmp_path) == {}
    record_deployment(tmp_path, "prelabel", ["B", "A"])
    record_deployment(tmp_path, "other", [])
    record_deployment(tmp_path, "prelabel", ["A"])
    assert read_deployments(tmp_path) == {"prelabel": ["A"], "other": []}
