"""Who may ask, how fast, and how much in a month."""

from __future__ import annotations

import calendar
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.endpoint.problems import Problem
from backend.store.api_keys import Key, Keys
from backend.store.usage import Usage

if TYPE_CHECKING:
    from starlette.requests import Request

ANYBODY = Key("", "anybody", "", rate=math.inf)
"""Who asks where no key is wanted."""
CHALLENGE = {"www-authenticate": "Bearer"}


class Access:
    """Checks keys and counts. What somebody has left stands in ``request.state.left``, as headers
    for whatever answer they get.

    Args:
        keys: that are good.
        usage: this month's counters.
        open: nobody needs a key.
        open_at_first: nobody needs a key as long as none was made; a revoked one was.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        keys: Keys,
        usage: Usage,
        *,
        open: bool,
        open_at_first: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._usage = usage
        self._open = open
        self._open_at_first = open_at_first
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    @property
    def open(self) -> bool:
        """Whether nobody needs a key now; the first key that is made ends that for good."""
        if self._open_at_first and self._keys.all():
            self._open_at_first = False
        return self._open or self._open_at_first

    def known(self, request: Request) -> Key:
        """Whose key a request carries; whatever it gets tells what the key has left.

        Raises:
            Problem: it carries none that is good.
            StoreError: the file of keys is damaged.
        """
        if self.open:
            return ANYBODY
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        key = self._keys.check(text.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise Problem(
                401,
                "no-key",
                "Send a key as `Authorization: Bearer plk_…`; `prelabel keys create NAME` makes "
                "one.",
                CHALLENGE,
            )
        request.state.left = self._left(key)
        return key

    def allowed(self, request: Request, function: str) -> Key:
        """Whose key a request carries, that may ask for a function.

        Raises:
            Problem: no key, or not for this function.
        """
        key = self.known(request)
        if not key.may_ask(function):
            raise Problem(403, "not-this-function", f"This key is not for function {function}.")
        return key

    def all_functions(self, request: Request) -> None:
        """Make sure that somebody may see what is told of all functions together.

        Raises:
            Problem: no key, or one for some functions only.
        """
        if self.known(request).functions:
            told = "This key is for some functions: counters of all need a key without --function."
            raise Problem(403, "not-this-function", told)

    def welcome(self, request: Request, function: str) -> Key:
        """Make sure that somebody may ask for an image now, before anything of it is read.

        Raises:
            Problem: see :meth:`admit`.
        """
        key = self.allowed(request, function)
        self._check(request, key, 1)
        return key

    def admit(self, request: Request, function: str, images: int = 1) -> None:
        """Let somebody ask for images, and count them; all at once, whoever asks beside.

        Args:
            request: with the key.
            function: its id.
            images: how many; each counts.

        Raises:
            Problem: no key, not for this function, too fast, or the month's share is used.
        """
        key = self.allowed(request, function)
        self._check(request, key, images)
        if key.id:
            self._usage.add(f"key {key.id}", images)
        if key.id in self._buckets:
            self._buckets[key.id].take(images, self._clock())
        request.state.left = self._left(key)

    def _check(self, request: Request, key: Key, images: int) -> None:
        bucket = self._bucket(key)
        left = key.quota - int(self._usage.of(f"key {key.id}"))
        if key.quota and images > left:
            raise _over_quota(key, left)
        wait = math.ceil(bucket.wait(images, self._clock())) if bucket else 0
        if wait:
            request.state.left["ratelimit-reset"] = str(wait)
            raise Problem(
                429,
                "too-fast",
                f"This key may ask for {key.rate:g} images a second: wait, and ask again.",
                {"retry-after": str(wait)},
            )

    def _bucket(self, key: Key) -> Bucket | None:
        """Of a key, whatever it asks for; none where it has no rate."""
        if math.isinf(key.rate):
            return None
        if key.id not in self._buckets:
            self._buckets[key.id] = Bucket(key.rate, self._clock())
        return self._buckets[key.id]

    def _left(self, key: Key) -> dict[str, str]:
        """What a key has left, as headers (draft-ietf-httpapi-ratelimit-headers)."""
        headers = {}
        bucket = self._bucket(key)
        if bucket:
            level = bucket.level(self._clock())
            headers["ratelimit-limit"] = str(int(bucket.most))
            headers["ratelimit-remaining"] = str(max(0, int(level)))
            headers["ratelimit-reset"] = str(math.ceil((bucket.most - level) / bucket.rate))
        if key.quota:
            left = key.quota - int(self._usage.of(f"key {key.id}"))
            headers["x-quota-limit"] = str(key.quota)
            headers["x-quota-remaining"] = str(max(0, left))
        return headers


class Bucket:
    """A token bucket: a second's images at once, and no more than the rate in the long run.

    More images than it can hold are let through when it is full; it then owes them, and nobody
    is let through until it has made up for them.

    Args:
        rate: images a second, above 0.
        now: seconds, monotonic.
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.most = max(1.0, math.floor(rate + 0.5))
        self._level = self.most
        self._at = now

    def level(self, now: float) -> float:
        """Images that may be asked for; below 0 where it owes some."""
        return min(self.most, self._level + (now - self._at) * self.rate)

    def wait(self, images: int, now: float) -> float:
        """Seconds until so many may be asked for; 0: now."""
        short = min(float(images), self.most) - self.level(now)
        return max(0.0, short / self.rate) if short > 1e-9 else 0.0

    def take(self, images: int, now: float) -> None:
        """Ask for so many."""
        self._level, self._at = self.level(now) - images, now


def _over_quota(key: Key, left: int) -> Problem:
    """Why a key may not ask for so many; when again only where it may not ask for a single one."""
    if left > 0:
        told = f"This key has {left} of its {key.quota} images of this month left: send fewer."
        return Problem(429, "quota", told)
    return Problem(
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
