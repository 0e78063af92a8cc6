"""How long to wait before asking a registry again: as long as it says, else longer each time."""

from __future__ import annotations

import email.utils
import random
import time

ATTEMPTS = 4
#: Longer than this is for the kubelet's own back-off.
LONGEST_SECONDS = 60.0
#: Answers that another attempt may change.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


def pause(status: int, retry_after: str | None, attempt: int, *, now: float | None = None) -> float | None:
    """Seconds to wait after attempt number *attempt* (from 0) was answered by *status*; None: do not ask again."""
    if status not in TRANSIENT or attempt + 1 >= ATTEMPTS:
        return None
    asked = None if retry_after is None else _seconds(retry_after, time.time() if now is None else now)
    if asked is not None:
        return asked if asked <= LONGEST_SECONDS else None
    first = 1.0 if status == 429 else 0.25
    return float(first * 2**attempt * random.uniform(0.8, 1.2))


def _seconds(retry_after: str, now: float) -> float | None:
    """Retry-After is seconds or a date (RFC 9110)."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None
