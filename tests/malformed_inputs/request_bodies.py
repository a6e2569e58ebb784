"""Malformed bodies of requests to the endpoint."""

import base64
import functools
import json
import random
from collections.abc import Iterator

from tests.malformed_inputs.byte_mutations import bits, bits_at_the_start, edge, inserted, moved, truncated
from tests.malformed_inputs.good_files import Case, good_images
from tests.malformed_inputs.image_files import heavy_images, images


def requests(seed: int, count: int, heavy: bool = True) -> Iterator[Case]:
    """Bodies of malformed requests to the endpoint, `count` of them, the heavy ones among them unless left out."""
    made = 0
    for what, content in heavy_requests() if heavy else ():
        if made == count:
            return
        yield Case(what, what, content)
        made += 1
    for number in range(made, count):
        rng = random.Random(f"request {seed} {number}")
        mutate = rng.choice(_REQUEST_MUTATIONS)
        yield Case(mutate.__name__.strip("_"), f"request {number}", mutate(rng))


@functools.cache
def heavy_requests() -> tuple[tuple[str, bytes], ...]:
    """Requests that are large, deep or many."""
    good = good_images()[1][1]
    largest = [content for what, content in heavy_images() if what.startswith("largest PNG")]
    return (
        ("70 MB", b" " * 70_000_000),
        ("60 MB of lists", b'{"inputs": [' + b"[]," * 20_000_000 + b"[]]}"),
        ("60 MB of one text", b'{"inputs": ["' + b"A" * 60_000_000 + b'"]}'),
        ("an image of 50 MB", request_of([bytes(50_000_000)])),
        ("four of the largest images", request_of(largest)),
        ("nested 9000 deep", b'{"inputs": ' + b"[" * 9000 + b"]" * 9000 + b"}"),
        ("nested 100000 deep", b"[" * 100_000),
        ("1000 images", request_of([good] * 1000)),
        ("4000 empty images", request_of([b""] * 4000)),
        ("a long number", b'{"inputs": [' + b"9" * 1_000_000 + b"]}"),
    )


def request_of(files: list[bytes]) -> bytes:
    """The body of a request about these images, as it should be."""
    return json.dumps({"dataframe_records": [{"image": base64.b64encode(file).decode()} for file in files]}).encode()


def _images_in_a_request(rng: random.Random) -> bytes:
    """Malformed images, in each of the forms that MLflow takes."""
    count = rng.choice((1, 1, 2, 5))
    files = [case.content for case in images(rng.randrange(1 << 30), count, heavy=False)]
    encoded = [base64.b64encode(file).decode() for file in files]
    rows = [{"image": text} for text in encoded]
    return json.dumps(
        rng.choice((
            {"dataframe_records": rows}, {"inputs": rows}, {"inputs": encoded}, {"inputs": {"image": encoded}},
            {"instances": rows}, {"dataframe_split": {"columns": ["image"], "data": [[text] for text in encoded]}},
        ))
    ).encode()  # fmt: skip


def _text_in_a_request(rng: random.Random) -> bytes:
    """What is no base64, or base64 of another kind."""
    good = base64.b64encode(good_images()[1][1]).decode()
    text = rng.choice((
        "", "=", "====", "A", "A===", good[:-1], good + "=", good[: len(good) // 2], " ".join(good), good + "\n",
        good + "\0", "\ud800", "ä" * 40, "http://127.0.0.1:9/", "file:///etc/passwd", "../" * 9, "%s" * 20, "NaN",
        "null", "data:image/png;base64," + good, good.replace("+", "-").replace("/", "_"),
    ))  # fmt: skip
    return json.dumps({"dataframe_records": [{"image": good}, {"image": text}]}).encode()


def _json(rng: random.Random, depth: int = 4) -> object:
    """Any JSON, with the words that the endpoint knows in it."""
    words = (
        "image", "dataframe_records", "dataframe_split", "inputs", "instances", "params", "columns", "data", "index",
        "predictions", "messages", "prompt", "input", "", "\0", "__class__", "0",
    )  # fmt: skip
    kind = rng.randrange(9 if depth else 7)
    if kind == 7:
        return [_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 8:
        return {rng.choice(words): _json(rng, depth - 1) for _ in range(rng.randrange(4))}
    numbers = (0, 1, -1, 0.5, 1e308, float("nan"), float("inf"), 2**63, 10**400)
    return (None, True, False, rng.choice(numbers), rng.choice(words), "QUJD", rng.choice(numbers))[kind]


def _any_json(rng: random.Random) -> bytes:
    """One of the forms, with anything in it."""
    form = rng.choice(("dataframe_records", "dataframe_split", "inputs", "instances", "messages", "input"))
    body = {form: _json(rng), **({rng.choice(("params", "inputs", "x")): _json(rng, 2)} if rng.random() < 0.3 else {})}
    return json.dumps(rng.choice((body, body, body, _json(rng)))).encode()


def _table_of_anything(rng: random.Random) -> bytes:
    """Rows and columns that do not fit, or are of other types."""
    good = base64.b64encode(good_images()[1][1]).decode()
    cell = rng.choice((good, _json(rng, 2)))
    return json.dumps(
        rng.choice((
            {"dataframe_records": [{"image": cell}, {"other": cell}]}, {"dataframe_records": {"image": cell}},
            {"dataframe_records": [{"image": cell, "label": cell}] * 3}, {"dataframe_records": [[cell]]},
            {"dataframe_split": {"columns": ["image", "image"], "data": [[cell, cell]]}},
            {"dataframe_split": {"columns": ["image"], "data": [[cell, cell], []]}},
            {"dataframe_split": {"columns": cell, "index": cell, "data": [[good]]}},
            {"inputs": {"image": [cell], "other": [cell, cell]}}, {"inputs": [[[cell]]]},
            {"dataframe_records": [{"image": good}], "params": cell},
        ))
    ).encode()  # fmt: skip


def _bytes_of_a_request(rng: random.Random) -> bytes:
    content = request_of([rng.choice(good_images())[1]])
    for _ in range(rng.choice((1, 2, 4))):
        content = rng.choice((bits, bits_at_the_start, truncated, edge, moved, inserted))(rng, content)
    return content


_REQUEST_MUTATIONS = (
    _images_in_a_request, _images_in_a_request, _images_in_a_request, _text_in_a_request, _any_json, _any_json,
    _table_of_anything, _bytes_of_a_request,
)  # fmt: skip
