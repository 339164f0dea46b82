import json
from pathlib import Path

import pytest
import torch

from dlrun.data import restore_preprocess
from dlrun.data.text_classification import TextClassification
from dlrun.data.text_coders import Entries, Pairs, fit_coder, restore_coder
from dlrun.data.tokenizing import BytePairs
from dlrun.errors import ConfigError, DataError

WORDS = ["one", "two", "three", "four", "five"]


def reviews(folder, count=40, name="reviews.txt"):
    lines = [f"{i % 2} film {i} is {WORDS[i % 5]} {['bad', 'good'][i % 2]} indeed" for i in range(count)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def test_words_keep_apostrophes_and_signs_stand_alone():
    coder = Entries.fit("words", ["Don't it's 's n't, (café) co-op 3.5!"], 100, lower=True)
    assert set(coder.state()["entries"]) == {
        "don't", "it's", "'s", "n't", ",", "(", "café", ")", "co", "-", "op", "3", ".", "5", "!",
    }  # fmt: skip


def test_the_most_frequent_are_kept_and_the_rest_is_unknown():
    coder = Entries.fit("words", ["b b b a a c d", "a"], 2, lower=True)
    assert coder.state()["entries"] == ["a", "b"]  # three of each: by alphabet
    assert coder.encode("B x a d") == [3, 1, 2, 1]
    assert coder.size == 4


def test_capitals_are_kept_on_request():
    coder = Entries.fit("characters", ["Abba"], 10, lower=False)
    assert coder.encode("aAb") == [4, 3, 2]  # b comes twice, and A is before a


@pytest.mark.parametrize("tokens", ["words", "characters", "bpe"])
def test_state_restores_the_coder(tokens):
    coder = fit_coder(tokens, ["the cat sat", "on the mat"], 300, lower=True)
    again = restore_coder(json.loads(json.dumps(coder.state())))
    assert again.encode("The dog, the cat") == coder.encode("The dog, the cat")
    assert (again.size, again.kind) == (coder.size, coder.kind)


def test_byte_pairs_begin_after_the_reserved_tokens():
    pairs = BytePairs.fit(["abc abc"], 260)
    coder = Pairs(pairs, lower=True)
    assert coder.encode("ABÜ") == [token + 2 for token in pairs.encode("abü").tolist()]
    assert coder.size == len(pairs.texts()) + 2


def test_texts_become_rows_filled_up_on_the_right(tmp_path):
    splits = TextClassification(path=reviews(tmp_path)).load()
    facts = splits.facts
    assert facts.classes == ("0", "1")
    assert (facts.kind, facts.task, facts.padding) == ("text", "classification", 0)
    assert facts.input_shape == (6,)
    assert facts.sizes == {"train": 29, "val": 3, "test": 8}
    rows = splits.preprocess.encode(["good film", "unheard of"])
    assert rows.dtype == torch.int64
    assert (rows[0] != 0).tolist() == [True, True, False, False, False, False]
    assert rows[1, :2].tolist() == [1, 1]
    assert int(splits.train.inputs.max()) < facts.vocabulary
    assert splits.preprocess(rows) is rows


def test_the_vocabulary_is_the_training_parts_alone(tmp_path):
    train, test = reviews(tmp_path), tmp_path / "test.txt"
    test.write_text("0 wholly other words\n1 film is good\n0 film is bad\n1 good\n")
    splits = TextClassification(path=train, test_path=str(test), val=0).load()
    assert "wholly" not in splits.preprocess.state()["coder"]["entries"]
    assert (splits.test.inputs == 1).sum() == 3
    assert splits.facts.sizes == {"train": 40, "val": 0, "test": 4}
    assert any(note.startswith("30.0% of the test part's tokens are unknown") for note in splits.facts.notes)


def test_splits_are_stratified_and_seeded(tmp_path):
    path = reviews(tmp_path, 100)
    first, again, other = (TextClassification(path=path, seed=seed).load() for seed in (0, 0, 1))
    assert torch.equal(first.test.inputs, again.test.inputs)
    assert not torch.equal(first.test.inputs, other.test.inputs)
    assert torch.bincount(first.test.targets).tolist() == [10, 10]


def test_long_texts_are_cut_and_counted(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"{i % 2} a word" for i in range(299)) + "\n1 " + 50 * "word ")
    auto = TextClassification(path=str(path), tokens="words", val=0, test=0).load()
    assert auto.facts.input_shape == (2,)
    assert any("1 of 300 training texts are cut" in note for note in auto.facts.notes)
    assert TextClassification(path=str(path), length=60).facts().input_shape == (60,)


