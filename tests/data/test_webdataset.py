import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.data import webdataset_index
from dlrun.data.batches import Batches
from dlrun.data.image_parts import ImageFiles
from dlrun.data.webdataset import WebDataset
from dlrun.data.webdataset_names import expanded, parts_of, shards_of
from dlrun.data.webdataset_tar import members
from dlrun.errors import ConfigError, DataError

forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


def png(seed, size=(8, 6)):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write(path, files, form=tarfile.USTAR_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def sample(number, label=None):
    return [
        (f"{number:04d}.png", png(number)),
        (f"{number:04d}.cls", str(number % 2 if label is None else label).encode()),
    ]


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    for shard in range(3):
        write(folder / f"set-{shard:02d}.tar", [file for i in range(10) for file in sample(10 * shard + i)])
    return folder


def loader(part, splits, **settings):
    settings = {"batch_size": 4, "device": torch.device("cpu"), "seed": 0} | settings
    return Batches(part, preprocess=splits.preprocess, **settings)


def test_shards_hold_the_images_and_labels_that_were_written(shards):
    data = WebDataset(path=str(shards), test=0.0, val=0.0)
    splits = data.load()
    assert data.facts() == splits.facts
    assert splits.facts.input_shape == (3, 6, 8)
    assert splits.facts.classes == ("0", "1")
    expected = [np.array(Image.open(io.BytesIO(png(i)))) for i in range(30)]
    assert torch.equal(splits.train.inputs, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
    assert splits.train.targets.tolist() == [i % 2 for i in range(30)]


def test_a_share_of_each_class_is_held_out(shards):
    splits = WebDataset(path=str(shards)).load()
    assert splits.facts.sizes == {"train": 22, "val": 2, "test": 6}
    assert torch.bincount(splits.test.targets).tolist() == [3, 3]


@forks
def test_streaming_gives_the_bits_of_reading_whole_whatever_reads(shards):
    whole, stream = WebDataset(path=str(shards)).load(), WebDataset(path=str(shards), memory=0).load()
    assert isinstance(stream.train, ImageFiles)
    assert stream.preprocess.state() == whole.preprocess.state()
    for start, workers in ((0, 0), (2, 2)):
        expected = list(loader(whole.train, whole).epoch(1))[start:]
        found = list(loader(stream.train, stream, workers=workers).epoch(1, start))
        assert len(found) == len(expected) == 6 - start
        for (inputs, targets), (known, labels) in zip(found, expected, strict=True):
            assert torch.equal(inputs, known)
            assert torch.equal(targets, labels)


@pytest.mark.parametrize("memory", [0, 2])
def test_the_fingerprint_sees_a_change(shards, memory):
    before = WebDataset(path=str(shards), memory=memory).load().fingerprint
    assert WebDataset(path=str(shards), memory=memory).load().fingerprint == before
    write(shards / "set-01.tar", [file for i in range(10) for file in sample(50 + i)])
    os.utime(shards / "set-01.tar", (1, 1))
    assert WebDataset(path=str(shards), memory=memory).load().fingerprint != before


@pytest.mark.parametrize(
    ("form", "ready"), [(tarfile.USTAR_FORMAT, 90), (tarfile.GNU_FORMAT, 300), (tarfile.PAX_FORMAT, 300)]
)
def test_members_are_those_that_tarfile_finds(tmp_path, form, ready):
    path = tmp_path / "a.tar"
    names = ["a.png", "folder/b.png", "x" * ready + ".png", "y/" * (ready // 3) + "c.png"]
    names += [] if form == tarfile.USTAR_FORMAT else ["bläue.png"]
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 700 * number, number + (0.5 if form == tarfile.PAX_FORMAT else 0)
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
        folder, link = tarfile.TarInfo("empty"), tarfile.TarInfo("link.png")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "a.png"
        tar.addfile(folder)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("last.png"))
    with tarfile.open(path) as tar:
        known = [(m.name, m.offset_data, m.size) for m in tar.getmembers() if m.isreg()]
    assert [(m.name, m.offset, m.size) for m in members(path)] == known
    assert len(known) == len(names) + 1


def test_a_length_in_base_256_is_read(tmp_path):
    info = tarfile.TarInfo("a.png")
    info.size = 3 * 2**33
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match=f"has {info.size:,} bytes"):
        list(members(tmp_path / "a.tar"))


def cut_in_a_member(path):
    path.write_bytes(path.read_bytes()[:600])


def cut_between_members(path):
    with tarfile.open(path) as tar:
        path.write_bytes(path.read_bytes()[: tar.getmembers()[2].offset])


def spoil_a_header(path):
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        data[tar.getmembers()[2].offset + 3] ^= 1
    path.write_bytes(data)


def turn_back(path):
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"size": "-1024"}
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT))


def claim_a_size_of_thousands_of_digits(path):
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"size": "1" * 5000}
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT))


