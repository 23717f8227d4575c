"""A few threads that make one blocking call each, so that a slow disk stops one request only.

Used by the driver. Threads are started when first needed: a process that was forked
from the template must not have any before.
"""

from __future__ import annotations

import collections
import os
import queue
import threading
from typing import Final

from sqlitecluster.mount.parking import Job

THREADS_MAX: Final = 4  # fsyncs of one disk do not get faster beyond that


class Pool:
    """Runs jobs; finished ones are taken by the driver when ``fd`` is readable."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: collections.deque[Job] = collections.deque()
        self._threads: list[threading.Thread] = []
        self.busy = 0

    def submit(self, job: Job) -> None:
        """Start a job in the next free thread."""
        self.busy += 1
        if self.busy > len(self._threads) and len(self._threads) < THREADS_MAX:
            thread = threading.Thread(target=self._work, name=f"disk-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._todo.put(job)

    def finished(self) -> list[Job]:
        """Jobs that ended since the last call."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return []
        jobs = []
        while self._done:
            jobs.append(self._done.popleft())
        self.busy -= len(jobs)
        return jobs

    def close(self) -> None:
        """Let the threads end after what they do now."""
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(timeout=10)
        os.close(self.fd)

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            job.run()
            self._done.append(job)
            os.eventfd_write(self.fd, 1)
