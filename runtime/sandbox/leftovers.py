"""What a failed RunPodSandbox could not undo: tried again, by and by, until it works.

A plugin of the cluster's network may be away for minutes.  Nobody asks for such a sandbox again, it never was; its
intent stays in the journal, so that a restart finds it too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from runtime.context import Context
from runtime.errors import KerneletError

FIRST_SECONDS, MOST_SECONDS = 1.0, 60.0

logger = logging.getLogger(__name__)


def undo(context: Context, sandbox_id: str, act: Callable[[], None]) -> bool:
    """Do *act*, which takes back what there is of the sandbox; whether that is done.  Else a thread goes on, with a warning."""
    try:
        act()
        return True
    except (KerneletError, OSError) as error:
        logger.warning("sandbox %s, which failed, could not be undone and will be later: %s", sandbox_id[:13], error)
        threading.Thread(target=_repeat, args=(context, sandbox_id, act), name="undo", daemon=True).start()
        return False


def _repeat(context: Context, sandbox_id: str, act: Callable[[], None]) -> None:
    seconds = FIRST_SECONDS
    while not context.closing.wait(seconds):
        try:
            act()
        except (KerneletError, OSError) as error:
            logger.debug("undoing sandbox %s: %s", sandbox_id[:13], error)
            seconds = min(2 * seconds, MOST_SECONDS)
        else:
            logger.info("sandbox %s, which failed, is undone", sandbox_id[:13])
            return
