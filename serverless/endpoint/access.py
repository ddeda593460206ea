"""Who may ask, how fast, and how much in a month."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.store.keys import Key, Keys
from backend.store.usage import Usage
from serverless.endpoint.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

ANYBODY = Key("", "anybody", "", rate=math.inf)
"""Who asks where no key is wanted."""
CHALLENGE = {"www-authenticate": "Bearer"}


@dataclass(frozen=True)
class Admitted:
    """Somebody who may ask.

    Attributes:
        key: theirs.
        headers: of the response: what they have left.
    """

    key: Key
    headers: dict[str, str]


class Access:
    """Checks keys and counts.

    Args:
        keys: that are good.
        usage: this month's counters.
        open: nobody needs a key.
    """

    def __init__(self, keys: Keys, usage: Usage, *, open: bool) -> None:
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import MovingWindowRateLimiter

        self._keys = keys
        self._usage = usage
        self._open = open
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def known(self, request: Request) -> Key:
        """Whose key a request carries.

        Raises:
            Problem: it carries none that is good.
        """
        if self._open:
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

    async def admit(self, request: Request, function: str, images: int = 1) -> Admitted:
        """Let somebody invoke a function, and count it.

        Args:
            request: with the key.
            function: its id.
            images: how many; each counts.

        Raises:
            Problem: no key, not for this function, too fast, or the month's share is used.
        """
        key = self.allowed(request, function)
        self._in_quota(key, images)
        headers = await self._in_time(key, images)
        used = self._usage.add(f"key {key.id}", images) if key.id else 0
        if key.quota:
            headers["x-quota-limit"] = str(key.quota)
            headers["x-quota-remaining"] = str(max(0, key.quota - int(used)))
        return Admitted(key, headers)

    def _in_quota(self, key: Key, images: int) -> None:
        used = self._usage.of(f"key {key.id}")
        if key.quota and used + images > key.quota:
            raise Problem(
                429,
                "quota",
                f"This key's {key.quota} images of this month are used: it goes on with the next "
                "month, or with another key.",
                {
                    "retry-after": str(_seconds_left_this_month()),
                    "x-quota-limit": str(key.quota),
                    "x-quota-remaining": str(max(0, key.quota - int(used))),
                },
            )

    async def _in_time(self, key: Key, images: int) -> dict[str, str]:
        """The headers of the rate limit (draft-ietf-httpapi-ratelimit-headers)."""
        from limits import RateLimitItemPerSecond

        if math.isinf(key.rate):
            return {}
        most, window = _window(key.rate)
        item = RateLimitItemPerSecond(max(most, images), window)
        let = await self._limiter.hit(item, key.id, cost=images)
        reset, left = await self._limiter.get_window_stats(item, key.id)
        headers = {
            "ratelimit-limit": str(most),
            "ratelimit-remaining": str(left),
            "ratelimit-reset": str(max(0, math.ceil(reset - time.time()))),
        }
        if not let:
            raise Problem(
                429,
                "too-fast",
                f"This key may ask for {key.rate:g} images a second: wait, and ask again.",
                {**headers, "retry-after": headers["ratelimit-reset"]},
            )
        return headers


def _window(rate: float) -> tuple[int, int]:
    """A rate as whole images in whole seconds."""
    return (round(rate), 1) if rate >= 1 else (1, math.ceil(1 / rate))


def _seconds_left_this_month() -> int:
    now = time.gmtime()
    year, month = (now.tm_year + 1, 1) if now.tm_mon == 12 else (now.tm_year, now.tm_mon + 1)
    import calendar

    return max(1, calendar.timegm((year, month, 1, 0, 0, 0)) - int(time.time()))
