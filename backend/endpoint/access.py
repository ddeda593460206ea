"""Check API keys, rate limits and monthly quotas."""

from __future__ import annotations

import calendar
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.endpoint.problems import ProblemError
from backend.store.api_keys import ApiKey, ApiKeyStore
from backend.store.usage import UsageCounters

if TYPE_CHECKING:
    from starlette.requests import Request

ANONYMOUS_KEY = ApiKey("", "anonymous", "", rate=math.inf)
"""Used for requests that do not need an API key."""
CHALLENGE_HEADERS = {"www-authenticate": "Bearer"}


class AccessControl:
    """Authenticate requests, and enforce rate limits and monthly quotas.

    The remaining limits are stored as response headers in ``request.state.limit_headers``.

    Args:
        keys: the API keys.
        usage: this month's counters.
        allow_anonymous: accept requests without an API key.
        open_until_key: accept requests without an API key until the first one is created, even if
            it was revoked since.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        keys: ApiKeyStore,
        usage: UsageCounters,
        *,
        allow_anonymous: bool,
        open_until_key: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._usage = usage
        self._allow_anonymous = allow_anonymous
        self._open_until_key = open_until_key
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    @property
    def is_open(self) -> bool:
        """Whether requests are accepted without an API key."""
        if self._open_until_key and self._keys.all():
            self._open_until_key = False
        return self._allow_anonymous or self._open_until_key

    def authenticate(self, request: Request) -> ApiKey:
        """Return the API key of a request.

        Raises:
            ProblemError: the key is missing or invalid.
            StoreError: the key file is damaged.
        """
        if self.is_open:
            return ANONYMOUS_KEY
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = self._keys.authenticate(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            message = (
                "Send an API key as `Authorization: Bearer plk_…`; create one with `prelabel keys "
                "create NAME`."
            )
            raise ProblemError(401, "no-key", message, CHALLENGE_HEADERS)
        request.state.limit_headers = self._limit_headers(key)
        return key

    def authorize(self, request: Request, function: str) -> ApiKey:
        """Return the API key of a request, and check that it may invoke a function.

        Raises:
            ProblemError: the key is missing, invalid, or limited to other functions.
        """
        key = self.authenticate(request)
        if not key.may_invoke(function):
            message = f"This API key is not valid for function {function}."
            raise ProblemError(403, "not-this-function", message)
        return key

    def authorize_all(self, request: Request) -> None:
        """Check that the API key of a request may read the metrics of all functions.

        Raises:
            ProblemError: the key is missing, invalid, or limited to some functions.
        """
        if self.authenticate(request).functions:
            message = "Metrics need an API key that was created without --function."
            raise ProblemError(403, "not-this-function", message)

    def check_admission(self, request: Request, function: str) -> None:
        """Check the API key, rate limit and quota for one image, before the body is read.

        Raises:
            ProblemError: see :meth:`admit`.
        """
        self._check_limits(request, self.authorize(request, function), 1)

    def admit(self, request: Request, function: str, images: int = 1) -> None:
        """Check the API key, rate limit and quota for a number of images, and count the images.

        Raises:
            ProblemError: the key is missing, invalid, or limited to other functions; the rate limit
                is exceeded, or the quota is used up.
        """
        key = self.authorize(request, function)
        self._check_limits(request, key, images)
        if key.id:
            self._usage.increment(f"key {key.id}", images)
        if key.id in self._buckets:
            self._buckets[key.id].consume(images, self._clock())
        request.state.limit_headers = self._limit_headers(key)

    def _check_limits(self, request: Request, key: ApiKey, images: int) -> None:
        remaining = self._remaining_quota(key)
        if key.quota and images > remaining:
            raise _quota_problem(key, remaining)
        bucket = self._bucket_for(key)
        delay_seconds = math.ceil(bucket.wait_seconds(images, self._clock())) if bucket else 0
        if delay_seconds:
            request.state.limit_headers["ratelimit-reset"] = str(delay_seconds)
            raise ProblemError(
                429,
                "too-fast",
                f"This API key is limited to {key.rate:g} images a second: retry later.",
                {"retry-after": str(delay_seconds)},
            )

    def _remaining_quota(self, key: ApiKey) -> int:
        return key.quota - int(self._usage.current(f"key {key.id}"))

    def _bucket_for(self, key: ApiKey) -> TokenBucket | None:
        """Return the token bucket of a key; None if the key has no rate limit."""
        if math.isinf(key.rate):
            return None
        if key.id not in self._buckets:
            self._buckets[key.id] = TokenBucket(key.rate, self._clock())
        return self._buckets[key.id]

    def _limit_headers(self, key: ApiKey) -> dict[str, str]:
        """Return a key's remaining limits as headers (draft-ietf-httpapi-ratelimit-headers)."""
        headers = {}
        bucket = self._bucket_for(key)
        if bucket:
            level = bucket.level(self._clock())
            headers["ratelimit-limit"] = str(int(bucket.capacity))
            headers["ratelimit-remaining"] = str(max(0, int(level)))
            headers["ratelimit-reset"] = str(math.ceil((bucket.capacity - level) / bucket.rate))
        if key.quota:
            headers["x-quota-limit"] = str(key.quota)
            headers["x-quota-remaining"] = str(max(0, self._remaining_quota(key)))
        return headers


class TokenBucket:
    """Token bucket with a capacity of one second's images.

    A batch larger than the capacity is admitted when the bucket is full. The level then is
    negative, and further requests are rejected until it is refilled.

    Args:
        rate: images per second, above 0.
        now: monotonic clock in seconds.
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.capacity = max(1.0, math.floor(rate + 0.5))
        self._level = self.capacity
        self._updated_at = now

    def level(self, now: float) -> float:
        """Return the number of available tokens; negative after a large batch."""
        return min(self.capacity, self._level + (now - self._updated_at) * self.rate)

    def wait_seconds(self, images: int, now: float) -> float:
        """Return the seconds until a number of images is admitted; 0 if they are now."""
        deficit = min(float(images), self.capacity) - self.level(now)
        return max(0.0, deficit / self.rate) if deficit > 1e-9 else 0.0

    def consume(self, images: int, now: float) -> None:
        """Remove one token per admitted image."""
        self._level, self._updated_at = self.level(now) - images, now


def _quota_problem(key: ApiKey, remaining: int) -> ProblemError:
    """Return the error for an exceeded quota; with ``Retry-After`` only if no image is left."""
    if remaining > 0:
        message = f"This API key has {remaining} of {key.quota} images left this month: send fewer."
        return ProblemError(429, "quota", message)
    message = (
        f"The {key.quota} images of this API key are used up: wait for the next month, or use "
        "another key."
    )
    return ProblemError(429, "quota", message, {"retry-after": str(_seconds_left_this_month())})


def _seconds_left_this_month() -> int:
    now = time.gmtime()
    year, month = (now.tm_year + 1, 1) if now.tm_mon == 12 else (now.tm_year, now.tm_mon + 1)
    return max(1, calendar.timegm((year, month, 1, 0, 0, 0)) - int(time.time()))
