"""What a request handler may wait for, as awaitables that the driver understands.

A handler that awaits one of these gives its coroutine to the driver, which goes on
with other requests and resumes it later. Handlers that wait for nothing never reach
the driver between reading and answering a request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final

Worker = Any  # a coroutine of pyfuse3's session loop, which is compiled code


class Park:
    """Wait until ``test`` is true or ``deadline`` (CLOCK_MONOTONIC, seconds) has passed.

    Awaiting it gives True when the test was met, False at the deadline.
    """

    __slots__ = ("deadline", "test", "worker")

    def __init__(self, test: Callable[[], bool], deadline: float) -> None:
        self.test = test
        self.deadline = deadline
        self.worker: Worker = None

    def __await__(self) -> Generator[Any, Any, bool]:
        return bool((yield self))


class Job:
    """Run ``call`` in a thread of the pool; awaiting it gives its result or raises its OSError."""

    __slots__ = ("call", "error", "result", "worker")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self.worker: Worker = None

    def run(self) -> None:
        """[pool thread] Make the call."""
        try:
            self.result = self.call()
        except BaseException as error:  # carried to the handler, whatever it is
            self.error = error

    def __await__(self) -> Generator[Any, Any, Any]:
        yield self
        if self.error is not None:
            raise self.error
        return self.result


class _Done:
    """An awaitable that is finished at once."""

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


DONE: Final = _Done()
