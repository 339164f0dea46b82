"""Checkpoints: what goes in comes out, which files are kept, which one is chosen."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlrun.errors import CheckpointError, StorageError
from dlrun.training import container
from dlrun.training.checkpoint import Checkpoints, decode, encode, read, write

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def through(state: dict, path: Path) -> dict:
    write(path, state)
    return read(path)


def unpacked(state: dict) -> dict:
    """The state through the bytes, without a file."""
    data = b"".join(encode(state))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return decode(Path("a.ckpt"), data, header["__metadata__"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (3, 4), (2, 3, 4, 5)], ids=str)
def test_tensors_of_every_type_and_shape_come_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.rand(shape) * 3 - 0.5).abs().to(dtype)
    found = through({"t": tensor, "odd": torch.ones(3, dtype=torch.bool)}, tmp_path / "a.ckpt")["t"]
    assert (found.dtype, found.shape) == (dtype, tensor.shape)
    assert torch.equal(found, tensor)


def test_views_shared_storage_and_parameters_keep_their_values(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    weight = torch.nn.Parameter(torch.randn(3, 3))
    state = {
        "transposed": base.t(), "strided": base[::2, 1::2], "expanded": torch.ones(1).expand(4),
        "tied": [weight, weight], "conjugate": torch.tensor([1 + 2j]).conj(), "nan": torch.tensor([math.nan, -0.0]),
    }  # fmt: skip
    found = through(state, tmp_path / "a.ckpt")
    assert torch.equal(found["transposed"], base.t())
    assert torch.equal(found["strided"], base[::2, 1::2])
    assert torch.equal(found["expanded"], torch.ones(4))
    assert all(torch.equal(one, weight) for one in found["tied"])
    assert torch.equal(found["conjugate"], torch.tensor([1 - 2j]))
    assert found["nan"].view(torch.int32).tolist() == state["nan"].view(torch.int32).tolist()


def test_random_generators_and_an_optimizer_go_on_as_they_were(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    numbers = np.random.default_rng(3)
    state = {
        "optimizer": optimizer.state_dict(), "python": random.getstate(), "torch": torch.get_rng_state(),
        "numpy": numbers.bit_generator.state,
    }  # fmt: skip
    expected = (random.random(), torch.rand(3).tolist(), numbers.random())
    found = through(state, tmp_path / "a.ckpt")
    random.setstate(found["python"])
    torch.set_rng_state(found["torch"])
    numbers.bit_generator.state = found["numpy"]
    assert (random.random(), torch.rand(3).tolist(), numbers.random()) == expected
    assert list(found["optimizer"]["state"]) == [0, 1]
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    optimizer.load_state_dict(found["optimizer"])


keys = st.text(max_size=8) | st.integers(-(2**70), 2**70)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(keys, values, max_size=4))
def test_any_plain_state_comes_back_with_its_types(state: dict) -> None:
    found = unpacked(state)
    assert found == state
    assert repr(found) == repr(state)  # 1 and True and 1.0 are equal, lists and tuples are told apart


def test_what_json_cannot_say(tmp_path: Path) -> None:
    state = {
        "nan": math.nan,
        "infinities": (math.inf, -math.inf),
        "huge": -(7**9000),
        "digest": '"digest":"' + "0" * 64,
    }
    found = through(state, tmp_path / "a.ckpt")
    assert math.isnan(found.pop("nan"))
    assert found == {key: value for key, value in state.items() if key != "nan"}


def test_names_that_would_meet_are_kept_apart() -> None:
    state = {"a": {"b": torch.tensor(1)}, "a.b": torch.tensor(2), "": torch.tensor(3), "__metadata__": torch.tensor(4)}
    found = unpacked(state)
    numbers = [int(tensor) for tensor in (found["a"]["b"], found["a.b"], found[""], found["__metadata__"])]
    assert numbers == [1, 2, 3, 4]


def test_the_library_reads_the_file_and_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    state = {"model": {"w": torch.ones(2, 3), "n": torch.tensor(5), "h": torch.ones(3).half()}, "step": 3}
    size = write(tmp_path / "a.ckpt", state)
    tensors = safetensors.torch.load_file(tmp_path / "a.ckpt")
    assert torch.equal(tensors["model.w"], torch.ones(2, 3))
    assert tensors.keys() == {"model.w", "model.n", "model.h"}
    write(tmp_path / "b.ckpt", state)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
    assert (tmp_path / "a.ckpt").stat().st_size == size
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": object()}}, r"cannot hold a\.b: it is a object"),
        ({"a": {(1, 2): 3}}, r"cannot hold the key \(1, 2\) of a"),
        ({True: 1}, "keys are str or int"),
        ({"a": b"bytes"}, "it is a bytes"),
        ({"a": torch.eye(2).to_sparse()}, r"cannot hold the tensor a: .*sparse"),
        ({"a": torch.ones(2, device="meta")}, "meta"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "complex128"),
    ],
)
def test_what_has_no_place_in_a_file_is_named(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        write(tmp_path / "a.ckpt", state)
    assert list(tmp_path.iterdir()) == []


def test_limits_hold_for_writing_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="9 dimensions, more than 8"):
        write(tmp_path / "a.ckpt", {"a": torch.ones([1] * 9)})
    nested: dict = {}
    for _ in range(200):
        nested = {"a": nested}
    with pytest.raises(TypeError, match="nested deeper"):
        write(tmp_path / "a.ckpt", nested)
    monkeypatch.setattr(container, "KEYS_LIMIT", 3)
    with pytest.raises(CheckpointError, match="tensors, more than 3"):
        write(tmp_path / "a.ckpt", {"a": [torch.ones(1)] * 4})


def forged(header: Any, data: bytes = b"") -> bytes:
    """A file with a right digest whatever its header says."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return b"".join(container._sealed(text, [data]))


