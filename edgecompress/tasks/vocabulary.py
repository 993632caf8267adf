"""Learn the word pieces of training texts, or read those that a published model comes with."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from edgecompress.errors import DataError
from edgecompress.tasks.tokenizers import (
    INSIDE,
    LONGEST_WORD,
    PAD,
    UNKNOWN,
    Tokenizer,
    WordPieces,
    from_json,
    words_of,
)

_Pair = tuple[str, str]


def train_word_pieces(
    texts: Iterable[str], pieces: int, length: int, name: str = "tokens"
) -> WordPieces:
    """Return word pieces learned from training texts: byte-pair encoding over characters.

    Begins with the single characters and joins, again and again, the two neighbours that stand
    side by side most often (Sennrich, Haddow and Birch 2016, arXiv:1508.07909), the first in order
    of their text among equals, until there are `pieces` or no two are neighbours twice.
    """
    words = _Words(Counter(word for text in texts for word in words_of(text)))
    known = dict.fromkeys((PAD, UNKNOWN, *words.alphabet()))
    while len(known) < pieces and (pair := words.commonest()):
        known[_joined(pair)] = None
        words.join_(pair)
    return WordPieces(length, tuple(known), name=name)


class _Words:
    """Hold words in pieces, with how often which two pieces are neighbours."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = Counter({w: n for w, n in counts.items() if len(w) <= LONGEST_WORD})
        self._parts = {w: [w[0], *(INSIDE + letter for letter in w[1:])] for w in self._counts}
        self._pairs: Counter[_Pair] = Counter()
        self._where: defaultdict[_Pair, set[str]] = defaultdict(set)
        for word in self._counts:
            self._count(word, 1)
        self._queue = [(-count, pair) for pair, count in self._pairs.items()]
        heapq.heapify(self._queue)

    def alphabet(self) -> list[str]:
        """Return the pieces that there are, in order."""
        return sorted({part for parts in self._parts.values() for part in parts})

    def commonest(self) -> _Pair | None:
        """Return the two pieces that are neighbours most often; None when none are twice."""
        while self._queue:
            count, pair = heapq.heappop(self._queue)
            if -count == self._pairs[pair]:  # else it was counted anew, and is in there again
                return pair if -count > 1 else None
        return None

    def join_(self, pair: _Pair) -> None:
        """Make one piece of two wherever they are neighbours."""
        changed: set[_Pair] = set()
        for word in self._where.pop(pair):
            changed |= self._count(word, -1)
            self._parts[word] = _merged(self._parts[word], pair)
            changed |= self._count(word, 1)
        for neighbours in changed:
            heapq.heappush(self._queue, (-self._pairs[neighbours], neighbours))

    def _count(self, word: str, sign: int) -> set[_Pair]:
        """Count a word's neighbours in or out; return which they are."""
        for neighbours in pairwise(self._parts[word]):
            self._pairs[neighbours] += sign * self._counts[word]
            self._where[neighbours].add(word)
        return set(pairwise(self._parts[word]))


def _joined(pair: _Pair) -> str:
    return pair[0] + pair[1].removeprefix(INSIDE)


def _merged(parts: list[str], pair: _Pair) -> list[str]:
    """Return the pieces of a word with every occurrence of `pair` joined, from the left.

    >>> _merged(["a", "##b", "##a", "##b"], ("##a", "##b"))
    ['a', '##b', '##ab']
    """
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] = _joined(pair)
        else:
            merged.append(part)
    return merged


def read_vocabulary(
    path: Path | str, length: int, frame: tuple[str, ...] = (), name: str = "tokens"
) -> WordPieces:
    """Return the word pieces of a `vocab.txt`, one piece a line, as BERT's models come with."""
    pieces = tuple(line.rstrip("\r") for line in _read(path).split("\n"))
    try:
        return WordPieces(length, pieces[:-1] if not pieces[-1] else pieces, frame, name)
    except ValueError as error:
        raise DataError(f"data {path}: {error}; expected one piece a line") from error


def read_tokenizer(path: Path | str) -> Tokenizer:
    """Return the tokenizer of a file that holds what `to_json` wrote, as every bundle's does."""
    try:
        return from_json(_read(path))
    except ValueError as error:
        raise DataError(f"data {path}: {error}; write it again with to_json") from error


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"data {path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"data {path}: is no text in UTF-8 ({type(error).__name__})") from error
