"""The other machine, emulated: our wheel, cross-compiled, with its tests and programs run by an arm64 Python under QEMU.

``build.py`` puts together what is needed below build/arm64, ``__main__.py`` runs it: ``make test-arm64``.  QEMU translates
the program's own instructions and hands its system calls to this machine's kernel, except for what it does not know:
clone3, seccomp, the mount calls.  So programs are composed, packed and walked as on arm64, and no container is started.
"""
