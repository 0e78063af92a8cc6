"""``kernelet-oci``: a container's life as one command line, the one that runc made the custom; no daemon.

``command`` reads the global flags, then imports one module, that of the command: start-up is most of the time
that a command takes.  Such a module has

    FLAGS: flags.Table          its flags (``flags.py``)
    USAGE: str                  its line of usage, after the command's name
    def run(request: Request) -> int:      does it and returns the exit code; raises KerneletError or OSError

A command about one container begins with ``with request.container() as container:``, which gives the
``directory.Container`` of that ID, locked for as long as the block lasts; ``container.status()`` is what it is now,
``container.spec()`` the config.json that it was created with, ``container.cgroup`` its cgroup.

Read ``create.py`` first: it is the table of contents of a start; then ``start.py``, and ``run.py``, which does both.
"""
