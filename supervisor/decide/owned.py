"""Counters by key, and how many of them each caller has: so that no caller alone can use up the room for all. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

V = TypeVar("V")


def owner(key: str) -> str:
    """The caller in the name of a counter ("a:uid:1000/agent", "!f:uid:1000/agent") or agent ("uid:1000/agent")."""
    head, _, rest = key.partition(":")
    return (rest if len(head.lstrip("!")) == 1 else key).partition("/")[0]


class Owned(dict[str, V]):
    """A dict that is changed by d[key] = value, del and pop() alone: they keep `owners`, caller -> how many keys."""

    __slots__ = ("owners",)

    def __init__(self, of: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        super().__init__(of)
        self.owners: dict[str, int] = {}
        for key in self:
            self._held(key, 1)

    def __setitem__(self, key: str, value: V) -> None:
        if key not in self:
            self._held(key, 1)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._held(key, -1)

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self._held(key, -1)
        return super().pop(key, *default)

    def _held(self, key: str, change: int) -> None:
        caller = owner(key)
        left = self.owners.get(caller, 0) + change
        if left:
            self.owners[caller] = left
        else:
            del self.owners[caller]
