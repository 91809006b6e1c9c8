"""Signals that end a command in order; processes that end with whom they serve."""

import os
import signal
import threading
from typing import Any, Dict, Optional

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which the first SIGINT or SIGTERM is only noted, to end in order.

    A second one does what it did before, as does the first in threads other than the
    main one, which hears no signals. What was ignored (a background job) stays so.
    """

    def __init__(self):
        """Nothing was heard yet."""
        self.received: Optional[int] = None
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Listens."""
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        """Listens no longer."""
        self._give_back()

    @property
    def name(self) -> str:
        """Of the signal that was received."""
        return signal.Signals(self.received).name

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def end_with_parent(parent: int, every_seconds: float = 1.0) -> None:
    """Ends this process once its parent is gone, however that was killed.

    Args:
      parent: its process id, as the parent says; who asks later may see another.
      every_seconds: between two looks.
    """

    def watch() -> None:
        waiting = threading.Event()
        while os.getppid() == parent:
            waiting.wait(every_seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
