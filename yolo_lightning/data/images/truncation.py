"""Truncated files: decoders fill the missing part of a JPEG with grey, without an error.

A JPEG may lack nothing but its end marker. It is then tried out whether any pixel depends on what follows the
file: the decoder gets other bytes in its place. If no pixel changes, all of them are in the file.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np

JPEG = b"\xff\xd8"
END = b"\xff\xd9"
_SCAN = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segment that lists the components."""
_NEXT_SEGMENT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Within a scan, 0xFF is followed by 0x00, a restart marker, or another 0xFF."""
_TAILS = [bytes((16 * n + 8 + k * k * (2 * n + 1)) % 255 for k in range(512)) for n in range(16)]
"""Bytes that might follow a truncated scan; together they begin with every code of up to four bits."""


def has_end(data: bytes) -> bool:
    """True if a JPEG or PNG has its end marker, and for any other file."""
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") > 0
    if not data.startswith(JPEG) or data.endswith(END):
        return True
    # Cameras append data after the end marker, and thumbnails in the header have their own: search after
    # the start of the first scan.
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == _SCAN:
            return data.find(END, position) >= 0
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def has_all_pixels(data: bytes) -> bool:
    """True if the scans of a JPEG are whole, with or without the end marker; takes 17 to 33 decodings."""
    try:
        end, is_whole = _last_scan(data)
    except (IndexError, ValueError):  # the header itself is truncated
        return False
    if not is_whole:
        return False
    scans = data[:end]
    if scans.endswith(b"\0\0"):  # the rest of a download that was given its full size at once
        scans = scans.rstrip(b"\0")
        scans += b"\0" if scans.endswith(b"\xff") else b""
    scans = scans.removesuffix(b"\xff")  # half of the end marker
    beginnings = [b""]
    if b"\xff\xdd" in data:  # the decoder passes over everything until the restart marker that it expects
        last = max(range(8), key=lambda n: scans.rfind(bytes((0xFF, 0xD0 + n))))
        has_one = bytes((0xFF, 0xD0 + last)) in scans
        beginnings.append(bytes((0xFF, 0xD0 + ((last + 1) % 8 if has_one else 0))))
    expected = _decoded(scans + END)
    return expected is not None and all(
        np.array_equal(expected, _decoded(scans + beginning + tail + END))
        for beginning in beginnings
        for tail in _TAILS
    )


def _decoded(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def _last_scan(data: bytes) -> tuple[int, bool]:
    """End of the last scan of a JPEG, and True if its scans bring each coefficient to its last bit."""
    missing: set[tuple[int, int]] = set()  # component and coefficient
    position = 2
    while data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker in _FRAMES:
            missing = {(segment[6 + 3 * n], k) for n in range(segment[5]) for k in range(64)}
        elif marker == _SCAN:
            count = segment[0]
            first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
            if bits & 15 == 0:  # the lowest bit of these coefficients
                missing -= {(segment[1 + 2 * n], k) for n in range(count) for k in range(first, last + 1)}
            following = _NEXT_SEGMENT.search(data, position)
            if following is None or following[0] == END:
                return following.start() if following else len(data), not missing
            position = following.start()
    return position, False
