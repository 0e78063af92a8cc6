# What mypy sees of the compiled module: every constant and call is declared in _build.py.
from typing import Any

ffi: Any
lib: Any
