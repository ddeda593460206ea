"""Settings: defaults, values from the environment, errors, and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import UsageError
from backend.settings import MILLION, Settings, read_settings, setting_variables
from tests.support.settings_table import PAGE, settings_table, split_page


def test_the_settings_page_has_the_table_that_the_fields_generate() -> None:
    _, table, _ = split_page(PAGE.read_text(encoding="utf-8"))
    assert table == settings_table(), "run: uv run python -m tests.support.settings_table"


def test_without_variables_every_setting_has_its_default() -> None:
    settings = read_settings({"PRELABEL_POLL": " ", "PRELABEL_HOME": ""})
    assert settings == Settings()
    assert settings.home == Path.home() / ".prelabel"
    assert settings.label_studio_host == settings.label_studio_url == "http://localhost:8080"
    assert settings.poll_seconds == 60


def test_the_constructor_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELABEL_SEED", "7")
    assert Settings().seed == 0
    assert read_settings().seed == 7


def test_variables_are_converted() -> None:
    settings = read_settings(
        {
            "LABEL_STUDIO_URL": "https://label.example.com/",
            "LABEL_STUDIO_API_KEY": " token\n",
            "PRELABEL_ALLOWED_HOSTS": "nas, camera.internal,",
            "PRELABEL_ALLOWED_SERVERS": "https://label.example.com/",
            "PRELABEL_MAX_IMAGE_MB": "3",
            "PRELABEL_COMPUTE": "Modal",
            "PRELABEL_GPU": "A10G, T4",
            "PRELABEL_FETCH_URLS": "on",
            "PRELABEL_WEIGHTS": "~/weights",
        }
    )
    assert settings.label_studio_host == settings.label_studio_url == "https://label.example.com"
    assert settings.api_key == "token"
    assert settings.allowed_hosts == {"nas", "camera.internal"}
    assert settings.allowed_servers == {"https://label.example.com"}
    assert settings.max_image_bytes == 3 * MILLION
    assert (settings.compute, settings.gpus) == ("modal", ("A10G", "T4"))
    assert settings.fetch_urls
    assert settings.weights_dir == Path.home() / "weights"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PRELABEL_WORKERS", "two", "PRELABEL_WORKERS must be a whole number, not 'two'."),
        ("PRELABEL_WORKERS", "0", "PRELABEL_WORKERS must be at least 1, not '0'."),
        ("PRELABEL_POLL", "inf", "PRELABEL_POLL must be a finite number, not 'inf'."),
        ("PRELABEL_POLL", "0.1", "PRELABEL_POLL must be at least 0.2, not '0.1'."),
        ("PRELABEL_PRECISION", "1", "PRELABEL_PRECISION must be less than 1, not '1'."),
        ("PRELABEL_PRECISION", "90 %", "PRELABEL_PRECISION must be a number, not '90 %'."),
        ("PRELABEL_COMPUTE", "gpu", "PRELABEL_COMPUTE must be local or modal, not 'gpu'."),
        ("PRELABEL_FETCH_URLS", "maybe", "PRELABEL_FETCH_URLS must be 0 or 1, not 'maybe'."),
        ("PRELABEL_MAX_IMAGE_MB", "0", "PRELABEL_MAX_IMAGE_MB must be at least 1, not '0'."),
        (
            *("PRELABEL_DETECTOR_SIZE", "500"),
            "PRELABEL_DETECTOR_SIZE must be a multiple of 32, not '500'.",
        ),
        (
            *("PRELABEL_USER", "team"),
            "Basic auth needs both PRELABEL_USER and PRELABEL_PASSWORD; set the other.",
        ),
    ],
)
def test_an_invalid_value_is_one_sentence_that_names_the_variable(
    name: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        read_settings({name: value, "LABEL_STUDIO_API_KEY": "secret"})
    assert str(error.value) == message
    assert error.value.__cause__ is None


def test_secrets_are_not_in_the_representation() -> None:
    settings = read_settings(
        {"LABEL_STUDIO_API_KEY": "hush", "PRELABEL_USER": "u", "PRELABEL_PASSWORD": "hush"}
    )
    assert "hush" not in f"{settings!r} {settings}"


def test_each_setting_has_one_variable() -> None:
    variables = list(setting_variables().values())
    assert len(set(variables)) == len(variables) >= 30
    assert all(v.startswith(("PRELABEL_", "LABEL_STUDIO_")) for v in variables)
