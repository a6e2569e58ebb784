"""The machine and its environment: Python, packages, programs, variables, disk, memory, processor, ports."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pipeline
from pipeline.doctor.finding import NOTE, OK, PROBLEM, Finding, counted, first
from pipeline.paths import ROOT
from pipeline.runtime import environment, git

PYTHONS = ((3, 11), (3, 13))  # the first and the last that requirements.lock is for
LOCK = Path("requirements.lock")
GIB = 2**30
ENVIRONMENT_GIB, RUN_GIB = 4, 1  # .venv takes 3.5; data, cache, outputs and store of the embedded set 0.7
MEMORY_GIB = 2  # the largest process of a run takes 1.6 (docs/results.md)
# Of the user's, below the home
FILES = (".config/dvc/config", ".config/dask/*.yaml", ".streamlit/config.toml", ".config/pip/pip.conf", ".pip/pip.conf")
PORTS = {4200: "make server", 5000: "make ui", 5001: "make serve", 8501: "make app"}


def python() -> Iterator[Finding]:
    found = f"Python {platform.python_version()}, {sys.executable}"
    oldest, newest = (".".join(map(str, one)) for one in PYTHONS)
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield Finding(PROBLEM, f"{found}; {oldest} to {newest} is needed", "make env PYTHON=python3.12")
    elif Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        remedy = ". .venv/bin/activate, or use the make targets" if Path(".venv/bin").is_dir() else "make env"
        yield Finding(NOTE, f"{found}, not that of .venv here", remedy)
    else:
        yield Finding(OK, found)
    if Path(".venv").is_symlink():
        yield Finding(NOTE, f".venv is a link to {Path('.venv').readlink()}", "remove the link before `make env`")
    command = shutil.which("busi")
    if command and Path(command).resolve().parent.parent != Path(sys.prefix).resolve():
        yield Finding(NOTE, f"the command `busi` is {command}, of another environment", ". .venv/bin/activate")


def packages() -> Iterator[Finding]:
    if not LOCK.is_file():
        yield Finding(PROBLEM, f"{LOCK} is missing", f"git checkout {LOCK}")
        return
    missing, different, count = [], [], 0
    for name, version in _wanted(LOCK.read_text(encoding="utf-8")):
        count += 1
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if there != version:
            different.append(f"{name} {there} (lock: {version})")
    if missing:
        yield Finding(PROBLEM, f"{len(missing)} of {count} packages missing: {first(missing)}", "make env")
    if different:
        remedy = "rm .venv/.installed && make env; until then results may differ and stores be refused"
        yield Finding(NOTE, f"{len(different)} of {count} packages at another version: {first(different)}", remedy)
    if not missing and not different:
        yield Finding(OK, f"{count} packages as {LOCK} has them")


def programs() -> Iterator[Finding]:
    for name, level, remedy in (
        ("git", NOTE, "install git: without it versions record no commit"),
        ("make", NOTE, "install make, or use the `busi` command itself"),
        ("dvc", PROBLEM, "make env, then . .venv/bin/activate"),
    ):
        if shutil.which(name) is None and not Path(sys.prefix, "bin", name).is_file():
            yield Finding(level, f"{name} is not on the PATH", remedy)
    if version := git.text("--version"):
        yield Finding(OK, version)


def variables() -> Iterator[Finding]:
    mine = pipeline.ORIGINAL_ENVIRONMENT
    if refused := environment.refusal(mine):
        what, _, remedy = " ".join(refused.split()).partition("; ")
        yield Finding(PROBLEM, what, remedy)
    ignored = [*environment.unwanted(mine), *environment.overridden(mine)]
    if ignored:
        yield Finding(NOTE, f"set but ignored: {', '.join(ignored)}", "nothing; docs/configuration.md says why")
    honoured = ("PYTHONPATH", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
                "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")  # fmt: skip
    if mine_too := [name for name in honoured if mine.get(name)]:
        yield Finding(NOTE, f"set and honoured: {', '.join(mine_too)}", "docs/configuration.md says what they decide")
    home = Path.home()
    if there := [f"~/{name}" for pattern in FILES for name in _below(home, pattern)]:
        yield Finding(
            NOTE, f"files that are honoured: {', '.join(there)}", "docs/configuration.md says what they decide"
        )
    if not ignored and not mine_too and not refused:
        yield Finding(OK, "none that changes a run")


def machine() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free / GIB
    needed = RUN_GIB + (0 if Path(".venv").is_dir() else ENVIRONMENT_GIB)
    disk = f"{free:.1f} GiB of disk free; the environment takes {ENVIRONMENT_GIB}, a run {RUN_GIB}"
    yield Finding(OK, disk) if free >= needed else Finding(PROBLEM, disk, f"make room: {needed} GiB are needed")
    import psutil

    memory = psutil.virtual_memory().available / GIB
    with contextlib.suppress(OSError, ValueError):  # the limit of a container
        limit, used = (
            int(Path("/sys/fs/cgroup", name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current")
        )
        memory = min(memory, (limit - used) / GIB)
    text = f"{memory:.1f} GiB of memory free; a run needs up to {MEMORY_GIB}"
    yield (Finding(OK, text) if memory >= MEMORY_GIB else Finding(NOTE, text, "end other programs"))
    flags = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace") if Path("/proc/cpuinfo").is_file() else ""
    )
    sets = [name for name, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f"), ("AMX", "amx_tile")) if flag in flags]
    cores = f"{counted(os.cpu_count() or 1, 'core')}, {', '.join(sets) or platform.machine()}"
    slow = flags and "avx" in flags and "avx2" not in flags
    yield (Finding(NOTE, f"{cores}, no AVX2", "a run takes several times as long") if slow else Finding(OK, cores))


def ports() -> Iterator[Finding]:
    taken = []
    for port, command in PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                taken.append((port, command))
    for port, command in taken:
        from pipeline.serving.ports import holder

        who = holder(port) or "a program of another user"
        remedy = "PORT=4300, and PREFECT_API_URL for the worker, if it is not your server" if port == 4200 else ""
        yield Finding(NOTE, f"{port} ({command}) is taken by {who}", remedy or "nothing; the next free one is taken")
    if not taken:
        yield Finding(OK, f"{', '.join(map(str, PORTS))} are free")


def _below(folder: Path, pattern: str) -> list[str]:
    return sorted(one.relative_to(folder).as_posix() for one in folder.glob(pattern))


def _wanted(lock: str) -> Iterator[tuple[str, str]]:
    """Names and versions in a lock file that are for this Python and system."""
    try:
        from packaging.markers import Marker
    except ModuleNotFoundError:
        Marker = None  # then what is for some systems only is left out
    for name, version, marker in re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)(?: *; *([^\\\n]+))?", lock, re.M):
        if not marker or (Marker is not None and Marker(marker.strip()).evaluate()):
            yield name, version
