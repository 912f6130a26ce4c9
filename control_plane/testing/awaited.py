"""Methods that block, and the same to be awaited: each is written once, and typed as it is written."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class Wraps(Protocol[S_co]):
    """Whoever has what blocks."""

    @property
    def blocking(self) -> S_co: ...


class Awaited(Generic[S, P, T]):
    """A method of `blocking`, in a thread: `status = Awaited(Cluster.status)`."""

    def __init__(self, method: Callable[Concatenate[S, P], T]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, wraps: None, owner: type[Any]) -> "Awaited[S, P, T]": ...

    @overload
    def __get__(self, wraps: Wraps[S], owner: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, wraps: Any, owner: type[Any]) -> Any:
        if wraps is None:
            return self

        @functools.wraps(self.method)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> T:
            return await in_thread(self.method, wraps.blocking, *args, **kwargs)

        return awaited


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What it returns. However often cancelled, this ends when the work has: nothing goes on behind a caller's back."""
    # No task: what ends all tasks of a loop would end it while the thread goes on.
    doing = asyncio.get_running_loop().run_in_executor(None, functools.partial(work, *args, **kwargs))
    interrupted: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError as e:
            interrupted = e
    if interrupted is not None:
        doing.exception()  # why it failed is no news to who wants it no more
        raise interrupted
    return doing.result()
