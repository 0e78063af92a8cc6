"""Exec, attach and port-forward: the streams behind the URLs that the RPCs answer with.

```
    server ── a token opens one session ──> handshake ──┬─> spdy        frames   } over a Wire, as
                                                     └─> websocket   messages } Streams of a Peer
    remote        stdin, stdout, stderr, size and exit code, between Streams and a runtime.session.Session
    portforward   pairs of Streams, each with a connection to a port of a pod
```

``spdy``, ``websocket``, ``tokens`` and the handshake are bytes and rules alone: no sockets and no clock.
"""
