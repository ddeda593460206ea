"""The table of ``docs/settings.md``, generated from the fields of ``Settings``.

``python -m tests.support.settings_table`` writes it into the page.
"""

from __future__ import annotations

from pathlib import Path

from backend.settings import MILLION, Settings, setting_variables

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEADER = "| variable | default | meaning |\n|---|---|---|\n"


def settings_table() -> str:
    """Return the table in Markdown, a row per environment variable."""
    rows = [
        f"| `{variable}` | {_default(name)} | {Settings.model_fields[name].description} |\n"
        for name, variable in setting_variables().items()
    ]
    return HEADER + "".join(rows)


def split_page(text: str) -> tuple[str, str, str]:
    """Return what precedes the table, the table, and what follows it."""
    before, header, rest = text.partition(HEADER)
    lines = rest.splitlines(keepends=True)
    count = next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return before, header + "".join(lines[:count]), "".join(lines[count:])


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["default"])
    value = field.default
    if isinstance(value, int | float) and value >= MILLION:
        value //= MILLION
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool | int | float):
        return f"{value:g}"
    return f"`{value}`" if value else "none"


def main() -> None:
    """Write the table into the page."""
    before, _, after = split_page(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(before + settings_table() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
