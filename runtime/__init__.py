"""What a container, a sandbox and an image are: OCI, without gRPC and without system calls of its own.

Read on in ``sandbox/lifecycle.py`` (a pod), ``lifecycle.py`` (a container), ``container/init.py``
(the program that its first process runs) and ``monitor/__main__.py`` (who starts and watches it).
"""
