"""Who may ask, how fast, and how much in a month."""

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

ANONYMOUS_KEY = ApiKey("", "anybody", "", rate=math.inf)
"""Who asks where no key is wanted."""
CHALLENGE_HEADERS = {"www-authenticate": "Bearer"}


class AccessControl:
    """Checks keys and counts. What somebody has left stands in ``request.state.left``, as headers
    for whatever answer they get.

    Args:
        keys: that are good.
        usage: this month's counters.
        allow_anonymous: nobody needs a key.
        open_until_key: nobody needs a key as long as none was made; a revoked one was.
        clock: seconds, monotonic.
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
        """Whether nobody needs a key now; the first key that is made ends that for good."""
        if self._open_until_key and self._keys.all():
            self._open_until_key = False
        return self._allow_anonymous or self._open_until_key

    def authenticate(self, request: Request) -> ApiKey:
        """Whose key a request carries; whatever it gets tells what the key has left.

        Raises:
            ProblemError: it carries none that is good.
            StoreError: the file of keys is damaged.
        """
        if self.is_open:
            return ANONYMOUS_KEY
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = self._keys.authenticate(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ProblemError(
                401,
                "no-key",
                "Send a key as `Authorization: Bearer plk_…`; `prelabel keys create NAME` makes "
                "one.",
                CHALLENGE_HEADERS,
            )
        request.state.left = self._limit_headers(key)
        return key

    def authorize(self, request: Request, function: str) -> ApiKey:
        """Whose key a request carries, that may ask for a function.

        Raises:
            ProblemError: no key, or not for this function.
        """
        key = self.authenticate(request)
        if not key.may_invoke(function):
            raise ProblemError(
                403, "not-this-function", f"This key is not for function {function}."
            )
        return key

    def authorize_all(self, request: Request) -> None:
        """Make sure that somebody may see what is told of all functions together.

        Raises:
            ProblemError: no key, or one for some functions only.
        """
        if self.authenticate(request).functions:
            message = (
                "This key is for some functions: counters of all need a key without --function."
            )
            raise ProblemError(403, "not-this-function", message)

    def check_admission(self, request: Request, function: str) -> ApiKey:
        """Make sure that somebody may ask for an image now, before anything of it is read.

        Raises:
            ProblemError: see :meth:`admit`.
        """
        key = self.authorize(request, function)
        self._check_limits(request, key, 1)
        return key

    def admit(self, request: Request, function: str, images: int = 1) -> None:
        """Let somebody ask for images, and count them; all at once, whoever asks beside.

        Args:
            request: with the key.
            function: its id.
            images: how many; each counts.

        Raises:
            ProblemError: no key, not for this function, too fast, or the month's share is used.
        """
        key = self.authorize(request, function)
        self._check_limits(request, key, images)
        if key.id:
            self._usage.increment(f"key {key.id}", images)
        if key.id in self._buckets:
            self._buckets[key.id].consume(images, self._clock())
        request.state.left = self._limit_headers(key)

    def _check_limits(self, request: Request, key: ApiKey, images: int) -> None:
        bucket = self._bucket_for(key)
        remaining = key.quota - int(self._usage.current(f"key {key.id}"))
        if key.quota and images > remaining:
            raise _quota_problem(key, remaining)
        delay_seconds = math.ceil(bucket.wait_seconds(images, self._clock())) if bucket else 0
        if delay_seconds:
            request.state.left["ratelimit-reset"] = str(delay_seconds)
            raise ProblemError(
                429,
                "too-fast",
                f"This key may ask for {key.rate:g} images a second: wait, and ask again.",
                {"retry-after": str(delay_seconds)},
            )

    def _bucket_for(self, key: ApiKey) -> TokenBucket | None:
        """Of a key, whatever it asks for; none where it has no rate."""
        if math.isinf(key.rate):
            return None
        if key.id not in self._buckets:
            self._buckets[key.id] = TokenBucket(key.rate, self._clock())
        return self._buckets[key.id]

    def _limit_headers(self, key: ApiKey) -> dict[str, str]:
        """What a key has left, as headers (draft-ietf-httpapi-ratelimit-headers)."""
        headers = {}
        bucket = self._bucket_for(key)
        if bucket:
            level = bucket.level(self._clock())
            headers["ratelimit-limit"] = str(int(bucket.capacity))
            headers["ratelimit-remaining"] = str(max(0, int(level)))
            headers["ratelimit-reset"] = str(math.ceil((bucket.capacity - level) / bucket.rate))
        if key.quota:
            remaining = key.quota - int(self._usage.current(f"key {key.id}"))
            headers["x-quota-limit"] = str(key.quota)
            headers["x-quota-remaining"] = str(max(0, remaining))
        return headers


class TokenBucket:
    """A token bucket: a second's images at once, and no more than the rate in the long run.

    More images than it can hold are let through when it is full; it then owes them, and nobody
    is let through until it has made up for them.

    Args:
        rate: images a second, above 0.
        now: seconds, monotonic.
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.capacity = max(1.0, math.floor(rate + 0.5))
        self._level = self.capacity
        self._updated_at = now

    def level(self, now: float) -> float:
        """Images that may be asked for; below 0 where it owes some."""
        return min(self.capacity, self._level + (now - self._updated_at) * self.rate)

    def wait_seconds(self, images: int, now: float) -> float:
        """Seconds until so many may be asked for; 0: now."""
        deficit = min(float(images), self.capacity) - self.level(now)
        return max(0.0, deficit / self.rate) if deficit > 1e-9 else 0.0

    def consume(self, images: int, now: float) -> None:
        """Ask for so many."""
        self._level, self._updated_at = self.level(now) - images, now


def _quota_problem(key: ApiKey, remaining: int) -> ProblemError:
    """Why a key may not ask for so many; when again only where it may not ask for a single one."""
    if remaining > 0:
        message = (
            f"This key has {remaining} of its {key.quota} images of this month left: send fewer."
        )
        return ProblemError(429, "quota", message)
    return ProblemError(
        429,
        "quota",
        f"This key's {key.quota} images of this month are used: it goes on with the next month, "
        "or with another key.",
        {"retry-after": str(_seconds_left_this_month())},
    )


def _seconds_left_this_month() -> int:
    now = time.gmtime()
    year, month = (now.tm_year + 1, 1) if now.tm_mon == 12 else (now.tm_year, now.tm_mon + 1)
    return max(1, calendar.timegm((year, month, 1, 0, 0, 0)) - int(time.time()))
