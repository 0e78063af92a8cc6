"""Where ``kernelet-oci`` begins.

The script that people call (``scripts/kernelet-oci``) starts the interpreter with this file and nothing else: no site,
no environment variables, which would cost time and could lead it elsewhere.  So our own modules are found here.  The
file is compiled at each start, so it says no more than that.

Garbage is not looked for unless somebody waits (``wait``), and nothing is taken apart at the end: 7 ms of 32.
"""

import gc
import os
import sys

if sys.flags.no_site:
    gc.disable()
    from posixpath import abspath, dirname

    here = dirname(dirname(dirname(abspath(__file__))))
    libraries = f"{dirname(dirname(sys.executable))}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    sys.path += [here] if here == libraries else [here, libraries]

    from runtime.oci.library import PLACE, Library

    library = Library(f"{here}/runtime/oci")
    sys.meta_path.insert(PLACE, library)

    from runtime.oci.lean import import_lean

    import_lean()  # before anything imports them its own way

from runtime.oci.command import main


def end(code: int) -> None:
    """End the process as it is: descriptors and memory are the kernel's to give back."""
    try:
        sys.stdout.flush()
        if sys.flags.no_site:
            library.keep()
    finally:  # also when nobody reads it any more
        os._exit(code)


if __name__ == "__main__":
    end(main())
