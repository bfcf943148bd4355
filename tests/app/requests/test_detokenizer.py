"""Streaming text: the pieces joined are the whole text, for any tokens and any stop strings."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.errors import InvalidInput
from spava_app.requests.tokenization.detokenizer import TextStream

BYTE_LEVEL = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
LETTERS = "▁ab,xyé"
PIECES = ["<unk>", "▁▁▁", "▁a", "▁ab", "ab", "xy", "▁x", *LETTERS]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece(byte_fallback: bool) -> Tokenizer:
    """A tiny Unigram model: with byte fallback as Llama 2's and Yi's, or of pieces only."""
    pieces = [*PIECES, *BYTES] if byte_fallback else PIECES
    scored = [(piece, -1.0 - 0.1 * i) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    if byte_fallback:
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    return tokenizer


UNIGRAM, BYTE_FALLBACK = sentencepiece(False), sentencepiece(True)
# Emoji joined by zero-width joiners, combining marks, flags, a replacement character of its own.
FRAGMENTS = [
    "👩‍👩‍👧",
    "e\u0301",
    "n\u0303\u0323",
    "🇨🇭",
    "\ufffd",
    "漢字",
    " ",
    "  ",
    "ab",
    "abab",
    "\n",
]
TEXTS = st.one_of(
    st.text(max_size=15), st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
)


def stream(
    tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = ()
) -> tuple[TextStream, list[str]]:
    text_stream = TextStream(tokenizer.decode, stops)
    pieces = [text_stream.push(token) for token in ids]
    pieces.append(text_stream.finish())
    assert text_stream.text == "".join(pieces)
    return text_stream, pieces


def byte_tokens(data: bytes, cuts: Sequence[int]) -> list[int]:
    """Byte-level tokens of `data` cut at `cuts`, in the middle of characters too."""
    alphabet = byte_alphabet()
    vocabulary = BYTE_LEVEL.get_vocab()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    ids = []
    for start, end in pairwise(edges):
        symbols = "".join(alphabet[byte] for byte in data[start:end])
        while symbols:
            length = next(n for n in range(len(symbols), 0, -1) if symbols[:n] in vocabulary)
            ids.append(vocabulary[symbols[:length]])
            symbols = symbols[length:]
    return ids


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2)."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def cut_at_first(text: str, stops: Sequence[str]) -> str:
    """The text before the stop string whose last character comes first."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@settings(deadline=None, max_examples=200)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=60))
def test_pieces_of_byte_level_tokens_join_to_the_text(text: str, cuts: list[int]) -> None:
    for ids in (BYTE_LEVEL.encode(text).ids, byte_tokens(text.encode(), cuts)):
        expected = BYTE_LEVEL.decode(ids)
        assert "".join(stream(BYTE_LEVEL, ids)[1]) == expected


@settings(deadline=None, max_examples=200)
@given(ids=st.lists(st.one_of(st.integers(0, 255), st.integers(0, 1023)), max_size=60))
def test_any_byte_level_tokens_valid_or_not(ids: list[int]) -> None:
    assert "".join(stream(BYTE_LEVEL, ids)[1]) == BYTE_LEVEL.decode(ids)


@pytest.mark.parametrize("tokenizer", [UNIGRAM, BYTE_FALLBACK], ids=["metaspace", "byte_fallback"])
@settings(deadline=None, max_examples=200)
@given(text=st.one_of(TEXTS, st.text("ab xy,é😂", max_size=30)))
def test_pieces_of_sentencepiece_tokens_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert "".join(stream(tokenizer, ids)[1]) == tokenizer.decode(ids)


@settings(deadline=None, max_examples=200)
@given(ids=st.lists(st.integers(0, len(PIECES) - 1), max_size=30))
def test_any_sentencepiece_pieces(ids: list[int]) -> None:
    for tokenizer in (UNIGRAM, BYTE_FALLBACK):
        assert "".join(stream(tokenizer, ids)[1]) == tokenizer.decode(ids)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text("abé😂 ", max_size=30),
    cuts=st.lists(st.integers(0, 200), max_size=40),
    stops=st.lists(st.text("abé😂 ", min_size=1, max_size=5), max_size=4),
)
def test_a_stop_string_cuts_the_text(text: str, cuts: list[int], stops: list[str]) -> None:
    expected = cut_at_first(text, stops)
    ids = byte_tokens(text.encode(), cuts)
    ended, pieces = stream(BYTE_LEVEL, ids, stops)
    assert "".join(pieces) == expected
    assert ended.stopped == any(stop in text for stop in stops)
    # Nothing is held that cannot become a stop string, and nothing is shown that can.
    partial = TextStream(BYTE_LEVEL.decode, stops)
    shown = ""
    for place, token in enumerate(ids):
        shown += partial.push(token)
        so_far = BYTE_LEVEL.decode(ids[: place + 1])
        if not partial.stopped and not so_far.endswith("\ufffd"):
            held = so_far[len(shown) :]
            assert held == "" or any(stop.startswith(held) for stop in stops)
            ends = (so_far[start:] for start in range(len(so_far)))
            longest = next((e for e in ends if any(s.startswith(e) for s in stops)), "")
            assert held == longest