def describe_at_a_length_beyond_64_bits(path):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (2**70).to_bytes(11, "big")
    header[156:157] = b"L"
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    path.write_bytes(header + bytes(1024))


def spoil_the_checksum(path):
    data = bytearray(path.read_bytes())
    data[148:156] = b"0009999\0"
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut_in_a_member, r"set-01\.tar is cut short: a member at byte 0 has"),
        (cut_between_members, r"set-01\.tar is cut short: .* without its end mark"),
        (spoil_a_header, r"set-01\.tar is damaged at byte 2,"),
        (turn_back, r"set-01\.tar is damaged at byte"),
        (claim_a_size_of_thousands_of_digits, r"set-01\.tar is damaged at byte"),
        (describe_at_a_length_beyond_64_bits, r"set-01\.tar is cut short: a member at byte 0 has"),
        (spoil_the_checksum, r"set-01\.tar is no tar archive"),
        (lambda path: path.write_bytes(b""), r"set-01\.tar is cut short"),
        (lambda path: path.write_bytes(b"no archive " * 100), r"set-01\.tar is no tar archive"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + b"x" * 600), r"set-01\.tar is compressed \(gzip\)"),
    ],
)
def test_a_shard_that_cannot_be_used_is_named(shards, harm, words):
    harm(shards / "set-01.tar")
    with pytest.raises(DataError, match=words):
        WebDataset(path=str(shards)).facts()


def test_a_shard_that_shrinks_while_a_run_goes_on_is_named(shards):
    splits = WebDataset(path=str(shards), memory=0).load()
    for path in shards.iterdir():
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"\.tar is cut short: it was longer"):
        next(loader(splits.train, splits).epoch(0))


def test_a_damaged_image_is_named_with_its_shard(tmp_path):
    write(tmp_path / "a.tar", [*sample(0), *sample(1), ("0002.png", png(2, (64, 64))[:2000]), ("0002.cls", b"0")])
    with pytest.raises(DataError, match=r"0002\.png in .*a\.tar is damaged"):
        WebDataset(path=str(tmp_path / "a.tar"), size=8).load()


def test_samples_are_grouped_as_the_format_has_it(tmp_path):
    files = [
        ("a/01.seg.json", b"{}"), ("a/01.JPG", png(1)), ("a/01.cls", b" 1\n"), ("b/01.png", png(2)), ("b/01.cls", b"0"),
        ("b/02.txt", b"no image"), ("b/02.cls", b"7"), ("._b", b""), ("README", b""),
    ]  # fmt: skip
    write(tmp_path / "a.tar", files)
    splits = WebDataset(path=str(tmp_path / "a.tar"), val=0.0, test=0.0).load()
    assert splits.train.targets.tolist() == [1, 0]
    assert splits.facts.notes == ("1 samples without an image were passed over.",)


def labelled(path, labels, key="label"):
    write(
        path,
        [f for i, v in enumerate(labels) for f in ((f"{i}.png", png(i)), (f"{i}.json", json.dumps({key: v}).encode()))],
    )
    return str(path)


@pytest.mark.parametrize(
    ("labels", "names", "classes", "targets"),
    [
        ([0, 2, 1], None, ("0", "1", "2"), [0, 2, 1]),
        (["dog", "cat", "dog"], None, ("cat", "dog"), [1, 0, 1]),
        (["dog", "cat", "dog"], "dog\ncat\n", ("dog", "cat"), [0, 1, 0]),
        ([1, 0, 1], "dog\ncat\n", ("dog", "cat"), [1, 0, 1]),
    ],
)
def test_labels_by_number_or_by_name(tmp_path, labels, names, classes, targets):
    if names:
        (tmp_path / "classes.txt").write_text(names)
    splits = WebDataset(path=labelled(tmp_path / "a.tar", labels), label_key="label", val=0.0, test=0.0).load()
    assert splits.facts.classes == classes
    assert splits.train.targets.tolist() == targets


@pytest.mark.parametrize(
    ("labels", "settings", "words"),
    [
        ([0, 1], {}, r"0 in .*a\.tar has no \.cls with its class .*data\.label_key=KEY"),
        ([0, 1], {"label_key": "lable"}, r"0\.json in .* has no key 'lable' .*did you mean 'label'"),
        ([0, [1]], {"label_key": "label"}, r"1\.json in .*'label' is \[1\], no class"),
        ([0, 5], {"label_key": "label", "classes": "names"}, "label '5' is none of the 2 classes"),
        ([0, 10**9], {"label_key": "label"}, "a label is 1,000,000,000"),
        ([0, 1], {"label_key": "label", "classes": "absent"}, r"absent cannot be read: No such file"),
    ],
)
def test_a_label_that_is_no_class_is_named(tmp_path, monkeypatch, labels, settings, words):
    monkeypatch.chdir(tmp_path)
    Path("names").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=words):
        WebDataset(path=labelled(tmp_path / "a.tar", labels), **settings).facts()


