"""A record is what TensorBoard's own writer makes of the same data."""

from __future__ import annotations

import io

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from dlrun.tracking.records import record


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 5, b"\xff" * 33], ids=len)
def test_the_bytes_are_those_of_tensorboard(data: bytes) -> None:
    file = io.BytesIO()
    RecordWriter(file).write(data)
    assert record(data) == file.getvalue()
