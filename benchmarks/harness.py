"""What the measurements share: images to work on, a clone to run stages in, alternating repeats, and the record.

A row of the record is what was measured against what, the reach, the result in words, and medians with their spread.
`reports/benchmarks.json` holds the rows of one machine: those of another one go when the first is written here. A quick
run, which is for trying the scripts out, is recorded in `.cache/` instead.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import typer
from tabulate import tabulate

os.environ["TQDM_DISABLE"] = "1"  # before anything imports it: bars would run through what is printed here

from busi.data import layout
from busi.phantom.dataset import generate
from pipeline.paths import CACHE, ROOT
from pipeline.runtime.atomic_io import write_json

PLACE = CACHE / "benchmarks"
RECORD = ROOT / "reports/benchmarks.json"
QUICK_RECORD = CACHE / "benchmarks-quick.json"
REPEATS = 5

Images = Annotated[Path | None, typer.Option(help="a folder in BUSI's layout; by default phantoms, 780 of native size")]
Quick = Annotated[bool, typer.Option("--quick", help="few images and repeats, to try the script out; not recorded")]


class Ended(NamedTuple):
    """How a process ran: seconds from start to end, and the most memory it held, MiB."""

    seconds: float
    memory: float


def images(given: Path | None, count: int = 780) -> Path:
    """A folder in BUSI's layout with `dataset.json`: links to the given one's classes, or phantoms, made once."""
    folder = PLACE / (f"given-{given.name}" if given else f"phantoms-{count}")
    if (folder / layout.DATASET_FILE).is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if given:
        for label in layout.CLASSES:
            (folder / label).symlink_to((given / label).resolve())
        names = [layout.parse_name(path.name) for path in folder.glob("*/*")]
        counts = {label: len(pictures(folder / label)) for label in layout.CLASSES}
        masks = sum(name is not None and name.mask is not None for name in names)
        about = describe(given.name, False, counts, masks)
    else:
        total = sum(layout.PUBLISHED_COUNTS.values())
        counts = {label: published * count // total for label, published in layout.PUBLISHED_COUNTS.items()}
        print(f"  making {count} phantoms", flush=True)
        about = generate(folder, counts, seed=2020)
    write_json(folder / layout.DATASET_FILE, about)
    return folder


def describe(name: str, synthetic: bool, counts: dict[str, int], masks: int) -> dict:
    """What stages read in `dataset.json`."""
    return {"name": name, "synthetic": synthetic, "source": "a measurement", "counts": counts, "masks": masks}


def pictures(folder: Path) -> list[Path]:
    """The image files below a folder, without the masks, sorted."""
    names = ((path, layout.parse_name(path.name)) for path in sorted(folder.rglob("*")))
    return [path for path, name in names if name is not None and name.mask is None]


def clone(name: str, changes: dict, data: Path | None = None) -> Path:
    """A fresh clone of the last commit with other parameters, and a link to its data."""
    folder = PLACE / name
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    python(folder, "-c", f"from pipeline.params import override; override({changes})")
    if data:
        (folder / "data").symlink_to(data)
    return folder


def python(folder: Path, *arguments: str) -> Ended:
    """Run this Python in a folder; one that fails ends the measurement with its words."""
    if sys.stderr.isatty():
        print(f"  {folder.name}: python {' '.join(arguments)[:80]}", file=sys.stderr, flush=True)
    started = time.perf_counter()
    with (folder / ".git/benchmark.log").open("w+", encoding="utf-8") as log:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        ended = Ended(time.perf_counter() - started, used.ru_maxrss / 1024)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"python {' '.join(arguments)} ended with {process.returncode}\n{log.read()}")
    return ended


def busi(folder: Path, *arguments: str) -> Ended:
    """Run the command `busi` of a clone, as `python` does."""
    return python(folder, "-m", "pipeline.cli", *arguments)


def stage(folder: Path, name: str) -> Ended:
    """Run a stage of a clone, as `python` does."""
    return python(folder, "-m", f"pipeline.stages.{name}")


def environment(folder: Path) -> dict[str, str]:
    """Variables of a process in a clone: its own code, store and caches, not those of the repository."""
    servers = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "BUSI_ROOT")
    kept = {name: value for name, value in os.environ.items() if name not in servers}
    return kept | {"DVC_SITE_CACHE_DIR": str(folder / ".cache/dvc"), "PYTHONPATH": f"{folder}:{folder / 'src'}"}


def alternate(runs: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, all of them in turn, every other time in the opposite order."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs) if repeat % 2 == 0 else reversed(runs):
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
            print(f"  {name}: {seconds[name][-1]:.3g} s", flush=True)
    return seconds


def quotients(theirs: list[float], ours: list[float]) -> list[float]:
    """How many times longer theirs took, pair by pair."""
    return [one / other for one, other in zip(theirs, ours, strict=True)]


def spread(values: list[float], unit: str = "", digits: int = 3) -> str:
    """`median (least to largest)`, for people."""
    shown = [
        f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"
        for value in (median(values), min(values), max(values))
    ]
    return shown[0] + unit if len(values) == 1 else f"{shown[0]}{unit} ({shown[1]} to {shown[2]})"


def record(
    quick: bool,
    key: str,
    what: str,
    against: str,
    reach: str,
    result: str,
    met: bool | None,
    figures: dict[str, list[float]],
) -> None:
    """Put a row into the record and print it. `met` is None where nothing is to be reached."""
    path = QUICK_RECORD if quick else RECORD
    here = machine()
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = found["rows"] if found.get("machine") == here else {}
    shown = {
        name: {"median": _digits(median(of)), "min": _digits(min(of)), "max": _digits(max(of)), "n": len(of)}
        for name, of in figures.items()
    }
    rows[key] = {"what": what, "against": against, "reach": reach, "result": result, "met": met, "figures": shown}
    write_json(path, {"machine": here, "rows": rows})
    print(f"{key}: {result}; reach {reach}: {_VERDICTS[met]}", flush=True)


def machine() -> str:
    """The processor, cores, memory and the versions that decide a time."""
    information = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    names = [line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("model name")]
    flags = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in information]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    about = [names[0] if names else platform.processor(), f"{os.cpu_count()} cores", *flags, f"{gigabytes:.0f} GB"]
    version = ".".join(platform.python_version_tuple()[:2])  # what a patch release mends decides no time
    return f"{', '.join(about)}; {platform.system()}, Python {version}"


def table(quick: bool = False) -> str:
    """The record as a table in Markdown, in the order of `ROWS`."""
    found = json.loads((QUICK_RECORD if quick else RECORD).read_text(encoding="utf-8"))
    rows = [found["rows"][key] for key in ROWS if key in found["rows"]]
    cells = [[row["what"], row["against"], row["reach"], row["result"], _VERDICTS[row["met"]]] for row in rows]
    head = ["what", "against", "reach", "measured: median (least to largest)", "met"]
    return f"{found['machine']}\n\n{tabulate(cells, headers=head, tablefmt='github')}"


ROWS = (
    "cold", "cached", "fold", "batch", "one", "rest", "noop", "flow", "validate", "phantom", "start",
    "memory", "growth",
)  # fmt: skip

_VERDICTS = {True: "yes", False: "**no**", None: "–"}


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