def test_names_are_read_letter_by_letter_and_sentences_word_by_word(tmp_path):
    for name, words in (("greek", ["Papadopoulos", "Pappas"]), ("scots", ["Macleod", "Stewart"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(words * 5))
    splits = TextClassification(path=str(tmp_path)).load()
    assert splits.preprocess.coder.kind == "characters"
    assert splits.facts.classes == ("greek", "scots")
    assert TextClassification(path=str(tmp_path), tokens="words").load().preprocess.coder.kind == "words"
    assert TextClassification(path=reviews(tmp_path)).load().preprocess.coder.kind == "words"


def test_texts_in_both_parts_are_counted(tmp_path):
    path = reviews(tmp_path)
    facts = TextClassification(path=path, test_path=path, val=0).facts()
    assert "40 texts of the test part are in the training part too" in facts.notes


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "stars.txt").write_text("\n".join(f"{i % 11} stars are given {i}" for i in range(44)))
    assert TextClassification(path=str(tmp_path / "stars.txt")).facts().classes == tuple(map(str, range(11)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.txt", "a good film\n\nunheard of\n"),
        ("new.txt", "1 a good film\n0 unheard of\n1 a good film\n0 unheard of\n"),
        ("new.csv", "text\na good film\nunheard of\n"),
        ("new.csv", "id,text,stars\n17,a good film,3\n18,unheard of,4\n"),
        ("new.tsv", "17\ta good film\n18\tunheard of\n"),
    ],
)
def test_predict_reads_lines_tables_and_labelled_lines(tmp_path, name, content):
    preprocess = restore_preprocess(TextClassification(path=reviews(tmp_path)).load().preprocess.state())
    (tmp_path / name).write_text(content)
    rows, names = preprocess.read(tmp_path / name)
    assert names[:2] == ["a good film", "unheard of"]
    assert torch.equal(rows[:2], preprocess.encode(["a good film", "unheard of"]))


def test_predict_finds_the_column_it_was_trained_on(tmp_path):
    lines = [f"{['bad', 'good'][i % 2]} number {i},a long remark beside it,{i % 2}" for i in range(20)]
    (tmp_path / "t.csv").write_text("headline,remark,label\n" + "\n".join(lines))
    preprocess = TextClassification(path=str(tmp_path / "t.csv"), text="headline").load().preprocess
    (tmp_path / "new.csv").write_text("remark,headline\na long remark beside it,good news\n")
    assert preprocess.read(tmp_path / "new.csv")[1] == ["good news"]


def test_long_names_are_shortened(tmp_path):
    preprocess = TextClassification(path=reviews(tmp_path)).load().preprocess
    (tmp_path / "new.txt").write_text("word " * 100)
    assert len(preprocess.read(tmp_path / "new.txt")[1][0]) == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "dlrun train data=text_classification"),
        ({"tokens": "word"}, "did you mean 'words'"),
        ({"length": 0}, "data.length=0"),
        ({"length": "long"}, "data.length=long"),
        ({"vocabulary": 0}, "data.vocabulary=0"),
        ({"header": "maybe"}, "data.header=maybe"),
        ({"val": 1.0}, "shares in"),
        ({"tokens": "bpe", "vocabulary": 20}, "data.vocabulary=20"),
    ],
)
def test_impossible_keys_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        TextClassification(**({"path": reviews(tmp_path)} | changes)).facts()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,text\na,x\nb,y\n", "2 labelled texts"),
        ("label,text\n" + "a,x\n" * 9, "one class only, 'a'"),
        ("label,text\n" + "".join(f"{i},{chr(97 + i) * 3}\n" for i in range(9)), "9 different labels"),
    ],
)
def test_labels_that_make_no_classes_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        TextClassification(path=str(tmp_path / "t.csv")).facts()


def test_a_strange_label_in_another_part_is_refused(tmp_path):
    path = reviews(tmp_path)
    (tmp_path / "test.txt").write_text("0 a\n1 b\n0 c\n2 d\n1 e\n2 f\n")
    with pytest.raises(DataError, match=r"test\.txt, text 4: '2' is no class"):
        TextClassification(path=path, test_path=str(tmp_path / "test.txt")).facts()


def test_sst2_has_its_official_split(shared_data):
    start = f"{shared_data}/sst2/stsa.binary"
    facts = TextClassification(path=f"{start}.train", val_path=f"{start}.dev", test_path=f"{start}.test").facts()
    assert facts.sizes == {"train": 6920, "val": 872, "test": 1821}
    assert facts.classes == ("0", "1")


@pytest.mark.parametrize(("name", "classes", "texts"), [("names", 18, 20_050), ("rt-polarity", 2, 10_662)])
def test_folders_of_one_file_for_each_class_are_read(shared_data, name, classes, texts):
    facts = TextClassification(path=str(shared_data / name)).facts()
    assert (len(facts.classes), sum(facts.sizes.values())) == (classes, texts)


def test_one_long_text_does_not_set_the_length(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    rows = [f"short text {i % 7},{'ab'[i % 2]}" for i in range(99)]
    path.write_text("\n".join(["text,label", *rows, "word " * 300_000 + ",a"]) + "\n")
    assert TextClassification(path=str(path), tokens="words").facts().input_shape[0] < 20
