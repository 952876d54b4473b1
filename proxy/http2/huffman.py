"""The Huffman code of HPACK (RFC 7541 §5.2, appendix B), for reading: what we write is not coded,
see `hpack`.

The code is canonical: symbols of one length are in the order of their values, and the codes go on
counting from one length to the next. So the lengths say everything. A table of steps, four bits
each, is made of it once: no code is shorter than five bits, so a step ends one symbol at most.
"""

from __future__ import annotations

from typing import Final

_END: Final = 256
"""The symbol that no text may hold. It is no byte, so that `bytes` refuses it."""
_BY_LENGTH: Final = (
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b'!"()?'),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (22, b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe"
         b"\xc4\xc6\xe4\xe8\xe9"),
    (23, b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf"
         b"\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef"),
    (24, b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (27, b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe"),
    (28, b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a"
         b"\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9"),
    (30, b"\n\r\x16"),
)  # fmt: skip
"""Length in bits → symbols, but for the last one of 30 bits, which is the end."""

_STATE: Final = 0xFF0
"""Bits of a step that hold the next state, sixteen times its number; above them is the symbol that
the step ends, plus one, or 0."""
_LAST_STATE: Final = 7 * 16
"""The states up to here have seen only ones, at most seven: what may be left at the end (§5.2)."""


def _tree() -> list[list[int]]:
    """Nodes; of each what follows a 0 and a 1: a node, or the complement of a symbol. The first
    ones are those that only ones lead to."""
    nodes = [[0, number + 1] for number in range(30)]
    code = length = 0
    for bits, symbols in _BY_LENGTH:  # ≤ 32
        code <<= bits - length
        length = bits
        for symbol in (*symbols, _END) if bits == 30 else symbols:  # ≤ 64
            at = 0
            for bit in range(bits - 1, 0, -1):  # ≤ 30
                turn = code >> bit & 1
                if not nodes[at][turn]:
                    nodes[at][turn] = len(nodes)
                    nodes.append([0, 0])
                at = nodes[at][turn]
            nodes[at][code & 1] = ~symbol
            code += 1
    return nodes


def _steps() -> list[int]:
    """The step for each state and four bits, sixteen for each state."""
    nodes = _tree()
    steps = []
    for start in range(len(nodes)):  # ≤ 256
        for four in range(16):  # ≤ 16
            at, ended = start, 0
            for bit in (3, 2, 1, 0):
                at = nodes[at][four >> bit & 1]
                if at < 0:
                    at, ended = 0, ~at + 1
            steps.append(ended << 12 | at << 4)
    return steps


_STEPS: Final = _steps()  # ≤ 160 KiB


def decode(coded: bytes) -> bytes:
    """The text. Raises `ValueError` where there is none (RFC 7541 §5.2)."""
    text: list[int] = []
    state = 0
    for byte in coded:  # ≤ 64 KiB
        step = _STEPS[state + (byte >> 4)]
        if step > _STATE:
            text.append((step >> 12) - 1)
        step = _STEPS[(step & _STATE) + (byte & 15)]
        if step > _STATE:
            text.append((step >> 12) - 1)
        state = step & _STATE
    if state > _LAST_STATE:
        raise ValueError("the padding of a Huffman text is longer than 7 bits, or not all ones")
    return bytes(text)
