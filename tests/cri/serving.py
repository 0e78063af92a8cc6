"""kernelet serve as a process, on a node of the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.support import image, isolation, wait
from tests.support.requires import TREE


def configure(paths: Paths, run: isolation.Run) -> Path:
    """Write a configuration file for *paths*; busybox is on that node already."""
    file = paths.run_dir.parent / "kernelet.toml"
    file.write_text(
        f'root_dir = "{paths.root_dir}"\nrun_dir = "{paths.run_dir}"\n'
        f'[network]\nbridge = "{run.bridge}"\nsubnet = "{run.subnet}"\n'
    )
    store = Store(paths.database)
    image.store_busybox(ImageStore(paths, store, Journal(store)))
    store.close()
    return file


@contextmanager
def serving(config: Path, paths: Paths) -> Iterator[subprocess.Popen[str]]:
    """kernelet serve, answering; stopped by SIGTERM at the end, unless the test has ended it."""
    log = paths.run_dir.parent / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cri", "serve", "--config", str(config)], cwd=TREE, stderr=output, text=True
        )
    try:
        wait.until(lambda: process.poll() is not None or "listening" in log.read_text(), 20, "the daemon to listen")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log.read_text()
