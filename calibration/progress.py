"""Showing how far a long step is, on the error stream.

Owns the display only; the steps themselves report plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[int, int], None]


@contextmanager
def shown(what: str) -> Iterator[Progress]:
    """A bar while the block runs; gives the function that moves it.

    Args:
        what: is being done, in a few words.

    Yields:
        A function of steps done and steps in all, 0 when that is not known.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    # On the error stream, so that what a command prints can be piped.
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(what, total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield move


def counted(
    feeds: Callable[[], Iterable[T]], total: int, progress: Progress
) -> Callable[[], Iterator[T]]:
    """The same tensors, told to ``progress`` one by one over all passes.

    Args:
        feeds: gives the tensors of one pass.
        total: tensors of all passes together.
        progress: told the number done.
    """
    done = 0

    def passing() -> Iterator[T]:
        nonlocal done
        for feed in feeds():
            yield feed
            done += 1
            progress(done, total)

    return passing