def test_a_character_is_shown_whole_as_soon_as_its_last_byte_is_there() -> None:
    ids = byte_tokens("a😂é".encode(), range(20))
    assert stream(BYTE_LEVEL, ids)[1] == ["a", "", "", "", "😂", "", "é", ""]


def test_tokens_that_all_end_within_a_character_are_shown_as_they_come() -> None:
    """Otherwise an answer in such tokens would appear only at its end."""
    data = ("漢" * 120).encode()
    tokens = [data[max(0, start) : start + 3] for start in range(-1, len(data), 3)]
    text_stream = TextStream(lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace"))
    for i in range(100):
        text_stream.push(i)
        assert text_stream.text == "漢" * i
    for i in range(100, len(tokens)):
        text_stream.push(i)
    assert text_stream.text == "漢" * 120
    assert text_stream.finish() == ""


@pytest.mark.parametrize("tokens", [["x", "a", "b", "c", "d"], ["xabcd"], ["xab", "cd"]])
@pytest.mark.parametrize(
    ("stops", "text"),
    [(["abcd", "bc"], "xa"), (["abc", "c", "bc"], "x"), (["d", "abce"], "xabc"), (["x"], "")],
)
def test_which_stop_string_counts_does_not_depend_on_the_tokens(
    tokens: list[str], stops: list[str], text: str
) -> None:
    text_stream = TextStream(lambda ids: "".join(tokens[i] for i in ids), stops)
    for i in range(len(tokens)):
        text_stream.push(i)
    assert (text_stream.text, text_stream.stopped) == (text, True)


def test_a_trailing_half_character_is_shown_at_the_end() -> None:
    ids = byte_tokens("ab😂".encode()[:-1], range(20))
    assert stream(BYTE_LEVEL, ids)[1][-1] == "\ufffd"


@pytest.mark.parametrize("garbage", range(45, 62))
def test_a_character_behind_garbage_is_whole(garbage: int) -> None:
    ids = byte_tokens(b"\xff" * garbage + "😂é".encode(), range(100))
    assert "".join(stream(BYTE_LEVEL, ids)[1]) == "\ufffd" * garbage + "😂é"


def test_the_beginning_of_a_stop_string_is_shown_at_the_end() -> None:
    ids = byte_tokens(b"one STO", range(20))
    ended, pieces = stream(BYTE_LEVEL, ids, ["STOP"])
    assert not ended.stopped
    assert pieces[-1] == "STO"
    assert ended.finish() == ""


def test_tokens_after_a_stop_string_are_ignored() -> None:
    text_stream = TextStream(BYTE_LEVEL.decode, ["b"])
    for token in byte_tokens(b"aba", range(20)):
        text_stream.push(token)
    assert (text_stream.text, text_stream.stopped, text_stream.finish()) == ("a", True, "")


SPECIAL = BYTE_LEVEL.token_to_id("<|video_pad|>")


@pytest.mark.parametrize(
    "ids",
    [
        BYTE_LEVEL.encode("What colour is the card? " * 60).ids,
        byte_tokens(("漢字😂é" * 60).encode(), range(2000)),
        byte_tokens(b"\xff" * 600, range(600)),
        byte_tokens(b"\xe2" * 600, range(600)),
        byte_tokens(b"a\xe2\x82" * 200, range(600)),
        [BYTE_LEVEL.encode("a").ids[0], *[SPECIAL] * 600],
    ],
    ids=["words", "bytes", "invalid", "unfinished", "mixed", "special"],
)
def test_the_cost_per_token_does_not_grow(ids: list[int]) -> None:
    decoded = 0

    def counting(window: Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(window)
        return BYTE_LEVEL.decode(window)

    text_stream = TextStream(counting)
    for token in ids:
        text_stream.push(token)
    text_stream.finish()
    assert text_stream.text == BYTE_LEVEL.decode(ids)
    assert decoded < 70 * len(ids)


def test_a_space_after_a_skipped_token_is_kept() -> None:
    """As with SentencePiece, whose first token of any decoding loses its leading space."""
    words = {1: " a", 2: "", 3: " b"}

    def decode(ids: Sequence[int]) -> str:
        return "".join(words[i] for i in ids).removeprefix(" ")

    text_stream = TextStream(decode)
    assert [text_stream.push(token) for token in (2, 1, 2, 2, 3, 1)] == [
        "",
        "a",
        "",
        "",
        " b",
        " a",
    ]


@pytest.mark.parametrize("stops", ["end", [""], ["a", 3], [None], None, 5, iter([""]), b"end"])
def test_stop_strings_must_be_strings(stops: Any) -> None:
    decode: Callable[[Sequence[int]], str] = BYTE_LEVEL.decode
    with pytest.raises(InvalidInput, match=r"^stop_strings="):
        TextStream(decode, stops)


def test_stop_strings_of_an_iterator_stop() -> None:
    stream = TextStream(BYTE_LEVEL.decode, iter(["cd"]))
    assert "".join(map(stream.push, BYTE_LEVEL.encode("abcdef").ids)) == "ab"
    assert stream.stopped
