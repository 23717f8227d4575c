"""Turning what a request's method raises into what the kernel is answered.

Rules:
    1. Only FUSEError leaves a method. OSError becomes its errno; anything else is a bug,
       is logged with its traceback and answered EIO. Otherwise one bug would end the mount.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def errno_of(error: Exception, name: str) -> int:
    """The errno that the kernel is answered; what is no OSError is a bug and logged."""
    if isinstance(error, OSError | pyfuse3.FUSEError) and error.errno:
        return int(error.errno)
    log.error("%s failed unexpectedly", name, exc_info=error)
    return errno.EIO


def answered(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Let only FUSEError out of a request's method."""

    @functools.wraps(method)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:  # a request's top: everything becomes an errno
            raise pyfuse3.FUSEError(errno_of(error, method.__name__)) from None

    return guarded
