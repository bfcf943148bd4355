"""A rendered prompt as token ids, of which texts of users yield none that only the template may
write: `<|im_end|>` in a question is text, and ends no turn.

A prompt in whose texts nothing looks like a control token is encoded as one text, as transformers
does it. Otherwise each such place is replaced by a private-use character while the prompt is
rendered and cut at the template's own control tokens; each run between these is then encoded with
the text put back, and with special tokens as ordinary text (`split_special_tokens`).
"""

import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from spava_app.errors import InvalidInput
from spava_app.requests.tokenization.tokenizer import Encoded, Tokenizer

# Stands for a text whose place is looked for; no template or model knows it.
MARK = "\ue000"
# Private-use characters that stand for what looks like a control token.
_FIRST_CHARACTER = 0x100000

# The prompt around texts.
Render = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class EncodedPrompt(Encoded):
    """A prompt.

    Attributes:
        last: index of the first token of the last text.
    """

    last: int

    def tokens_before(self, place: int) -> int:
        """How many tokens begin before a character of the rendered text."""
        return bisect_left(self.begins, place)


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes prompts of one model.

    Attributes:
        placeholders: ids that stand for visual tokens.
        stop_ids: ids that end an answer.
    """

    tokenizer: Tokenizer
    placeholders: frozenset[int] = frozenset()
    stop_ids: frozenset[int] = frozenset()

    def __call__(self, render: Render, texts: Sequence[str]) -> EncodedPrompt:
        """Token ids of `render(texts)`.

        Raises:
            InvalidInput: a text that yields a control token however it is encoded.
        """
        skeleton = self.tokenizer.encode(render([MARK] * len(texts)))
        control = self._control(skeleton)
        expected = _of(skeleton, control)
        used, encoded = texts, self.tokenizer.encode(render(texts))
        if _of(encoded, control) != expected:
            rewriting = _Rewriting(self.tokenizer, control, texts)
            used, encoded = rewriting.encode(render, expected)
        place = render([*used[:-1], MARK]).rfind(MARK)
        last = bisect_left(encoded.begins, place)
        return EncodedPrompt(encoded.ids, encoded.begins, encoded.ends, last)

    def _control(self, skeleton: Encoded) -> frozenset[int]:
        """Ids that only the template may write: what is special, and of the other added tokens
        those that it writes around the texts.
        """
        own = self.tokenizer.added_ids & set(skeleton.ids)
        return self.tokenizer.special_ids | self.placeholders | self.stop_ids | own


class _Rewriting:
    """One prompt whose texts name control tokens.

    Args:
        control: ids that the texts may not yield.
    """

    def __init__(self, tokenizer: Tokenizer, control: frozenset[int], texts: Sequence[str]) -> None:
        self._tokenizer, self._control, self._texts = tokenizer, control, texts
        self._taken = set().union(*texts)
        self._written: dict[str, str] = {}  # what each private-use character stands for

    def encode(self, render: Render, expected: list[int]) -> tuple[list[str], Encoded]:
        """The texts as they were rendered, and the tokens of the prompt, which has the control ids
        `expected` and no others.
        """
        used = [self._replaced(text) for text in self._texts]
        rendered = render(used)
        encoded = self._tokenizer.encode(rendered)
        if _of(encoded, self._control) != expected:
            written = ", ".join(dict.fromkeys(self._written.values()))
            fix = "this model's chat template does not keep it as text: remove it"
            raise InvalidInput("text", written, fix)
        ids: list[int] = []
        begins: list[int] = []
        start, first = 0, 0
        controls = [i for i, token in enumerate(encoded.ids) if token in self._control]
        for stop in (*controls, len(encoded.ids)):
            last = encoded.begins[stop] if stop < len(encoded.ids) else len(rendered)
            run = rendered[first:last]
            if any(character in run for character in self._written):
                for token, begin in self._plain(run):
                    ids.append(token)
                    begins.append(first + begin)
            else:
                ids += encoded.ids[start:stop]
                begins += encoded.begins[start:stop]
            ids += encoded.ids[stop : stop + 1]  # the control token after it
            begins += encoded.begins[stop : stop + 1]
            if stop < len(encoded.ids):
                start, first = stop + 1, encoded.ends[stop]
        return used, Encoded(tuple(ids), tuple(begins), (*begins[1:], len(rendered)))

    def _replaced(self, text: str) -> str:
        """`text` with a character in place of each control token."""
        characters = {written: character for character, written in self._written.items()}
        parts, end = [], 0
        for begin, stop in self._places(text, plain=False):
            written = text[begin:stop]
            if written not in characters:
                characters[written] = self._unused()
                self._written[characters[written]] = written
            parts += [text[end:begin], characters[written]]
            end = stop
        return "".join((*parts, text[end:]))

    def _unused(self) -> str:
        for character in map(chr, range(_FIRST_CHARACTER, sys.maxunicode + 1)):
            if character not in self._taken:
                self._taken.add(character)
                return character
        fix = "has every private-use character and a control token: remove either"
        raise InvalidInput("text", "".join(self._texts), fix)

    def _plain(self, run: str) -> list[tuple[int, int]]:
        """The ids of `run` with what its characters stand for put back, and the place of each."""
        text = "".join(self._written.get(character, character) for character in run)
        places = [
            place
            for place, character in enumerate(run)
            for _ in self._written.get(character, character)
        ]
        tokens, offset = [], 0
        for piece in self._pieces(text):
            encoded = self._tokenizer.encode(piece, plain=True)
            pairs = zip(encoded.ids, encoded.begins, strict=True)
            tokens += [(token, places[offset + begin]) for token, begin in pairs]
            offset += len(piece)
        return tokens

    def _pieces(self, text: str) -> list[str]:
        """`text` in as few pieces as keep each of them, as ordinary text, free of control ids: some
        tokenizers find them in their vocabulary all the same.
        """
        found = self._places(text, plain=True)
        if not found:
            return [text]
        for begin, end in found:
            if end - begin < 2:
                raise InvalidInput("text", text[begin:end], "is a control token: remove it")
        cuts = [0, *(begin + 1 for begin, _ in found), len(text)]
        pieces = (text[begin:end] for begin, end in pairwise(cuts))
        return [part for piece in pieces for part in self._pieces(piece)]

    def _places(self, text: str, *, plain: bool) -> list[tuple[int, int]]:
        """Where control tokens stand in a text."""
        encoded = self._tokenizer.encode(text, plain=plain)
        places = zip(encoded.ids, encoded.begins, encoded.ends, strict=True)
        return [(begin, end) for token, begin, end in places if token in self._control]


def _of(encoded: Encoded, control: frozenset[int]) -> list[int]:
    return [token for token in encoded.ids if token in control]
