"""The tests, and ``python -m tests.bench``.  Run them with ``make test``."""
