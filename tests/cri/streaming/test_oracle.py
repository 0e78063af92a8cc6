"""The frames by the word of others: node's spdy-transport, which knows nothing of Kubernetes, talks to the server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.cri.streaming.client import SECONDS
from tests.cri.streaming.conftest import Serving
from tests.support.requires import NODE_MODULES, program, requires

SCRIPT = Path(__file__).with_name("oracle.js")
#: spdy-transport keeps to the windows of SPDY/3.1, which Kubernetes' clients do not have: more would wait for an update.
SIZE = 30_000


@requires("node", "spdy-transport")
def test_another_implementation_understands_us_and_is_understood(serving: Serving) -> None:
    process = serving.play()
    where = urlsplit(serving.url(process=process))
    command = [program("node"), str(SCRIPT), "127.0.0.1", str(where.port), where.path]
    environment = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write(b"i" * SIZE)
        other.stdin.close()
        heard = b""
        while piece := process.hear():
            heard += piece
        assert heard == b"i" * SIZE
        process.say(b"o" * SIZE)
        os.write(process.complains.fileno(), b"e" * SIZE)
        process.end(4)
        said = json.loads(other.stdout.read())
        assert other.wait(SECONDS) == 0
    assert (said["stdout"], said["stderr"]) == ("o" * SIZE, "e" * SIZE)
    assert json.loads(said["error"])["details"] == {"causes": [{"reason": "ExitCode", "message": "4"}]}
    assert said["pings"] == 1
    assert process.was_closed.wait(SECONDS)
    serving.until_idle()
