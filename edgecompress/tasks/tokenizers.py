"""Turn texts into numbers: frozen tokenizers that are data, and nothing but data.

A tokenizer is a few numbers and, for word pieces, a list of texts. It is learned from training
texts or given, written as JSON, and gives the same ids in every process. This file needs the
standard library and numpy alone: a bundle carries it as it stands, so that an app's server or a
notebook runs a text classifier from a string with the very code that prepared its training.

Both kinds first normalise (Unicode NFKC, lower case) and cut a text into words: runs of letters
and digits, and every other sign that is no space by itself.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

VERSION = 1
PAD, UNKNOWN, INSIDE = "[PAD]", "[UNK]", "##"
_MOST_IDS = 2**31 - 1
_MOST_LENGTH = 1 << 16
LONGEST_WORD = 100  # a longer one is unknown: no text of people has it, and it costs its square
_WORD = re.compile(r"\w+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Return the words of a text, normalised.

    >>> words_of("Where's my Ｃard?!")
    ['where', "'", 's', 'my', 'card', '?', '!']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class HashedWords:
    """Number words, word n-grams and character n-grams by their hash: no vocabulary to learn.

    A text becomes at most `length` ids in 1..buckets-1, padded with 0: its words, then its n-grams
    of 2 to `words` words, then, of each word between `<` and `>`, its n-grams of
    `characters[0]` to `characters[1]` characters; (0, 0) is none. What is too long is cut at the
    end. The hash is CRC-32 (ISO 3309) of the UTF-8 text, `#` before n-grams of characters.
    """

    length: int
    buckets: int = _MOST_IDS
    words: int = 2
    characters: tuple[int, int] = (0, 0)
    name: str = "tokens"

    def __post_init__(self) -> None:
        _check_common(self.length, self.name)
        _check_number("buckets", self.buckets, 2, _MOST_IDS)
        _check_number("words", self.words, 1, 8)
        low, high = self.characters
        if (low, high) != (0, 0):
            _check_number("characters[1]", high, 1, 16)
            _check_number("characters[0]", low, 1, high)

    def encode(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Return `{name: ids}`, int64 (texts, length)."""
        return {self.name: _padded(map(self._ids, texts), len(texts), self.length)}

    def _ids(self, text: str) -> list[int]:
        words = words_of(text)[: self.length]
        grams = list(words)
        for size in range(2, self.words + 1):
            grams += map(" ".join, zip(*(words[start:] for start in range(size)), strict=False))
        modulus = self.buckets - 1
        ids = [_hashed(gram, modulus) for gram in grams]
        low, high = self.characters
        if high:
            for word in words:
                ids += _character_ids(word, low, high, modulus)
        return ids

    def to_json(self) -> str:
        """Return the tokenizer as JSON text."""
        return _written("hashed-words", self)


def _hashed(gram: str, modulus: int) -> int:
    # What is no text at all (half of a surrogate pair) counts as a question mark.
    return 1 + crc32(gram.encode("utf-8", "replace")) % modulus


@lru_cache(maxsize=1 << 14)
def _character_ids(word: str, low: int, high: int, modulus: int) -> tuple[int, ...]:
    """Return the ids of a word's character n-grams; kept, for the same words come all the time."""
    whole = f"<{word[:LONGEST_WORD]}>"
    return tuple(
        _hashed(f"#{whole[start : start + size]}", modulus)
        for size in range(low, high + 1)
        for start in range(len(whole) - size + 1)
    )


