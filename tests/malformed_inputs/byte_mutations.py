"""Changes to the bytes of any file: flipped bits, cuts, insertions, values that overflow something."""

import random
import struct

# Sizes, counts and offsets that overflow something
EDGES = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def bits(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 32)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bits_at_the_start(rng: random.Random, content: bytes) -> bytes:
    return bits(rng, content[:64]) + content[64:]


def truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def edge(rng: random.Random, content: bytes) -> bytes:
    form = rng.choice((">H", "<H", ">I", "<I"))
    value = struct.pack(form, rng.choice(EDGES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    at = rng.randrange(min(len(content), rng.choice((64, 512, 1 << 20))) + 1)
    return content[:at] + value + content[at + len(value) :]


def moved(rng: random.Random, content: bytes) -> bytes:
    start, end, to = (rng.randrange(len(content) + 1) for _ in range(3))
    piece = content[start:end]
    return rng.choice((content[:start] + content[end:], content[:to] + piece + content[to:], content + piece))


def inserted(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 4, 100))) + content[at:]
