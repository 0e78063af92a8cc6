"""Whether this daemon itself can do its work; what a restart would not cure is no fault."""

from __future__ import annotations

import errno
import sqlite3

from runtime.errors import MonitorLost
from runtime.monitor.client import MonitorClient
from runtime.store import Store

#: A monitor that is replaced is there again in milliseconds; one that is busy with a burst, in a second.
ANSWER_SECONDS = 5.0


def faults(store: Store, monitor: MonitorClient) -> list[str]:
    """What is wrong, in words; takes ``ANSWER_SECONDS`` at most, unless a disk hangs.

    A disk that is full is not among it: whoever asks for a write is told, and all else goes on.
    """
    found = []
    try:
        monitor.ping(ANSWER_SECONDS)
    except (MonitorLost, OSError) as error:
        found.append(f"monitor: {error}")
    try:
        store.probe()
    except sqlite3.Error as error:
        found.append(f"database: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            found.append(f"database: the disk does not take it: {error.strerror}")
    return found
