"""Malformed files through every reader: `python -m tests.fuzz`, or `make fuzz`.

Each target reads cases of `tests.malformed_inputs` in a process of its own. It must take each one, or refuse it with a
ValueError or StageError that names it, within `SECONDS` of processor time, with at most `MEGABYTES` more memory than
before, and without writing outside its folder. A process that hangs or crashes is replaced and counts as a failure.
With atheris installed (`make fuzz` does that) a search guided by coverage follows, on the image reader and on the
archive reader.

Another reader becomes a target by one function and one line in `TARGETS`.

A failure is repeated by `python -m tests.fuzz --target image --seed 1 --first 17 --count 1`.
"""

import argparse
import contextlib
import faulthandler
import functools
import html
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from busi.data import archive, duplicates, images, manifest, measures, validation_table
from busi.data.layout import CLASSES
from pipeline.runtime.atomic_io import write_json
from pipeline.runtime.errors import StageError
from tests import malformed_inputs

SECONDS = 10
HANG_SECONDS = 300  # by the clock, which other processes slow down: what waits uses no processor time
MEGABYTES = 1024
CASES = {
    "image": 1200, "manifest": 300, "served": 400, "predict": 300, "app": 200, "endpoint": 400, "archive": 800,
    "data": 300, "folder": 200, "predicted folder": 200,
}  # fmt: skip
SMALLER = 8  # the part of these that `make test` runs


class Result(NamedTuple):
    """What became of one case; `fault` is empty when all is well."""

    number: int
    what: str
    outcome: str
    seconds: float
    megabytes: float
    fault: str


def read_image(case: malformed_inputs.Case, place: Path) -> None:
    """As `validate` reads one image, without the processes."""
    path = place / case.name
    path.write_bytes(case.content)
    image = images.read_image(path, case.name)
    gray = images.to_gray(image)
    measures.looks_annotated(image, gray)
    duplicates.fingerprint(gray)
    images.prepare(image, 128)


def read_set(case: malformed_inputs.Case, place: Path) -> None:
    """As `validate` reads a data set: what is refused becomes a problem that names the file."""
    malformed_inputs.write_set(place)
    (place / "benign" / case.name).write_bytes(case.content)
    table, problems = manifest.build_manifest(place, workers=1)
    validation_table.validation_table(table, problems, dict.fromkeys(CLASSES, 2), 6)
    if problems:
        raise ValueError("; ".join(f"{problem.path}: {problem.reason}" for problem in problems))
    if f"benign/{case.name}" not in set(table["path"]):
        raise AssertionError("neither a row nor a problem")


def serve(case: malformed_inputs.Case, place: Path) -> None:
    """As the registered model reads an image."""
    [row] = _classifier().predict([case.content]).to_dict(orient="records")
    if not row["accepted"]:
        raise ValueError(f"{case.name}: {row['reason'] or row['probabilities']}")
    if not abs(sum(row["probabilities"].values()) - 1) < 1e-6:
        raise AssertionError(f"probabilities {row}")


def predict_file(case: malformed_inputs.Case, place: Path) -> None:
    """As `busi predict PATH` reads a file and prints what is said of it, in each of its three ways."""
    path = place / case.name
    path.write_bytes(case.content)
    _predict([path])


def ask_app(case: malformed_inputs.Case, place: Path) -> None:
    """The app's whole page after an upload, on a model of three weights and without a registry."""
    page = _page()
    page.file_uploader[0].set_value([(case.name, case.content, "image/png")])
    page.run(timeout=HANG_SECONDS)
    if page.exception or page.error:
        raise AssertionError(f"on the page: {[*page.exception, *page.error]}")
    text = html.unescape(" ".join(element.proto.body for element in page.get("html")))
    name = images.printable(case.name)
    if name not in text:
        raise AssertionError(f"{name} is not on the page")
    if "Not classified" in text:
        raise ValueError(f"{name}: {text[text.index('Not classified') :][:500]}")


