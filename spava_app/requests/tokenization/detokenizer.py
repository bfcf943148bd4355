"""Tokens in, text out, piece by piece: never half a character, never part of a stop string."""

from collections.abc import Callable, Iterable, Sequence

from spava_app.errors import InvalidInput

Decode = Callable[[Sequence[int]], str]

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are not (yet) a character
# Bytes, hence tokens, that an unfinished UTF-8 character can have at most.
UNFINISHED = 3
# Tokens without a finished character that are taken for garbage, and how many of them are kept.
GARBAGE, KEPT = 48, 8


def check_stops(stop_strings: object) -> tuple[str, ...]:
    """All of `stop_strings`, which may be an iterator: it can be gone through only once.

    Raises:
        InvalidInput: it is no list, or one of them is empty or not text.
    """
    if isinstance(stop_strings, str) or not isinstance(stop_strings, Iterable):
        raise InvalidInput("stop_strings", stop_strings, "give a list of strings")
    stops = tuple(stop_strings)
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            raise InvalidInput("stop_strings", stop, "must be strings, none of them empty")
    return stops


class TextStream:
    """The text of an answer while its tokens arrive.

    All pieces joined are `decode(all tokens)`, cut before the stop string whose last character
    comes first (of several that end there, before the longest). A token costs two decodings of a
    window of a few tokens, not of the whole answer. The window begins with the tokens of the piece
    shown last, because the first token's leading space is dropped by SentencePiece decoders; that
    is also how streaming detokenizers of serving engines work.

    One case cannot be exact: a SentencePiece decoder with byte fallback turns a whole run of byte
    tokens into replacement characters if any of the run is invalid UTF-8, also what has been shown
    of it. That stays, and what follows may lack or repeat a replacement character.

    Args:
        decode: token ids to text, without clean-up of spaces (which changes text already shown).
        stop_strings: any of these ends the text.

    Attributes:
        stopped: whether a stop string was met; what is pushed later is ignored.

    Raises:
        InvalidInput: as `check_stops`.
    """

    def __init__(self, decode: Decode, stop_strings: Iterable[str] = ()) -> None:
        self.stopped = False
        self._decode, self._stops = decode, check_stops(stop_strings)
        self._pieces: list[str] = []
        self._window: list[int] = []
        self._settled = 0  # tokens of the window that ended in a finished character
        self._shown = 0  # characters of the window's text that were passed on
        self._held = ""  # the end of the text passed on that may become a stop string

    @property
    def text(self) -> str:
        """All that `push` and `finish` have returned so far."""
        return "".join(self._pieces)

    def push(self, token: int) -> str:
        """The text that can be shown now that `token` has come; often empty."""
        if self.stopped:
            return ""
        self._window.append(token)
        text = self._decode(self._window)
        pending = len(self._window) - self._settled
        if text.endswith(REPLACEMENT):
            return self._show(self._unfinished(text, pending))
        new = text[self._shown :]
        if new:
            del self._window[: self._settled]
            self._settled = len(self._window)
            self._shown = len(self._decode(self._window))
        elif text and pending == 1:
            self._window.pop()  # a token without text, such as a skipped special one
        return self._show(new)

    def finish(self) -> str:
        """The rest of the text, once the last token has been pushed."""
        if self.stopped:
            return ""
        new = self._decode(self._window)[self._shown :]
        self._window, self._settled, self._shown = [], 0, 0
        shown = self._show(new)
        held, self._held = self._held, ""
        self._pieces.append(held)
        return shown + held

    def _unfinished(self, text: str, pending: int) -> str:
        """New characters of a window whose text ends in replacements."""
        # Bytes to come change the replacements at the very end and nothing before them. How many
        # depends on the decoder: one, or one for each byte token since the last other token.
        end = len(text.rstrip(REPLACEMENT))
        if pending > GARBAGE:
            end = max(end, len(text) - UNFINISHED)
        new = text[self._shown : end]
        self._shown += len(new)
        if pending > GARBAGE:
            self._cut(text)
        return new

    def _cut(self, text: str) -> None:
        """Shorten a window of garbage where that leaves its `text` as it is."""
        left, right = self._decode(self._window[:-KEPT]), self._decode(self._window[-KEPT:])
        if left + right == text and len(left) <= self._shown:
            del self._window[:-KEPT]
            self._settled = 0
            self._shown -= len(left)

    def _show(self, new: str) -> str:
        """Pass `new` on, less what is or may become a stop string."""
        text = self._held + new
        ends = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if ends:
            self.stopped = True
            shown, self._held = text[: min(ends)[1]], ""
        else:
            length = max((_overlap(text, stop) for stop in self._stops), default=0)
            shown, self._held = text[: len(text) - length], text[len(text) - length :]
        self._pieces.append(shown)
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
