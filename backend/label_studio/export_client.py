"""Label Studio's own converter: a project's labels in other people's formats."""

from __future__ import annotations

from backend.errors import ConfigError, LabelStudioError
from backend.label_studio.client import Client

SECONDS = 600.0
"""It reads every image's size, and with images fetches them all."""


class Exporter(Client):
    """A client that exports.

    Args:
        server: Label Studio's address.
        token: see :class:`Client`.
    """

    def __init__(self, server: str, token: str) -> None:
        super().__init__(server, token, SECONDS)

    def formats(self, number: int) -> dict[str, bool]:
        """The converter's formats, and whether a project's labeling config has what they need."""
        rows = self._call("GET", f"api/projects/{number}/export/formats")
        return {str(row["name"]): not row.get("disabled") for row in rows}

    def export(self, number: int, form: str) -> tuple[str, bytes]:
        """The labeled tasks in a format.

        Args:
            number: the project's.
            form: one of :meth:`formats`.

        Returns:
            the file's name and its bytes, mostly of a zip.

        Raises:
            ConfigError: the labeling config has nothing that the format could hold.
            LabelStudioError: Label Studio refused, or failed.
        """
        formats = self.formats(number)
        if not formats.get(form):
            others = [name for name, served in formats.items() if served]
            raise ConfigError(
                f"Label Studio cannot write project {number} as {form}, which holds boxes "
                f"(RectangleLabels); it offers {', '.join(others)} on the project's page Export."
            )
        response = self._raw(f"api/projects/{number}/export", {"exportType": form})
        if response.status_code >= 400:
            raise LabelStudioError(
                f"Label Studio failed to write {form} ({response.status_code}): its log says why; "
                "mostly an image of the project that it cannot read."
            )
        return str(response.headers.get("filename") or f"{form}.zip"), bytes(response.content)
