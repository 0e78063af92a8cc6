"""Writing to procfs in a program: through a descriptor of our own, never by a path that somebody else can redirect."""

from __future__ import annotations

from collections.abc import Iterable

from kernel.program import Flags, Program, Slot, Words

_FLAGS = ("O_WRONLY", "O_CLOEXEC")
_RESOLVE = ("RESOLVE_BENEATH", "RESOLVE_NO_MAGICLINKS", "RESOLVE_NO_XDEV")


def write(
    steps: Program,
    procfs: int | None,
    path: str,
    text: str,
    *,
    store: str,
    why: str,
    hint: str = "",
    absent: str = "",
    tolerate: Iterable[int] = (),
) -> None:
    """Write *text* to *path* (``self/oom_score_adj``) of the procfs behind *procfs* (CVE-2019-16884, CVE-2025-52881).

    *absent* is what it means that there is no such file, *hint* that the kernel refuses the text.  Raises ValueError
    when there is no procfs: a path would do as well on most days.
    """
    if procfs is None:
        raise ValueError(f"/proc/{path}: no procfs was opened to write it through")
    label = "{" + "|".join(_FLAGS) + ", " + "|".join(_RESOLVE) + "}"
    how = Words(8, (Flags(_FLAGS).value(), 0, Flags(_RESOLVE).value()), label=label)
    steps.call("openat2", procfs, path, how, 24, store=store, why=f"/proc/{path}, through no link and over no mount", hint=absent)
    steps.call("write", Slot(store), text, len(text.encode()), why=why, hint=hint, tolerate=tolerate)
