"""Label Studio's own converter: a project's labels in other people's formats."""

from __future__ import annotations

from backend.errors import ConfigError, LabelStudioError
from backend.label_studio.client import LabelStudioClient

EXPORT_TIMEOUT_SECONDS = 600.0
"""It reads every image's size, and with images fetches them all."""


class ExportClient(LabelStudioClient):
    """A client that exports.

    Args:
        server: Label Studio's address.
        token: see :class:`LabelStudioClient`.
    """

    def __init__(self, server: str, token: str) -> None:
        super().__init__(server, token, EXPORT_TIMEOUT_SECONDS)

    def list_formats(self, number: int) -> dict[str, bool]:
        """The converter's formats, and whether a project's labeling config has what they need."""
        rows = self._request_json("GET", f"api/projects/{number}/export/formats")
        return {str(row["name"]): not row.get("disabled") for row in rows}

    def export(self, number: int, format_name: str) -> tuple[str, bytes]:
        """The labeled tasks in a format.

        Args:
            number: the project's.
            format_name: one of :meth:`list_formats`.

        Returns:
            the file's name and its bytes, mostly of a zip.

        Raises:
            ConfigError: the labeling config has nothing that the format could hold.
            LabelStudioError: Label Studio refused, or failed.
        """
        formats = self.list_formats(number)
        if not formats.get(format_name):
            available_formats = [name for name, is_available in formats.items() if is_available]
            raise ConfigError(
                f"Label Studio cannot write project {number} as {format_name}, which holds boxes "
                f"(RectangleLabels); it offers {', '.join(available_formats)} on the project's page Export."
            )
        response = self._request_file(f"api/projects/{number}/export", {"exportType": format_name})
        if response.status_code >= 400:
            raise LabelStudioError(
                f"Label Studio failed to write {format_name} ({response.status_code}): its log says why; "
                "mostly an image of the project that it cannot read."
            )
        return str(response.headers.get("filename") or f"{format_name}.zip"), bytes(
            response.content
        )
