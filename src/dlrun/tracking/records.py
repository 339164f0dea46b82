"""TensorFlow's record file, the form of TensorBoard's event files.

A record is the length of its data (8 bytes, little-endian), the checksum of that, the data, and the checksum of them; a
checksum is CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected), rotated by 15 bits and moved by a constant. The
bytes are those of ``tensorboard.summary.writer.record_writer``, whose import brings a stand-in for TensorFlow along.
"""

from __future__ import annotations

import struct


def record(data: bytes) -> bytes:
    """One record."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", checksum(length)), data, struct.pack("<I", checksum(data))))


def checksum(data: bytes) -> int:
    """The masked CRC-32C of ``data``."""
    table, remainder = _TABLE, 0xFFFFFFFF
    for byte in data:
        remainder = table[(remainder ^ byte) & 0xFF] ^ (remainder >> 8)
    remainder ^= 0xFFFFFFFF
    return ((remainder >> 15 | remainder << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_remainder, range(256)))