def test_parts_by_name_by_folder_and_by_setting(tmp_path):
    for name in ("train-0", "train-1", "val_0", "testing", "trainees"):
        write(tmp_path / "named" / f"{name}.tar", sample(0) + sample(1))
        write(tmp_path / "below" / name.rstrip("-_01") / "0.tar", sample(0) + sample(1))
    files, notes = parts_of(tmp_path / "named")
    assert {part: [file.stem for file in found] for part, found in files.items()} == {
        "train": ["train-0", "train-1"], "val": ["val_0"], "test": ["testing"],
    }  # fmt: skip
    assert len(notes) == 1
    assert "trainees.tar" in notes[0]
    assert set(parts_of(tmp_path / "below")[0]) == {"train", "val", "test"}
    facts = WebDataset(
        path=str(tmp_path / "named" / "train-0.tar"), val_path=str(tmp_path / "named" / "val_0.tar")
    ).facts()
    assert facts.sizes["val"] == 2


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{08..11}.tar", ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{2..1}{a,b}", ["2a", "2b", "1a", "1b"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(pattern, names):
    assert list(expanded(pattern)) == names


def test_a_pattern_names_its_shards(shards):
    assert [p.name for p in shards_of("data.path", f"{shards}/set-{{00..02}}.tar")] == [
        f"set-0{i}.tar" for i in range(3)
    ]
    assert len(shards_of("data.path", f"{shards}/set-*.tar")) == 3
    with pytest.raises(DataError, match=r"set-03\.tar is missing \(data\.path\)"):
        shards_of("data.path", f"{shards}/set-{{00..03}}.tar")
    with pytest.raises(ConfigError, match="twice"):
        shards_of("data.path", f"{shards}/set-{{00,00}}.tar")
    with pytest.raises(ConfigError, match="more than 100,000"):
        shards_of("data.path", "{0..9999999}.tar")


@pytest.mark.parametrize("path", ["https://host/a.tar", "s3://bucket/{0..3}.tar", "pipe:curl a"])
def test_what_lies_elsewhere_is_refused(path):
    with pytest.raises(ConfigError, match="lies elsewhere"):
        WebDataset(path=path).facts()


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(DataError, match="has no shards: expected FOLDER/train"):
        WebDataset(path=str(tmp_path)).facts()
    with pytest.raises(ConfigError, match=r"`dlrun train data=webdataset data\.path=FOLDER`"):
        WebDataset().facts()


def test_the_index_is_kept_until_the_shard_changes(shards, cache, monkeypatch):
    WebDataset(path=str(shards)).facts()
    assert not cache.exists()  # small ones are not
    monkeypatch.setattr(webdataset_index, "FEW", 1)
    before = WebDataset(path=str(shards)).load()
    assert len(list(cache.iterdir())) == 3
    with monkeypatch.context() as patch:
        patch.setattr(webdataset_index, "_build", None)
        after = WebDataset(path=str(shards)).load()
    assert torch.equal(before.train.inputs, after.train.inputs)
    assert torch.equal(before.test.targets, after.test.targets)
    write(shards / "set-02.tar", [file for i in range(12) for file in sample(i)])
    assert sum(WebDataset(path=str(shards)).facts().sizes.values()) == 32


@pytest.mark.parametrize(
    "harm", [lambda path: path.write_bytes(path.read_bytes()[:50]), lambda path: path.write_text("x")]
)
def test_a_damaged_index_is_made_anew(shards, cache, monkeypatch, harm):
    monkeypatch.setattr(webdataset_index, "FEW", 1)
    before = WebDataset(path=str(shards)).load()
    for path in cache.iterdir():
        harm(path)
    assert torch.equal(WebDataset(path=str(shards)).load().train.inputs, before.train.inputs)


def test_a_cache_that_cannot_be_written_is_done_without(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset_index, "FEW", 1)
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "file"))
    assert len(WebDataset(path=str(shards)).load().train) == 22


def test_the_command_line_takes_a_pattern(shards):
    from dlrun.build import check
    from dlrun.config import compose

    config = compose(["data=webdataset", f'data.path="{shards}/set-{{00..02}}.tar"', "model=cnn"])
    assert check(config).facts.sizes == {"train": 22, "val": 2, "test": 6}


def test_shards_that_the_formats_own_library_writes(tmp_path):
    library = pytest.importorskip("webdataset")
    with library.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=4, verbose=0) as sink:
        for i in range(10):
            sink.write({"__key__": f"{i:05d}", "png": png(i), "cls": i % 3, "json": {"label": i % 2}})
    for key, labels in ((None, [i % 3 for i in range(10)]), ("label", [i % 2 for i in range(10)])):
        splits = WebDataset(path=str(tmp_path), label_key=key, val=0.0, test=0.0).load()
        assert splits.train.targets.tolist() == labels
        expected = [np.array(Image.open(io.BytesIO(png(i)))) for i in range(10)]
        assert torch.equal(splits.train.inputs, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
