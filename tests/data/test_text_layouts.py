import pytest

from dlrun.data.text_layouts import Columns, class_names, label_lines, read_labelled
from dlrun.errors import DataError

TEXTS = ["a fine film", "dull, and long", "not bad at all", "I left early", 'they said "no"', "what a day"]
LABELS = ["pos", "neg", "pos", "neg", "neg", "pos"]
NONE = Columns()


def write(folder, content, name="some.txt"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


LINES = [f"{label} {text}" for label, text in zip(LABELS, TEXTS, strict=True)]
TABBED = [f"{label}\t{text}" for label, text in zip(LABELS, TEXTS, strict=True)]
SWAPPED = [f"{text}\t{label}" for label, text in zip(LABELS, TEXTS, strict=True)]
COMMAS = [f"{quoted(text)},{label}" for label, text in zip(LABELS, TEXTS, strict=True)]
ANNOTATED = [f"{i},{label},{quoted(text)}" for i, (label, text) in enumerate(zip(LABELS, TEXTS, strict=True))]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("some.txt", LINES),
        ("some.train", LINES),
        ("some.txt", TABBED),
        ("some.tsv", TABBED),
        ("some.tsv", SWAPPED),
        ("some.tsv", ["sentence\tlabel", *SWAPPED]),
        ("some.tsv", ["class\tsms", *TABBED]),
        ("some.csv", COMMAS),
        ("some.csv", ["text,label", *COMMAS]),
        ("some.csv", ["Review,Sentiment", *COMMAS]),
        ("some.txt", ["text,label", *COMMAS]),
        ("some.csv", ["id,label,text", *ANNOTATED]),
        ("some.csv", ["number,kind,words", *ANNOTATED]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_layout_of_one_file_gives_the_same(tmp_path, name, lines, end):
    found = read_labelled(write(tmp_path, end.join(lines) + end, name), NONE)
    assert found.texts == TEXTS
    assert found.labels == LABELS
    assert name in found.notes[0]


def test_one_file_for_each_class(tmp_path):
    for label in ("neg", "pos"):
        of_it = [text for text, known in zip(TEXTS, LABELS, strict=True) if known == label]
        write(tmp_path, "\n".join(of_it) + "\n\n", f"{label}.txt")
    write(tmp_path, "not data", "README")
    write(tmp_path, "not data", ".hidden")
    found = read_labelled(tmp_path, NONE)
    assert sorted(zip(found.labels, found.texts, strict=True)) == sorted(zip(LABELS, TEXTS, strict=True))
    assert "2 files, one for each class" in found.notes[0]


def test_one_folder_for_each_class(tmp_path):
    for i, (label, text) in enumerate(zip(LABELS, TEXTS, strict=True)):
        write(tmp_path, text.replace(" ", "\n"), f"all/{label}/{i}.txt")
    found = read_labelled(tmp_path, NONE)  # the lone folder within is gone into
    assert sorted(zip(found.labels, found.texts, strict=True)) == sorted(zip(LABELS, TEXTS, strict=True))
    assert "2 class folders" in found.notes[0]


def test_files_are_told_apart_by_name_or_by_ending(tmp_path):
    assert class_names([tmp_path / "a.txt", tmp_path / "b.txt"]) == ["a", "b"]
    assert class_names([tmp_path / "reviews.neg", tmp_path / "reviews.pos"]) == ["neg", "pos"]


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path, "text,other,label\nx one,first thing said,1\nx two,second,2\nx three,third,1\n", "t.csv")
    assert read_labelled(path, NONE).texts == ["x one", "x two", "x three"]
    assert read_labelled(path, Columns(text="other")).texts == ["first thing said", "second", "third"]
    found = read_labelled(path, Columns(text=1, label=0))
    assert (found.texts[1], found.labels[1]) == ("second", "x two")
    assert read_labelled(path, Columns(label=-1)).labels == ["1", "2", "1"]
    with pytest.raises(DataError, match=r"did you mean data\.text=other"):
        read_labelled(path, Columns(text="othr"))
    with pytest.raises(DataError, match="cannot be both"):
        read_labelled(path, Columns(text="other", label="other"))


def test_the_header_can_be_forced(tmp_path):
    path = write(tmp_path, "alpha\tbeta\n" + "\n".join(SWAPPED), "t.tsv")
    assert read_labelled(path, Columns(header=True)).texts == TEXTS
    assert read_labelled(path, Columns(header=False)).texts == ["alpha", *TEXTS]


def test_quotes_between_tabs_are_text_unless_they_enclose_it(tmp_path):
    lines = ['1\t"quoted whole"', '0\t"half of it" quoted', "1\tno quote", '0\t"', '1\t"say ""yes"""']
    found = read_labelled(write(tmp_path, "\n".join(lines), "t.tsv"), NONE)
    assert found.texts == ["quoted whole", '"half of it" quoted', "no quote", '"', 'say "yes"']


def test_latin_1_is_told(tmp_path):
    found = read_labelled(write(tmp_path, "\n".join(["1 café", "0 thé"] * 3).encode("latin-1")), NONE)
    assert found.texts[:2] == ["café", "thé"]
    assert "latin-1" in found.notes[1]


def test_examples_without_text_or_label_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, "text,label\none,a\n,b\ntwo,b\nthree,\nfour,a\n", "t.csv")
    found = read_labelled(path, NONE)
    assert found.texts == ["one", "two", "four"]
    assert any("2 examples without" in note for note in found.notes)


def test_lines_of_prose_are_no_labels():
    prose = "It was the best of times,\nit was the worst of times,\nit was the age of wisdom,\nand more besides\n"
    assert label_lines(prose) is None
    assert label_lines("1 a\n1 b\n1 c\n1 d\n") is None
    assert label_lines("1 a\n0 b\n1\n0 d\n") is None
    assert label_lines("__label__x a b\n__label__y c\n__label__x d\n__label__y e\n")[0] == ("__label__x", "a b")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"prose.txt": "one day\nthe king went out\nand never came back\n"}, "prose.txt: no labels are found"),
        ({"one.csv": "text\nonly one column\nof texts\n"}, "no labels"),
        ({"t.csv": "text,label\n"}, "only a header"),
        ({"t.tsv": "text\tlabel\n"}, "only a header"),
        ({"t.csv": 'text,label\n"never closed,1\n'}, "line 2: a quote"),
        ({"t.txt": b"1 a\0b\n0 c\n"}, "NUL"),
        ({"a/x": "", "b/y": "text"}, "x is empty"),
        (
            {"train.csv": "a,b\n1,2\n", "test.csv": "a,b\n1,2\n"},
            r"data\.path=.*/train\.csv data\.test_path=",
        ),
        ({"train/pos/1.txt": "x", "test/pos/1.txt": "y"}, r"data\.path=.*/train data\.test_path=.*/test"),
        ({"alone.txt": "x"}, "has no classes"),
        ({}, "has no classes"),
    ],
)
def test_what_fits_no_layout_is_refused_with_a_sentence(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path, content, name)
    one_file = len(files) == 1 and "alone.txt" not in files
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path / next(iter(files)) if one_file else tmp_path, NONE)


def test_a_missing_path_has_a_near_name(tmp_path):
    write(tmp_path, "x", "reviews.tsv")
    with pytest.raises(DataError, match=r"did you mean .*reviews\.tsv"):
        read_labelled(tmp_path / "review.tsv", NONE)
