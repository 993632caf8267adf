"""Tokenizers: the same ids everywhere, written as plain data, hostile data refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.errors import DataError
from edgecompress.tasks import tokenizers
from edgecompress.tasks.tokenizers import (
    HashedWords,
    Tokenizer,
    WordPieces,
    from_json,
    words_of,
)
from edgecompress.tasks.vocabulary import read_tokenizer, read_vocabulary, train_word_pieces

TEXTS = ["Where is my card?", "my card, my CARD", "", "Ünïcode ﬁne 你好", "top-up didn't work"]
PIECES = train_word_pieces(TEXTS * 2, 60, 12)
KINDS: list[Tokenizer] = [
    HashedWords(10),
    HashedWords(40, 500, 3, (2, 4), "ids"),
    PIECES,
    WordPieces(8, (*PIECES.pieces, "[CLS]", "[SEP]"), ("[CLS]", "[SEP]")),
]
each_kind = pytest.mark.parametrize("tokenizer", KINDS, ids=lambda t: type(t).__name__)


@each_kind
@given(texts=st.lists(st.text(st.characters(), max_size=60), max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_texts_become_ids_one_row_each(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids = tokenizer.encode(texts)[tokenizer.name]
    assert ids.shape == (len(texts), tokenizer.length)
    assert ids.dtype == np.int64
    most = tokenizer.buckets if isinstance(tokenizer, HashedWords) else len(tokenizer.pieces)
    assert ((ids >= 0) & (ids < most)).all()
    for row, text in zip(ids, texts, strict=True):  # padding stands at the end alone
        real = np.flatnonzero(row)
        assert (real == np.arange(len(real))).all()
        np.testing.assert_array_equal(row, tokenizer.encode([text])[tokenizer.name][0])
    again = from_json(tokenizer.to_json())
    assert again == tokenizer
    np.testing.assert_array_equal(again.encode(texts)[tokenizer.name], ids)


def test_ids_are_the_same_in_every_process_and_on_every_platform() -> None:
    """The numbers stand here, so that another Python, hash seed or machine must agree."""
    assert HashedWords(6, 1000).encode(["My card"])["tokens"].tolist() == [
        [1 + h % 999 for h in (0xB853CE8D, 0x161498D3, 0xADB1C699)] + [0, 0, 0]
    ]
    script = (
        "from edgecompress.tasks.tokenizers import from_json; import sys;"
        "t = from_json(sys.stdin.read());"
        "print(t.encode(['Where is my card? Ünï'])[t.name].tolist())"
    )
    for tokenizer in KINDS:
        answers = [
            subprocess.run(
                [sys.executable, "-X", "utf8", "-c", script],
                input=tokenizer.to_json().encode(),
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        ]
        here = tokenizer.encode(["Where is my card? Ünï"])[tokenizer.name].tolist()
        assert list(map(json.loads, answers)) == [here, here]


def test_the_file_needs_nothing_of_ours() -> None:
    """A bundle carries it as it stands."""
    source = Path(tokenizers.__file__).read_text(encoding="utf-8")
    assert "edgecompress" not in source


def test_hashed_words_stand_in_the_order_of_their_worth() -> None:
    plain = HashedWords(32, words=1).encode(["a bc d"])["tokens"][0]
    pairs = HashedWords(32, words=2).encode(["a bc d"])["tokens"][0]
    whole = HashedWords(32, words=2, characters=(3, 3)).encode(["a bc d"])["tokens"][0]
    assert [np.count_nonzero(ids) for ids in (plain, pairs, whole)] == [3, 5, 9]
    assert (pairs[:3] == plain[:3]).all()
    assert (whole[:5] == pairs[:5]).all()
    grams = [f"#{gram}" for gram in ("<a>", "<bc", "bc>", "<d>")]
    expected = [1 + tokenizers.crc32(g.encode()) % (2**31 - 2) for g in grams]
    assert whole[5:9].tolist() == expected
    assert HashedWords(2).encode(["a bc d"])["tokens"].tolist() == [pairs[:2].tolist()]


def test_a_long_word_costs_no_more_than_its_first_hundred_characters() -> None:
    ids = HashedWords(1000, characters=(3, 3)).encode(["x" * 100_000])["tokens"]
    assert np.count_nonzero(ids) == 1 + 100
    assert PIECES.encode(["x" * 100_000])["tokens"][0].tolist() == [1] + [0] * 11


def test_words_are_normalised() -> None:
    assert words_of("ＡB  ﬁne\tÉ_1!?") == ["ab", "fine", "é_1", "!", "?"]


def test_word_pieces_take_the_longest_match_and_give_up_on_the_unknown() -> None:
    pieces = ("[PAD]", "[UNK]", "un", "##a", "##able", "##ff", "u", "able", "[CLS]", "[SEP]")
    plain, framed = WordPieces(6, pieces), WordPieces(4, pieces, ("[CLS]", "[SEP]"))
    assert plain.encode(["unaffable able", "x able"])["tokens"].tolist() == [
        [2, 3, 5, 4, 7, 0],
        [1, 7, 0, 0, 0, 0],
    ]
    assert framed.encode(["unaffable able", "u", "[PAD]"])["tokens"].tolist() == [
        [8, 2, 3, 9],  # cut, and framed all the same
        [8, 6, 9, 0],
        [8, 1, 1, 9],  # a text cannot write the special pieces
    ]


def test_training_joins_what_stands_together_most_often() -> None:
    made = train_word_pieces(["low low low lower", "newest newest new"], 100, 8)
    assert made.pieces[:2] == ("[PAD]", "[UNK]")
    assert set("lonw") <= set(made.pieces) | {p[2:] for p in made.pieces}
    assert {"low", "newest"} <= set(made.pieces)
    assert "lower" not in made.pieces  # met once
    assert made.encode(["low newest lower"])["tokens"][0, :2].tolist() == [
        made.pieces.index("low"),
        made.pieces.index("newest"),
    ]
    assert train_word_pieces(["newest newest new", "low low low lower"], 100, 8) == made
    assert len(train_word_pieces(["low low low lower"], 9, 8).pieces) == 9


def test_vocabulary_of_bert_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nmy\ncard\n##s\n", encoding="utf-8")
    made = read_vocabulary(path, 6, ("[CLS]", "[SEP]"))
    assert made.encode(["My cards!"])["tokens"].tolist() == [[2, 4, 5, 6, 1, 3]]
    path.write_text("[UNK]\n[PAD]\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"vocab.txt: tokenizer: the first piece is .*; expected one piece a line"
    ):
        read_vocabulary(path, 6)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"vocab.txt: is no text in UTF-8 \(UnicodeDecodeError\)"):
        read_vocabulary(path, 6)
    with pytest.raises(DataError, match=r"data .*none.txt: no such file"):
        read_vocabulary(tmp_path / "none.txt", 6)


@each_kind
def test_a_tokenizer_is_read_from_its_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    assert read_tokenizer(path) == tokenizer
    path.write_text('{"version": 1, "kind": "hashed-words", "length": 0}', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"tokenizer.json: tokenizer: length is 0; .*; write it again with to_json"
    ):
        read_tokenizer(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HashedWords(0), "tokenizer: length is 0; expected 1 to 65536"),
        (lambda: HashedWords(8, 1), "tokenizer: buckets is 1; expected 2 to 2147483647"),
        (lambda: HashedWords(8, words=0), "tokenizer: words is 0; expected 1 to 8"),
        (lambda: HashedWords(8, characters=(3, 2)), r"characters\[0\] is 3; expected 1 to 2"),
        (lambda: HashedWords(8, name=""), "name is empty; expected the name of the model's input"),
        (lambda: WordPieces(8, ("[UNK]", "[PAD]")), r"the first piece is '\[UNK\]'; expected"),
        (lambda: WordPieces(8, ("[PAD]", "a")), r"'\[UNK\]' is no piece of the vocabulary"),
        (lambda: WordPieces(8, ("[PAD]", "[UNK]", "a", "a")), "the piece 'a' stands twice"),
        (lambda: WordPieces(2, PIECES.pieces, ("m", "c")), "with length 2; expected two pieces"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tokenizer: is no JSON"),
        ("[" * 100_000, "tokenizer: is no JSON"),
        ("[]", "expected a JSON object with version 1"),
        ('{"version": 2, "kind": "hashed-words"}', "expected a JSON object with version 1"),
        ('{"version": 1, "kind": "os.system"}', "kind is 'os.system'; expected hashed-words or"),
        ('{"version": 1, "kind": ["hashed-words"]}', "kind is "),
        ('{"version": 1, "kind": "hashed-words"}', "tokenizer: .*'length'"),
        ('{"version": 1, "kind": "hashed-words", "length": true}', "length of hashed-words is"),
        ('{"version": 1, "kind": "hashed-words", "length": "9"}', "length of hashed-words is '9'"),
        ('{"version": 1, "kind": "hashed-words", "length": 9, "run": 1}', "tokenizer: .*'run'"),
        ('{"version": 1, "kind": "hashed-words", "length": 9, "characters": [3]}', "characters of"),
        ('{"version": 1, "kind": "word-pieces", "length": 9, "pieces": "[PAD]"}', "pieces of word"),
        ('{"version": 1, "kind": "word-pieces", "length": 9, "pieces": [1, 2]}', "pieces of word"),
    ],
)
def test_hostile_files_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        from_json(text)
    assert "\n" not in str(refused.value)