def metadata(**changes: Any) -> dict:
    return {"digest": "0" * 64, "format": "dlrun-1", "state": '{"dict":[]}'} | changes


def entry(**changes: Any) -> dict:
    return {"__metadata__": metadata(), "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]} | changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (forged({"a": 1}), "no metadata"),
        (forged({"__metadata__": metadata(format="pt")}), "has the format 'pt'; this dlrun reads 'dlrun-1'"),
        (forged({"__metadata__": {"format": "dlrun-1", "digest": "0" * 64}}), "lacks the state"),
        (forged([1]), "not a table"),
        (forged(b"{"), "not readable JSON"),
        (forged(b"[" * 100_000), "not readable JSON"),
        (forged({"__metadata__": metadata(state="[")}), "do not fit together"),
        (forged({"__metadata__": metadata(state="[1]")}), "is not a table"),
        (forged({"__metadata__": metadata(state='{"tensor":"b"}')}), "do not fit together"),
        (forged({"__metadata__": metadata(state='{"call":"b"}')}), "do not fit together"),
        (forged({"__metadata__": metadata(state='{"a":1,"b":2}')}), "do not fit together"),
        (forged({"__metadata__": metadata(state="[" * 100_000)}), "do not fit together"),
        (forged(entry(shape=[1] * 9, data_offsets=[0, 1]), b"x"), "9 dimensions"),
        (forged(entry(shape=[2**40]), b"xx"), "contradicts itself"),
        (forged(entry(shape=[-1]), b"xx"), "contradicts itself"),
        (forged(entry(shape=None), b"xx"), "contradicts itself"),
        (forged(entry(shape=[True, 2]), b"xx"), "contradicts itself"),
        (forged(entry(dtype="F3"), b"xx"), "contradicts itself"),
        (forged(entry(data_offsets=[1, 3]), b"xxx"), "overlap or leave gaps"),
        (forged(entry() | {"b": entry()["a"]}, b"xx"), "overlap or leave gaps"),
        (forged(entry(), b"x"), "header announces"),
        (forged({"__metadata__": metadata(more='"digest":"' + "0" * 64)}), ""),
        ((2**63).to_bytes(8, "little") + b"{}", "do not hold the header"),
    ],
)
def test_a_forged_file_with_a_right_digest_is_refused_in_a_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    if not message:  # an escaped imitation of the digest does not confuse the reader
        assert read(path) == {}
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*a\.ckpt: No such file"):
        read(tmp_path / "a.ckpt")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_two_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None
    assert checkpoints.best() is None
    for step in (5, 10, 15, 123456789):
        checkpoints.save(step, {"step": step})
    checkpoints.save_best(10, {"step": 10})
    checkpoints.save_best(15, {"step": 15})
    assert names(tmp_path / "checkpoints") == ["best.ckpt", "step-00000015.ckpt", "step-123456789.ckpt"]
    assert checkpoints.best() == {"step": 15}
    found = checkpoints.newest()
    assert found == ({"step": 123456789}, tmp_path / "checkpoints" / "step-123456789.ckpt", [])


def test_a_save_after_going_back_replaces_the_future_that_was_left(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, {"step": 10})
    checkpoints.save(20, {"step": 20})
    checkpoints.save(15, {"step": 15})
    assert names(tmp_path) == ["step-00000010.ckpt", "step-00000015.ckpt"]
    found = checkpoints.newest()
    assert found is not None
    assert found[0] == {"step": 15}


def test_temporaries_are_swept_and_nothing_else(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {})
    (tmp_path / ".tmp-step-00000002.ckpt-abc").write_text("half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.sweep_temporaries()
    assert names(tmp_path) == ["notes.txt", "step-00000001.ckpt"]
    Checkpoints(tmp_path / "absent").sweep_temporaries()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, {})
