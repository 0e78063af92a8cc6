"""Where ``kernelet-oci`` begins.

The script that people call (``scripts/kernelet-oci``) starts the interpreter with this file and nothing else: no site,
no environment variables, which would cost time and could lead it elsewhere.  So our own modules are found here.  The
file is compiled at each start, so it says no more than that.
"""

import sys

if sys.flags.no_site:
    from posixpath import abspath, dirname

    here = dirname(dirname(dirname(abspath(__file__))))
    libraries = f"{dirname(dirname(sys.executable))}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    sys.path += [here] if here == libraries else [here, libraries]

    from runtime.oci.lean import import_lean

    import_lean()  # before anything imports them its own way

from runtime.oci.command import main

if __name__ == "__main__":
    sys.exit(main())
