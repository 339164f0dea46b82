import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrun.data.tokenizing import BytePairs, Characters, restore_tokenizer
from dlrun.errors import ConfigError, DataError

TEXT = "the cat sat on the mat; the rat sat on the cat. Größe — naïve 日本語\n" * 4


@pytest.fixture(scope="module")
def pairs():
    return BytePairs.fit([TEXT], 290)


def test_characters_are_numbered_in_order():
    made = Characters.fit("banana", ["nab"])
    assert made.symbols == "abn"
    assert made.encode("nab").tolist() == [2, 0, 1]
    assert made.encode("nab").dtype == torch.int64
    assert made.decode([1, 0, 2]) == "ban"
    assert made.texts() == ("a", "b", "n")


def test_the_vocabulary_is_the_training_parts_alone():
    made = Characters.fit("ab", ["abc", "d"])
    assert made.symbols == "ab"
    assert made.texts() == ("a", "b", "\ufffd")
    assert made.encode("acbd").tolist() == [0, 2, 1, 2]
    assert made.decode([0, 2]) == "a\ufffd"


@pytest.mark.parametrize("strange", ["z", "A", "é", "日", "\U0001f600", "\0"])
def test_a_character_without_a_token_is_named(strange):
    with pytest.raises(DataError, match="is not in the text the network was trained on"):
        Characters.fit("bcd", []).encode(f"bc{strange}")


def test_byte_pairs_are_merged_up_to_the_wanted_number(pairs):
    assert len(pairs.texts()) == 290
    tokens = pairs.encode(TEXT)
    assert len(tokens) < len(TEXT) / 2
    assert int(tokens.max()) < 290
    assert " the" in pairs.texts()


def test_merging_stops_when_no_pair_comes_twice():
    assert 256 < len(BytePairs.fit(["ab ab cd"], 1000).texts()) < 270


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=60, deadline=None)
def test_every_text_comes_back_from_its_byte_pairs(pairs, text):
    tokens = pairs.encode(text).tolist()
    assert pairs.decode(tokens) == text
    texts = pairs.texts()
    assert sum(len(texts[token]) for token in tokens) == len(text)


def test_the_same_text_gives_the_same_tokens(pairs):
    again = BytePairs.fit([TEXT], 290)
    assert json.loads(again.definition) == json.loads(pairs.definition)


@pytest.mark.parametrize("kind", ["characters", "pairs"])
def test_state_restores_the_tokenizer(kind, pairs):
    made = pairs if kind == "pairs" else Characters.fit(TEXT, ["%"])
    again = restore_tokenizer(json.loads(json.dumps(made.state())))
    assert again.texts() == made.texts()
    assert torch.equal(again.encode("the cat"), made.encode("the cat"))
    assert again.decode(made.encode("the cat").tolist()) == "the cat"


def test_fewer_tokens_than_bytes_are_refused():
    with pytest.raises(ConfigError, match=r"data\.vocabulary=255"):
        BytePairs.fit([TEXT], 255)


def test_nothing_is_no_tokens(pairs):
    for made in (pairs, Characters.fit("ab", [])):
        tokens = made.encode("")
        assert tokens.dtype == torch.int64
        assert tokens.shape == (0,)
        assert made.decode([]) == ""
