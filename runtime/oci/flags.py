"""Flags by hand: one table a command, parsed as Go programs do it, because runc's callers write them so.

"--flag value", "--flag=value", "-flag value" are one; a switch is true when it is there, and "--switch=false" takes
it back.  argparse would cost 8 ms, half of what a whole ``state`` takes.
"""

from __future__ import annotations

from runtime.errors import InvalidArgument

#: What a flag takes: nothing, a text, or a text each of the times it is given.
SWITCH, TEXT, LIST = "switch", "text", "list"
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")

#: By the names of a flag, "bundle b": what it takes.
Table = dict[str, str]
Values = dict[str, "str | bool | list[str]"]


class Parsed:
    """The flags that were given, by the first of their names, and the arguments."""

    __slots__ = ("_values", "arguments")

    def __init__(self, values: Values, arguments: list[str]) -> None:
        self._values, self.arguments = values, arguments

    def text(self, name: str, default: str = "") -> str:
        """The text given for *name*."""
        value = self._values.get(name, default)
        assert isinstance(value, str)
        return value

    def switch(self, name: str) -> bool:
        """Whether the switch *name* is on."""
        return self._values.get(name) is True

    def texts(self, name: str) -> list[str]:
        """Every text given for *name*, in order."""
        value = self._values.get(name, [])
        assert isinstance(value, list)
        return value

    def number(self, name: str, default: int = 0) -> int:
        """The number given for *name*; raises InvalidArgument for what is none."""
        text = self.text(name)
        if not text:
            return default
        if not is_number(text):
            raise InvalidArgument(f'invalid value "{text[:80]}" for flag -{name}: not a number')
        return int(text)

    def has(self, name: str) -> bool:
        """Whether *name* was given at all."""
        return name in self._values


def is_number(text: str) -> bool:
    """Whether *text* is a number that is not out of all measure: "²" is a digit to str.isdigit, and 5,000 of them no int."""
    return text.isascii() and text.isdigit() and len(text) < 20


def parse(table: Table, words: list[str], *, mixed: bool = True) -> Parsed:
    """*words* by *table*; without *mixed*, what follows the first argument is no flag any more.

    Raises InvalidArgument in the words that callers of runc know.
    """
    known = {name: (names.split()[0], kind) for names, kind in table.items() for name in names.split()}
    values: Values = {}
    arguments: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments.extend(rest)
        elif len(word) < 2 or word[0] != "-":
            arguments.append(word)
            if not mixed:
                arguments.extend(rest)
        else:
            name, equals, value = (word[2:] if word[1] == "-" else word[1:]).partition("=")
            if name not in known:
                raise InvalidArgument(f"flag provided but not defined: -{name}")
            name, kind = known[name]
            if kind is SWITCH:
                values[name] = _truth(name, value) if equals else True
                continue
            if not equals:
                following = next(rest, None)
                if following is None:
                    raise InvalidArgument(f"flag needs an argument: -{name}")
                value = following
            if kind is LIST:
                values[name] = [*_list_of(values, name), value]
            else:
                values[name] = value
    return Parsed(values, arguments)


def _truth(name: str, value: str) -> bool:
    if value not in _TRUE and value not in _FALSE:
        raise InvalidArgument(f'invalid boolean value "{value}" for -{name}')
    return value in _TRUE


def _list_of(values: Values, name: str) -> list[str]:
    found = values.get(name, [])
    assert isinstance(found, list)
    return found
