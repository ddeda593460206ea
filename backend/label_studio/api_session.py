"""Send HTTP requests to Label Studio through its SDK, and convert errors to exceptions.

The SDK handles both kinds of token (it renews a personal access token), retries, and the path
prefix. Responses are read as plain JSON, because the SDK needs longer to build its typed models of
a long list than Label Studio needs to send it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.errors import AccessDeniedError, LabelStudioError
from backend.label_studio.api_errors import TOKEN_PAGE, api_error, parse_json

if TYPE_CHECKING:
    import httpx

CALL_TIMEOUT_SECONDS = 120.0
MAX_RETRIES = 3


class ApiSession:
    """An authenticated connection to one Label Studio.

    Args:
        server: its address, with the path prefix if it has one.
        token: a legacy token or a personal access token.
        timeout: time limit for one request in seconds.

    Raises:
        AccessDeniedError: the token is empty or has expired.
    """

    def __init__(self, server: str, token: str, timeout: float = CALL_TIMEOUT_SECONDS) -> None:
        import httpx

        # label_studio_sdk.client imports pandas and the clients of three clouds: 3 s, 150 MB
        from label_studio_sdk.core.api_error import ApiError
        from label_studio_sdk.core.client_wrapper import SyncClientWrapper

        self.server = server.rstrip("/")
        if not token:
            raise AccessDeniedError(
                f"No token for {self.server}: copy one from its page “{TOKEN_PAGE}” and "
                "run `prelabel login`, or set LABEL_STUDIO_API_KEY."
            )
        try:
            self._wrapper = SyncClientWrapper(
                base_url=self.server,
                api_key=token,
                timeout=timeout,
                httpx_client=httpx.Client(timeout=timeout, follow_redirects=True),
            )
        except ApiError as error:
            status = error.status_code or 401
            raise api_error(self.server, "the token", status, error.body) from error

    def auth_headers(self) -> dict[str, str]:
        """Return the authorization header; send it to this server only."""
        return {"Authorization": self._wrapper.get_headers()["Authorization"]}

    def request_json(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, object] | None = None,
        *,
        json: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> Any:
        """Send a request and return the JSON of its response.

        Raises:
            AccessDeniedError: the token was refused.
            LabelStudioNotFoundError: the requested object does not exist.
            LabelStudioError: any other failure.
        """
        response = self.request(method, path, parameters, json=json, files=files)
        if response.status_code >= 400:
            raise api_error(self.server, f"{method} {path}", response.status_code, response.text)
        return parse_json(response, self.server)

    def get_json(self, path: str, parameters: Mapping[str, object] | None = None) -> Any:
        """Send a GET request and return the JSON of its response."""
        return self.request_json("GET", path, parameters)

    def request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, object] | None = None,
        *,
        json: object = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """Send a request and return its response, also with an error status; never retry a POST.

        Raises:
            LabelStudioError: there was no response.
        """
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        retries = 0 if method == "POST" else MAX_RETRIES  # a POST may have created something
        options = {"max_retries": retries, "timeout_in_seconds": timeout}
        try:
            response: httpx.Response = self._wrapper.httpx_client.request(
                path,
                method=method,
                params=parameters,
                json=json,
                files=files,
                headers={} if files else {"Content-Type": "application/json"},
                request_options=options,
            )
        except httpx.TimeoutException as error:
            raise LabelStudioError(
                f"Label Studio at {self.server} did not answer {method} {path} in time."
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LabelStudioError(
                f"Label Studio cannot be reached at {self.server} ({error}): is it running, and "
                "is LABEL_STUDIO_URL right?"
            ) from error
        except ApiError as error:  # the SDK failed to renew the personal access token
            status = error.status_code or 401
            raise api_error(self.server, f"{method} {path}", status, error.body) from error
        return response
