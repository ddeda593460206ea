"""The response headers of all pages: what a page may load, and who may embed it."""

from __future__ import annotations

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer the Origin of a form would be null
    "Cross-Origin-Resource-Policy": "same-origin",
}
NO_CACHE_HEADERS = {"Cache-Control": "no-store"}
CACHE_HEADERS = {"Cache-Control": "private, max-age=3600"}