def ask_endpoint(case: malformed_inputs.Case, place: Path) -> None:
    """One request to the scoring server as `pipeline.serving.serve` has it, through all but the socket."""
    answer = endpoint().post("/invocations", content=case.content, headers={"Content-Type": "application/json"})
    if "Traceback" in answer.text or 'File \\"' in answer.text:
        raise AssertionError(f"a traceback: {answer.text[:500]}")
    if answer.status_code == 200:
        reasons = [row["reason"] for row in answer.json()["predictions"] if not row["accepted"]]
    elif answer.status_code in (400, 413) and set(answer.json()) == {"error_code", "message"}:
        reasons = [answer.json()["message"]]
    else:
        raise AssertionError(f"status {answer.status_code}: {answer.text[:500]}")
    if reasons:
        if not all(reasons):
            raise AssertionError(f"no reason: {answer.text[:500]}")
        raise ValueError(f"{case.name}: {reasons[0]}")


def take_archive(case: malformed_inputs.Case, place: Path) -> None:
    inner = place / "a" / "b"
    inner.mkdir(parents=True)
    (inner / case.name).write_bytes(case.content)
    try:
        archive.collect(inner / case.name, inner / "out")
    finally:
        _require_inside(place, inner / "out", inner / case.name)


def take_data(case: malformed_inputs.Case, place: Path) -> None:
    """As `busi data PATH` collects a set, before the swap."""
    from pipeline.ingest import sources

    inner = place / "a" / "b"
    inner.mkdir(parents=True)
    (inner / case.name).write_bytes(case.content)
    try:
        description, _, _ = sources.collect(str(inner / case.name), inner / "out")
        write_json(inner / "out" / "dataset.json", description)
    finally:
        _require_inside(place, inner / "out", inner / case.name)


def take_folder(case: Callable[[Path], None], place: Path) -> None:
    """A folder as source, and the same folder in the place of `data/`."""
    source = place / "source"
    source.mkdir()
    case(source)
    before = set(place.rglob("*"))
    table, problems = manifest.build_manifest(source, workers=1)
    validation_table.validation_table(table, problems, dict.fromkeys(CLASSES, 2), 6)
    try:
        archive.collect(source, place / "out")
    finally:
        for path in set(place.rglob("*")) - before:
            if not path.is_relative_to(place / "out"):
                raise AssertionError(f"{path} was written")


def predict_folder(case: Callable[[Path], None], place: Path) -> None:
    """The same of a folder; each image file in it, and what is named like one, has its row."""
    source = place / "source"
    source.mkdir()
    case(source)
    _predict([source])


TARGETS = {
    "image": (read_image, malformed_inputs.images),
    "manifest": (read_set, malformed_inputs.images),
    "served": (serve, malformed_inputs.images),
    "predict": (predict_file, malformed_inputs.images),
    "app": (ask_app, malformed_inputs.images),
    "endpoint": (ask_endpoint, malformed_inputs.requests),
    "archive": (take_archive, malformed_inputs.archives),
    "data": (take_data, malformed_inputs.archives),
    "folder": (take_folder, malformed_inputs.folders),
    "predicted folder": (predict_folder, malformed_inputs.folders),
}


def results(target: str, seed: int, first: int, count: int, heavy: bool = True) -> Iterator[Result]:
    """Run cases `first` to `first + count` of a target in this process."""
    read, make = TARGETS[target]
    _warm_up(target)
    made = make(seed, first + count) if make is malformed_inputs.folders else make(seed, first + count, heavy)
    for number, case in islice(enumerate(made), first, None):
        name = case[1] if isinstance(case, malformed_inputs.Case) else "source"
        with tempfile.TemporaryDirectory() as folder:
            before, started, outcome, fault = megabytes(reset=True), time.process_time(), "taken", ""
            try:
                read(case if isinstance(case, malformed_inputs.Case) else case[1], Path(folder))
            except (ValueError, StageError) as error:
                outcome, text = "refused", str(error)
                if not any(word in text for word in (images.printable(name), "image 0: ", ".png: ")):
                    fault = f"does not name {name!r}: {text[:300]}"
                elif type(error) not in (ValueError, StageError) or len(text) > 20_000 or "\x1b" in text:
                    fault = f"{type(error).__name__}: {text[:300]}"
            except BaseException as error:  # whatever it is, it is the finding
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome, fault = "failed", f"{type(error).__name__}: {str(error)[:300]}"
            seconds, grown = time.process_time() - started, megabytes() - before
        if not fault and seconds > SECONDS:
            fault = f"took {seconds:.1f} s"
        if not fault and grown > MEGABYTES:
            fault = f"took {grown:.0f} MB"
        yield Result(number, case[0] if isinstance(case, tuple) else "", outcome, seconds, grown, fault)


