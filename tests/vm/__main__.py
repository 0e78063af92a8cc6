"""``python -m tests.vm``: build what the guests are booted from, if it is not there; ``make test-vm`` does so first."""

from __future__ import annotations

from tests.vm import image

if __name__ == "__main__":
    image.build()
