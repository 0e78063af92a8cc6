"""The runtime handlers: by which of them a pod runs is its RuntimeClass's word; what they differ in, kernelet.toml's.

The one without a name is always there.  A pod remembers the name; what it means is looked up for each container, so
that a change of the configuration counts for the next one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from cri.config import Config, HandlerConfig
from kernel.fd import open_path
from runtime import cdi
from runtime.errors import InvalidArgument
from runtime.spec import schema

#: More than any seccomp profile has.
PROFILE_LIMIT_BYTES = 4 * 1024 * 1024


class Handlers:
    def __init__(self, config: Config) -> None:
        self.configure(config)

    def configure(self, config: Config) -> None:
        """From now on by *config*."""
        self._known = {"": HandlerConfig(), **config.handlers}
        self._cdi_dirs = tuple(map(str, config.cdi_dirs))

    def names(self) -> list[str]:
        return list(self._known)

    def find(self, name: str) -> HandlerConfig:
        """Raises InvalidArgument for a name that the configuration does not have."""
        if name not in self._known:
            known = ", ".join(sorted(each for each in self._known if each)) or "none"
            raise InvalidArgument(f"unknown runtime handler {name!r}; configured by name: {known}")
        return self._known[name]

    def inject_devices(self, spec: schema.Spec, names: Sequence[str]) -> list[int]:
        """Put the CDI devices *names* into *spec*; returns further groups of the process."""
        return cdi.inject(spec, cdi.find(dict.fromkeys(names), self._cdi_dirs)) if names else []


def read_profile(path: str) -> bytes:
    """The content of a profile's file: a regular one of a sensible size, whatever stands at *path*.  Raises OSError."""
    with open_path(path, os.O_RDONLY | os.O_NONBLOCK) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no regular file")
        content = os.pread(file.fileno(), PROFILE_LIMIT_BYTES + 1, 0)
    if len(content) > PROFILE_LIMIT_BYTES:
        raise OSError(f"{path} is larger than {PROFILE_LIMIT_BYTES} bytes")
    return content
