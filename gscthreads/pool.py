"""Worker threads that nobody has to wait for: neither who ends a run, nor the interpreter when it exits."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread


class LooseThreadPool(concurrent.futures.ThreadPoolExecutor):
    """A ThreadPoolExecutor that the interpreter does not join at exit: a worker that hangs where nothing reaches it (in
    name resolution, say) would keep the process alive.  ``shutdown`` works as ever.

    The threads must be daemons as well, or the interpreter joins them for that reason.  They are where Python makes
    them so (3.8), and elsewhere when ``submit`` is called by one: a thread is what its maker is.

    concurrent.futures keeps all its threads in one private dict, and joins what it finds there at exit.  It adds a
    thread in ``_adjust_thread_count``, which ``submit`` calls under the lock that exit takes first (3.9 to 3.14); so a
    thread that is taken out in there was never seen.  A Python without these names has an ordinary pool here.
    """

    def _adjust_thread_count(self) -> None:
        super()._adjust_thread_count()
        joined_at_exit = getattr(concurrent.futures.thread, "_threads_queues", {})
        for thread in getattr(self, "_threads", ()):
            joined_at_exit.pop(thread, None)