def watched(target: str, seed: int, first: int, count: int) -> Iterator[Result]:
    """The same in processes of their own, a new one after each that hung or crashed."""
    end = first + count
    while first < end:
        words = ("--target", target, "--seed", str(seed), "--first", str(first), "--count", str(end - first), "--child")
        command = [sys.executable, "-m", "tests.fuzz", *words]
        with (
            tempfile.TemporaryFile("w+") as errors,  # a pipe would fill up
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
        ):
            for line in child.stdout:
                found = Result(*json.loads(line))
                first = found.number + 1
                yield found
            child.wait()
            errors.seek(0)
            noise = errors.read()
        if child.returncode:
            yield Result(first, "", "failed", SECONDS, 0, f"the process ended with {child.returncode}: {noise[-600:]}")
            first += 1


def guided(target: str, seconds: int, corpus: Path) -> None:
    """Search for inputs that reach new code (atheris); stops with a traceback at a finding, which stays in `corpus`."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "zipfile", "busi"]):
        import zipfile

        from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
    for module in (BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, zipfile, archive, images):
        for value in list(vars(module).values()):
            if getattr(value, "__module__", None) == module.__name__:
                _instrument(atheris, value)
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = (
        malformed_inputs.good_images()
        if target == "image"
        else [("set", malformed_inputs.zipped(malformed_inputs.good_set()))]
    )
    for number, (_, content) in enumerate(seeds):
        (corpus / f"seed {number}").write_bytes(content)
    read = TARGETS[target][0]

    def one(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                read(malformed_inputs.Case("", "case.png" if target == "image" else "case.zip", content), Path(folder))
            except ValueError as error:
                if type(error) is not ValueError or "case" not in str(error):
                    raise RuntimeError(f"{type(error).__name__}, {error}") from error

    warnings.simplefilter("ignore")
    options = (f"-max_total_time={seconds}", f"-timeout={SECONDS}", "-rss_limit_mb=2048", "-max_len=40000")
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus}/finding-", str(corpus)], one)
    atheris.Fuzz()


def _warm_up(target: str) -> None:
    """The imports and the first graph, which are no cost of the first case."""
    good = malformed_inputs.good_images()[1][1]
    if target in ("served", "predict", "app", "predicted folder"):
        serve(malformed_inputs.Case("", "warm.png", good), Path())
    if target == "app":
        with contextlib.suppress(ValueError):
            ask_app(malformed_inputs.Case("", "warm.png", good), Path())
    if target == "endpoint":
        ask_endpoint(
            next(iter(malformed_inputs.requests(0, 1, heavy=False)))._replace(
                content=malformed_inputs.request_of([good])
            ),
            Path(),
        )


@functools.cache
def _classifier():
    """What serves, on a network of three weights that takes every image for one that it knows."""
    import keras
    import numpy as np

    from busi.model.ood_detection import OodDetector
    from busi.serving import ImageClassifier

    pixels = keras.Input((32, 32, 3))
    # The layers that serving and the heat map look at, by DenseNet121's names
    found = keras.layers.Rescaling(1 / 255, name="conv1_relu")(pixels)
    found = keras.layers.AveragePooling2D(2, name="pool2_pool")(found)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU(name="relu")(found))
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", name="head")(pooled))
    return ImageClassifier(model, OodDetector(np.zeros(12), np.eye(12), 1e30), "tiny/1")


def _predict(paths: list[Path]) -> None:
    from pipeline.serving import predict

    files = predict.find(paths)
    rows = list(predict.classify(_classifier(), files, tqdm(disable=True)))
    said = [json.dumps(rows, ensure_ascii=False), predict.flatten(rows).to_csv(index=False), predict.as_table(rows)]
    for text in said:
        text.encode("utf-8", "backslashreplace")  # as it is printed
    if [row["path"] for row in rows] != [str(path) for path in files]:
        raise AssertionError(f"rows of {[row['path'] for row in rows]}")
    refused = [row for row in rows if not row["accepted"]]
    if not all(row["reason"] for row in refused):
        raise AssertionError(f"no reason: {refused}")
    if refused:
        raise ValueError("; ".join(f"{images.printable(row['path'])}: {row['reason']}" for row in refused))


@functools.cache
def _page():
    """The app's page, with a model in the place of the Production one."""
    from types import SimpleNamespace

    import pandas as pd
    from streamlit.testing.v1 import AppTest

    from pipeline.registry import production
    from pipeline.serving.app_command import SCRIPT
    from pipeline.tracking import versions
    from tests.pipeline.registry import make_metrics

    table = pd.DataFrame({"label": ["benign"], "predicted": ["benign"], "benign": 0.9, "malignant": 0.1, "normal": 0})
    found = SimpleNamespace(
        name="tiny", version="1", classifier=_classifier(), card="# A card", gate={"verdict": "passed", "rules": []},
        metrics=make_metrics(), predictions=table,
    )  # fmt: skip
    versions.production_version = lambda name: "1"
    production.load = lambda name: found
    sys.argv[1:] = ["--model", "tiny"]
    return AppTest.from_file(str(SCRIPT)).run(timeout=HANG_SECONDS)