@dataclass(frozen=True)
class WordPieces:
    """Number the pieces of words by their place in a vocabulary: longest match first.

    `pieces[id]` is a piece; one that continues a word begins with `##`. A word that cannot be put
    together is `[UNK]`. A text becomes at most `length` ids, padded with the id of `[PAD]`, which
    must be 0. With `frame`, e.g. ("[CLS]", "[SEP]"), each text stands between these two pieces.
    """

    length: int
    pieces: tuple[str, ...]
    frame: tuple[str, ...] = ()
    name: str = "tokens"

    def __post_init__(self) -> None:
        _check_common(self.length, self.name)
        _check_number("pieces", len(self.pieces), 2, _MOST_IDS)
        if self.pieces[0] != PAD:
            raise ValueError(f"tokenizer: the first piece is {self.pieces[0]!r}; expected {PAD!r}")
        if len(self._places) != len(self.pieces):
            twice = next(piece for piece, count in Counter(self.pieces).items() if count > 1)
            raise ValueError(f"tokenizer: the piece {twice!r} stands twice; expected each once")
        for piece in (UNKNOWN, *self.frame):
            if piece not in self._places:
                raise ValueError(f"tokenizer: {piece!r} is no piece of the vocabulary")
        if len(self.frame) not in (0, 2) or self.length <= len(self.frame):
            raise ValueError(
                f"tokenizer: frame is {self.frame} with length {self.length}; expected two pieces "
                "or none, and room between them"
            )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {piece: place for place, piece in enumerate(self.pieces)}

    @cached_property
    def _known(self) -> dict[str, tuple[int, ...]]:
        """Keep the ids of the words that were met, for the same words come all the time."""
        return {}

    def encode(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Return `{name: ids}`, int64 (texts, length)."""
        return {self.name: _padded(map(self._ids, texts), len(texts), self.length)}

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        room = self.length - len(self.frame)
        for word in words_of(text):
            ids += self._word_ids(word)
            if len(ids) >= room:
                break
        if not self.frame:
            return ids
        first, last = (self._places[piece] for piece in self.frame)
        return [first, *ids[:room], last]

    def _word_ids(self, word: str) -> tuple[int, ...]:
        ids = self._known.get(word)
        if ids is None:
            ids = self._split(word)
            if len(self._known) < 1 << 14:
                self._known[word] = ids
        return ids

    def _split(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        start = 0
        while start < len(word) <= LONGEST_WORD:
            ends = range(len(word), start, -1)
            mark = INSIDE if start else ""
            end = next((e for e in ends if mark + word[start:e] in self._places), None)
            if end is None:
                break
            ids.append(self._places[mark + word[start:end]])
            start = end
        return tuple(ids) if start == len(word) else (self._places[UNKNOWN],)

    def to_json(self) -> str:
        """Return the tokenizer as JSON text."""
        return _written("word-pieces", self)


Tokenizer = HashedWords | WordPieces


def from_json(text: str) -> Tokenizer:
    """Return the tokenizer that `to_json` wrote; raise ValueError, one line, for anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer: is no JSON ({type(error).__name__})") from None
    if not isinstance(document, dict) or document.pop("version", None) != VERSION:
        raise ValueError(f"tokenizer: expected a JSON object with version {VERSION}")
    kind = str(document.pop("kind", None))
    kinds = {"hashed-words": HashedWords, "word-pieces": WordPieces}
    if kind not in kinds:
        raise ValueError(f"tokenizer: kind is {kind!r}; expected {' or '.join(kinds)}")
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in document.items()}
    _check_types(kind, given)
    try:
        made: Tokenizer = kinds[kind](**given)
    except TypeError as error:
        raise ValueError(f"tokenizer: {error}") from None
    return made


def _check_types(kind: str, given: dict[str, Any]) -> None:
    """Raise ValueError where a field holds another kind of thing than this file would write."""
    lists: dict[str, type] = {"pieces": str, "frame": str, "characters": int}
    for key, value in given.items():
        if key in lists:
            right = isinstance(value, tuple) and all(type(each) is lists[key] for each in value)
        else:
            right = type(value) is (str if key == "name" else int)
        if not right or (key == "characters" and len(value) != 2):
            raise ValueError(f"tokenizer: {key} of {kind} is {str(value)[:40]!r}")


def _written(kind: str, tokenizer: Tokenizer) -> str:
    document = {"version": VERSION, "kind": kind, **asdict(tokenizer)}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _padded(rows: Iterable[Sequence[int]], count: int, length: int) -> NDArray[np.int64]:
    ids = np.zeros((count, length), dtype=np.int64)
    for place, row in enumerate(rows):
        kept = row[:length]
        ids[place, : len(kept)] = kept
    return ids


def _check_common(length: int, name: str) -> None:
    _check_number("length", length, 1, _MOST_LENGTH)
    if not name:
        raise ValueError("tokenizer: name is empty; expected the name of the model's input")


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"tokenizer: {name} is {value}; expected {low} to {high}")
