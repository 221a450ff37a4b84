"""Token ids in, text out as soon as it is certain: whole characters only, and nothing that may be the start of a
stop string.
"""

from __future__ import annotations

from typing import Any

from tokenizers.decoders import DecodeStream


class TextStream:
    """One answer's text. `tokenizer` is a `tokenizers.Tokenizer`. A character that its last bytes never reach is
    left out.
    """

    def __init__(self, tokenizer: Any, stops: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that this token makes certain; sets `stopped` when a stop string is complete, and drops it."""
        piece = self._decoder.step(self._tokenizer, token_id)
        if not piece:
            return ""
        self._held += piece
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            released, self._held = self._held[: min(found)], ""
            self.stopped = True
            return released
        return self._release(len(self._held) - self._doubtful())

    def finish(self) -> str:
        """What was held back as the possible start of a stop string that did not come."""
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], self._held[count:]
        return released

    def _doubtful(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