@functools.cache
def endpoint():
    """A client of the scoring server on a model folder as it is registered."""
    from starlette.testclient import TestClient

    from pipeline.serving import serve
    from pipeline.tracking import bundle, logged_model

    place = Path(_scratch().name)
    _classifier().model.save(place / "model.keras")
    _classifier().ood_detector.save(place / "novelty.npz")
    parts = logged_model.Parts(place / "model.keras", place / "novelty.npz", bundle.collect(), evidence={})
    logged_model.write_model(place / "made" / "model", parts, None, None, "model")
    return TestClient(serve.limited(logged_model.scoring_app(place / "made" / "model")), raise_server_exceptions=False)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def _require_inside(place: Path, out: Path, source: Path) -> None:
    written = [path for path in place.rglob("*") if not path.is_dir() or path.is_symlink()]
    outside = [path for path in written if path != source and not path.is_relative_to(out)]
    strange = [path for path in written if path.is_symlink() or not path.is_file()]
    if outside or strange or Path("/", malformed_inputs.EVIL).exists():
        raise AssertionError(f"written: {[*outside, *strange]}")


def megabytes(reset: bool = False) -> float:
    """MB in use now, after setting the peak back to it; or the peak since then. Linux."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    word = "VmRSS:" if reset else "VmHWM:"
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(word))


def _instrument(atheris, value: object) -> None:
    import types

    members = vars(value).values() if isinstance(value, type) else [value]
    for member in members:
        if isinstance(member, types.FunctionType):
            atheris.instrument_func(member)


def _child(target: str, seed: int, first: int, count: int) -> None:
    said = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what a reader prints is none of the results
        for found in results(target, seed, first, count):
            print(json.dumps(found), flush=True, file=said)
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)  # of the next one, its making included


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--guided", type=int, metavar="SECONDS", help="search by coverage, with atheris, for so long")
    parser.add_argument("--corpus", type=Path, default=Path(".cache/fuzz"))
    asked = parser.parse_args()
    if asked.child:
        return _child(asked.target, asked.seed, asked.first, asked.count)
    if asked.guided and asked.target:
        return guided(asked.target, asked.guided, asked.corpus / asked.target)
    failed = 0
    for target in [asked.target] if asked.target else TARGETS:
        count = asked.count or CASES[target]
        found = list(tqdm(watched(target, asked.seed, asked.first, count), target, count, unit="case", disable=None))
        outcomes = Counter(result.outcome for result in found)
        slowest, largest = (max(found, key=lambda result: getattr(result, key)) for key in ("seconds", "megabytes"))
        print(
            f"{target}: {len(found)} cases, seed {asked.seed}; "
            f"{outcomes['taken']} taken, {outcomes['refused']} refused; "
            f"slowest {slowest.seconds:.1f} s ({slowest.what}), most memory {largest.megabytes:.0f} MB "
            f"({largest.what})",
            flush=True,
        )
        for result in found:
            if result.fault:
                failed += 1
                print(f"FAILED {target} --first {result.number} ({result.what}): {result.fault}", flush=True)
    if asked.guided and importlib.util.find_spec("atheris"):
        for target in ("image", "archive"):
            words = ("--target", target, "--guided", str(asked.guided), "--corpus", str(asked.corpus))
            failed += subprocess.run([sys.executable, "-m", "tests.fuzz", *words], check=False).returncode != 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
