"""Records made without compiling: what ``dataclasses`` is to the command line.

The standard library writes the source of each class's methods and compiles it, 0.2 ms for a class and more than a third
of this command's start-up.  These methods are made of the list of fields instead: slower each time they are called, which
is seldom.  They are not told from the others by what they do, except that nothing keeps a frozen one from being changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

Kind = TypeVar("Kind", bound=type)


class _Field:
    """A field whose default is made anew for each record."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], object]) -> Any:
    """A field with a default that is made by *default_factory*."""
    return _Field(default_factory)


@overload
def dataclass(kind: Kind, /) -> Kind: ...
@overload
def dataclass(*, frozen: bool = False, slots: bool = False) -> Callable[[Kind], Kind]: ...
def dataclass(kind: Kind | None = None, /, *, frozen: bool = False, slots: bool = False) -> Kind | Callable[[Kind], Kind]:  # noqa: ARG001
    """The class decorator; *slots* saves memory elsewhere and means nothing here."""
    if kind is None:
        return lambda decorated: _complete(decorated, frozen=frozen)
    return _complete(kind, frozen=frozen)


def replace(record: Any, **changes: object) -> Any:
    """A copy of *record* with *changes*."""
    return type(record)(**{**{name: getattr(record, name) for name in record.__match_args__}, **changes})


def _complete(kind: Kind, *, frozen: bool) -> Kind:
    own = dict(vars(kind))
    names = tuple(dict.fromkeys((*getattr(kind, "__match_args__", ()), *own.get("__annotations__", {}))))
    methods: dict[str, Any] = {
        "__init__": _make_init(kind, names),
        "__eq__": lambda self, other: _values(self) == _values(other) if type(other) is kind else NotImplemented,
        "__repr__": _describe,
        "__match_args__": names,
        "__dataclass_fields__": dict.fromkeys(names),  # by which msgspec knows one
        "__hash__": (lambda self: hash(_values(self))) if frozen else None,
    }
    for name, method in methods.items():
        if name not in own or (name == "__hash__" and "__eq__" not in own):
            setattr(kind, name, method)
    return kind


def _make_init(kind: type, names: tuple[str, ...]) -> Callable[..., None]:
    makers = {name: default.make for name in names if isinstance(default := getattr(kind, name, None), _Field)}

    def init(self: Any, *values: object, **named: object) -> None:
        given = dict(zip(names, values, strict=False))
        if len(values) > len(names) or given.keys() & named.keys():
            raise TypeError(f"{kind.__name__}(): too many values")
        given |= named
        for name in names:
            if name in given:
                setattr(self, name, given.pop(name))
            elif name in makers:
                setattr(self, name, makers[name]())
            elif not hasattr(kind, name):
                raise TypeError(f"{kind.__name__}(): {name} is missing")
        if given:
            raise TypeError(f"{kind.__name__}(): there is no {', '.join(given)}")
        if hasattr(kind, "__post_init__"):
            self.__post_init__()

    return init


def _values(record: Any) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in record.__match_args__)


def _describe(record: Any) -> str:
    pairs = zip(record.__match_args__, _values(record), strict=True)
    return f"{type(record).__qualname__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"
