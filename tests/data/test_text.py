import hashlib
import json

import pytest
import torch

from dlrun.data import restore_preprocess
from dlrun.data.text import Text
from dlrun.errors import ConfigError, DataError

POEM = "Roses are red,\nviolets are blue,\nsugar is sweet\nand so are you.\n" * 20


@pytest.fixture
def poem(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text(POEM)
    return path


def test_parts_lie_one_after_the_other(poem):
    splits = Text(path=str(poem), context=8, val=0.1, test=0.2).load()
    parts = [splits.preprocess.decode(part.values) for part in (splits.train, splits.val, splits.test)]
    assert "".join(parts) == POEM
    assert [len(part) / len(POEM) for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_windows_are_texts_and_what_comes_next(poem):
    splits = Text(path=str(poem), context=16).load()
    facts = splits.facts
    assert (facts.kind, facts.task, facts.input_shape, facts.target_shape) == (
        "text",
        "language_modelling",
        (16,),
        (16,),
    )
    assert facts.vocabulary == len(set(POEM))
    assert "".join(facts.features) == "".join(sorted(set(POEM)))
    assert facts.sizes == {"train": len(splits.train), "val": len(splits.val), "test": 0}
    inputs, targets = splits.val.gather(torch.tensor([0, 1]))
    held_out = POEM[int(len(POEM) * 0.9) :]
    assert splits.preprocess.decode(inputs[0]) == held_out[:16]
    assert splits.preprocess.decode(inputs[1]) == held_out[16:32]
    assert splits.preprocess.decode(targets[1]) == held_out[17:33]


@pytest.mark.parametrize("length", [19, 20, 35, 36, 37, 100])
def test_every_shift_of_the_training_windows_stays_inside(tmp_path, length):
    (tmp_path / "a.txt").write_text("abcdefg" * 100)
    whole = Text(path=str(tmp_path / "a.txt"), context=17, val=0).load().train
    (tmp_path / "b.txt").write_text(("abcdefg" * 100)[:length])
    train = Text(path=str(tmp_path / "b.txt"), context=17, val=0).load().train
    assert len(train) >= 1
    inputs, targets = train.gather(torch.arange(len(train)), train.slack)
    assert inputs.shape == targets.shape == (len(train), 17)
    assert whole.slack == 16


def test_evaluation_uses_all_whole_windows(poem):
    val = Text(path=str(poem), context=10, val=0.5).load().val
    assert val.slack == 0
    assert len(val) == (len(val.values) - 1) // 10


def test_the_vocabulary_is_learnt_from_the_training_part_alone(tmp_path):
    path = tmp_path / "late.txt"
    path.write_text("ab" * 450 + "ax" * 50)
    facts = Text(path=str(path), context=4).facts()
    assert facts.features == ("a", "b", "\ufffd")
    assert any("50 characters of the validation part" in note for note in facts.notes)
    pairs = Text(path=str(path), context=4, tokens="bpe", vocabulary=260).load()
    assert not any("x" in token for token in pairs.facts.features if len(token) > 1)


def test_byte_pairs_are_stored_as_text_and_come_back(poem):
    splits = Text(path=str(poem), tokens="bpe", vocabulary=280, context=8).load()
    assert splits.facts.vocabulary == 280
    again = restore_preprocess(json.loads(json.dumps(splits.preprocess.state())))
    assert torch.equal(again.encode("violets are"), splits.preprocess.encode("violets are"))
    assert again.decode(again.encode("größer")) == "größer"
    assert any("byte-pair tokens of" in note for note in splits.facts.notes)


def test_a_prompt_file_is_read_without_its_last_line_end(poem, tmp_path):
    preprocess = Text(path=str(poem), context=8).load().preprocess
    (tmp_path / "prompt.txt").write_text("Roses\nare\n")
    tokens, names = preprocess.read(tmp_path / "prompt.txt")
    assert tokens.shape == (1, 9)
    assert preprocess.decode(tokens[0]) == "Roses\nare"
    assert names == ["prompt.txt"]
    assert preprocess(tokens) is tokens
    (tmp_path / "prompt.txt").write_text("Tulips")
    with pytest.raises(DataError, match="'T' is not in the text"):
        preprocess.read(tmp_path / "prompt.txt")


def test_the_default_is_the_text_every_python_carries():
    splits = Text().load()
    assert splits.facts.sizes["train"] > 3000
    assert 60 < splits.facts.vocabulary < 200
    assert "pydoc_data" in splits.facts.notes[0]


def test_a_folder_of_texts_is_joined_by_name(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, text in (("b.txt", "second"), ("a.txt", "first"), ("deep/c.txt", "thïrd"), ("d.md", "no")):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    splits = Text(path=str(tmp_path), context=2, val=0).load()
    assert splits.preprocess.decode(splits.train.values) == "first\n\nsecond\n\nthïrd"
    assert any("3 .txt files" in note for note in splits.facts.notes)
    assert any("c.txt is not UTF-8" in note for note in splits.facts.notes)


def test_the_fingerprint_is_that_of_the_bytes(poem):
    assert Text(path=str(poem)).load().fingerprint == hashlib.sha256(POEM.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "character"}, "did you mean 'characters'"),
        ({"context": 0}, "data.context=0"),
        ({"val": 1.0}, "data.val=1.0"),
        ({"val": 0.6, "test": 0.6}, "leave nothing to train on"),
        ({"tokens": "bpe", "vocabulary": 10}, "data.vocabulary=10"),
    ],
)
def test_impossible_keys_are_refused(poem, changes, message):
    with pytest.raises(ConfigError, match=message):
        Text(path=str(poem), **changes).facts()


@pytest.mark.parametrize("context", [200, 5000])
def test_a_part_shorter_than_a_window_is_refused(poem, context):
    part = "validation" if context == 200 else "training"
    with pytest.raises(
        DataError, match=rf"its {part} part has .* tokens, but data\.context={context} needs {context + 1}"
    ):
        Text(path=str(poem), context=context).facts()


def test_a_text_of_one_character_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no \.txt files"):
        Text(path=str(tmp_path)).facts()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="has 1 characters"):
        Text(path=str(tmp_path / "a.txt")).facts()


def test_tinyshakespeare_is_cut_as_usual(shared_data):
    splits = Text(path=str(shared_data / "tinyshakespeare" / "input.txt")).load()
    assert (len(splits.train.values), len(splits.val.values)) == (1_003_854, 111_540)
    assert splits.facts.vocabulary == 65
