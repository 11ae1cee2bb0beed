"""Questions that do not depend on each other, asked at the same time.

A store that is far away takes as long for sixteen small requests as for one, if they are on their
way together. So what a command is sure to need is asked for at once, and a command waits for as
many round trips as there are questions that rest on another's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

_T = TypeVar("_T")
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")
_REQUESTS = 16


@overload
def together(a: Callable[[], _A], b: Callable[[], _B], /) -> tuple[_A, _B]: ...
@overload
def together(
    a: Callable[[], _A], b: Callable[[], _B], c: Callable[[], _C], /
) -> tuple[_A, _B, _C]: ...
@overload
def together(
    a: Callable[[], _A], b: Callable[[], _B], c: Callable[[], _C], d: Callable[[], _D], /
) -> tuple[_A, _B, _C, _D]: ...
def together(*calls: Callable[[], Any]) -> tuple[Any, ...]:
    """What the calls return, in their order. Each has a thread while it runs.

    When some fail, the error of the first of them is raised, as if they had been made one after the
    other; all of them have ended by then.
    """
    return tuple(each(lambda call: call(), calls))


def each(call: Callable[[_A], _T], items: Iterable[_A]) -> list[_T]:
    """``call`` of each item, in the items' order, sixteen at a time. Errors as :func:`together`."""
    wanted = list(items)
    if len(wanted) < 2:
        return [call(item) for item in wanted]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(_REQUESTS, len(wanted)), thread_name_prefix="ask") as pool:
        return list(pool.map(call, wanted))
