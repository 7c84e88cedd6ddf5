"""Ctrl-C and SIGTERM in a training: it ends its step, saves, and can be resumed."""

import signal
from types import FrameType


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a flag that the loop looks at; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "Interruption":
        self._old = {int(n): signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        # Nothing is printed here: a handler runs in the middle of anything, of printing too.
        self.signal = number
        signal.signal(number, self._old[number])
