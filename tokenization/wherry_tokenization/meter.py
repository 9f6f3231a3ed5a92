"""Count the work a template does, and stop it when it has done too much.

Knows nothing of templates beyond the kinds of value they handle.
"""

from collections.abc import Iterable, Iterator, MappingView, Sized
from typing import Any

from jinja2.utils import Namespace

_CHARACTERS_PER_UNIT = 16


class WorkExhausted(Exception):
    """The template has used up the work it was given."""


class Meter:
    """What is left of a render's work. A unit stands for about a microsecond, or for sixteen characters."""

    def __init__(self, units: int) -> None:
        self._left = units

    def spend(self, units: int) -> None:
        """Use up some of the work, before doing it."""
        self._left -= units
        if self._left < 0:
            raise WorkExhausted

    def write(self, characters: int) -> None:
        """Spend for a text of this length."""
        self.spend(1 + characters // _CHARACTERS_PER_UNIT)

    def glance(self, value: Any) -> int:
        """Spend for running over a value without looking into its elements."""
        units = 1 + (len(value) // _CHARACTERS_PER_UNIT if isinstance(value, Sized) else 0)
        self.spend(units)
        return units

    def weigh(self, value: Any) -> int:
        """Spend for writing out or comparing a value: all it holds, as often as it holds it."""
        before = self._left
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self.write(len(item))
            elif isinstance(item, dict):
                self.spend(1 + len(item))
                stack.extend(item)
                stack.extend(item.values())
            elif isinstance(item, list | tuple) or (isinstance(item, MappingView) and isinstance(item, Iterable)):
                self.spend(1 + len(item))
                stack.extend(item)
            elif isinstance(item, Namespace):
                self.spend(1)
                stack.append(object.__getattribute__(item, "_Namespace__attrs"))
            else:
                self.spend(1 + (len(item) if isinstance(item, Sized) else 0))
        return before - self._left

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a lazy sequence, each spent for as it is taken."""
        for item in items:
            self.spend(1)
            yield item
