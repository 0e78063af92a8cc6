"""Tests in virtual machines: what the machine's own kernel cannot show (limits, OOM kills), shown by kernels that can.

``image.py`` builds what is booted, ``guest.py`` boots it, ``conftest.py`` has the fixture; ``inside/`` are tests that run in
a guest, each on the kernels that ``test_inside.py`` names.  ``make test-vm`` runs all of it; ``make test`` none.
"""
