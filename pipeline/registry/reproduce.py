"""Rebuild a registered version from its lineage, and compare the results.

`busi reproduce VERSION` makes a scratch worktree under `.cache/reproduce/` at the version's commit, with what was
uncommitted then and with the version's data. There `dvc repro --force` runs every stage up to `evaluate`, with a store
of its own. Then metrics and predictions, which decide the verdict, are compared with the registered ones. The working
tree and its store are only read.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml

from busi.data.layout import CLASSES
from pipeline.paths import CACHE, DATA_DVC, DATASET, DVC_FILE, METRICS, MODEL, PREDICTIONS, ROOT, WEIGHTS
from pipeline.registry import checks, lineage, names
from pipeline.runtime import git
from pipeline.runtime.atomic_io import sha256
from pipeline.runtime.errors import StageError
from pipeline.tracking import connection, logged_model, runs

FOLDER = CACHE / "reproduce"
LAST_STAGE = "evaluate"  # what is compared is there after it
SHOWN = 10  # differences that are named


def reproduce(version: int, model: str | None) -> None:
    """Rebuild a version from its commit and data in a scratch worktree, and compare.

    Args:
        version: number of a registered version.
        model: the registered model; None for that of the data set in `data/`.

    Raises:
        StageError: the version can't be rebuilt, or it comes out different; then the worktree stays for a look.
    """
    name = model or names.default_name()
    connection.connect()
    chosen = names.choose(name, version)
    with logged_model.files_of(chosen) as files:
        whole = checks.integrity(chosen, files)
        if not whole.passed:
            raise StageError(f"{name} version {version} can't be compared with: {whole.sentence}")
        evidence = ("metrics.json", "predictions.csv")
        registered = {file: (files / file).read_text(encoding="utf-8") for file in evidence}
        patch = files / lineage.UNCOMMITTED
        tree = FOLDER / f"{name}-v{version}"
        print(f"rebuilding {name} version {version} in {tree.relative_to(ROOT)}", flush=True)
        lay_out(tree, chosen.tags, patch.read_bytes() if patch.is_file() else b"")
    bring_data(tree, chosen.tags)
    for note in changed_packages(chosen.tags.get("packages", "")):
        print(f"note: {note}", flush=True)
    run(tree, "dvc", "repro", "--force", "--no-run-cache", *stages_to_run(tree))
    differences = compare(registered, tree)
    same_file = sha256(tree / MODEL) == chosen.tags.get("model_sha256")
    print(f"model file: {'the same bytes' if same_file else 'other bytes'}")
    if differences:
        lines = [f"  {line}" for line in differences[:SHOWN]]
        more = [f"  and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
        where = f"  the rebuilt version is in {tree.relative_to(ROOT)}"
        raise StageError("\n".join([f"{name} version {version} comes out different", *lines, *more, where]))
    remove(tree)
    print(f"{name} version {version}: identical metrics and predictions")


def stages_to_run(tree: Path) -> list[str]:
    """The stages of that commit's `dvc.yaml` up to `LAST_STAGE`; DVC runs what they need in order.

    Raises:
        StageError: that commit has no such stage.
    """
    stages = list(yaml.safe_load((tree / DVC_FILE).read_text(encoding="utf-8"))["stages"])
    if LAST_STAGE not in stages:
        raise StageError(f"{DVC_FILE} of that commit has the stages {', '.join(stages)}; expected {LAST_STAGE}")
    return stages[: stages.index(LAST_STAGE) + 1]


def lay_out(tree: Path, tags: Mapping[str, str], patch: bytes) -> None:
    """Make the worktree at the version's commit, with what was uncommitted then.

    Raises:
        StageError: the version has no commit, or the commit is not here.
    """
    commit = tags.get("commit", lineage.NOT_RECORDED)
    if not lineage.is_commit(commit):
        raise StageError(f"this version was registered without a commit ({commit}), so it can't be rebuilt")
    if (checkout := git.state()) is not git.Checkout.WHOLE:
        raise StageError(f"this version can't be rebuilt here: {checkout.sentence()}")
    if git.call("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        shallow = git.text("rev-parse", "--is-shallow-repository") == "true"
        fetch = "git fetch --unshallow" if shallow else f"git fetch {tags.get('remote', 'its remote')}"
        raise StageError(f"commit {commit} is not in this repository\n  get it with `{fetch}`")
    remove(tree)
    tree.parent.mkdir(parents=True, exist_ok=True)
    # The commit's bytes, whatever line ends git is set to make
    _git("-c", "core.autocrlf=false", "worktree", "add", "--detach", str(tree), commit)
    if patch:
        _git("-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "-", content=patch, folder=tree)
    weights = tags.get("weights", "none")
    if not (tree / WEIGHTS / weights).is_file():  # not in git, as ImageNet's
        here = ROOT / WEIGHTS / weights
        if lineage.md5(here) != tags.get("weights_md5"):
            md5 = tags.get("weights_md5")
            raise StageError(f"{WEIGHTS}/{weights} with md5 {md5} is not here\n  `busi weights` fetches ImageNet's")
        shutil.copyfile(here, tree / WEIGHTS / weights)
    # The cache is shared: it holds the data, and what comes out the same takes no room twice. Its path is relative,
    # because DVC's configuration does not take every sign that a folder above may have in its name
    run(tree, "dvc", "cache", "dir", "--local", os.path.relpath(ROOT / ".dvc" / "cache", tree))


def bring_data(tree: Path, tags: Mapping[str, str]) -> None:
    """Bring the version's data: from DVC's cache, from its remote, or, for the embedded set, by making it anew.

    Raises:
        StageError: none of these has it.
    """
    named = data_version(tree)
    wanted = tags.get("data_md5")
    if named != wanted:
        raise StageError(
            f"{DATA_DVC} of commit {tags['commit']} names version {named}, the registered version {wanted}"
        )
    ways = [("dvc", "checkout", str(DATA_DVC)), ("dvc", "pull", str(DATA_DVC))]
    if tags.get("synthetic") == "true":
        ways.append(make_phantoms(tree))
    for way in ways:
        done = subprocess.run(
            way, cwd=tree, env=environment(tree), capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if done.returncode == 0 and (tree / DATASET).is_file():
            break
    else:
        raise StageError(
            f"data version {wanted} is neither in DVC's cache nor in a remote\n"
            "  bring that data in once with `busi data SOURCE`, or add the remote that holds it with `make remote`"
        )
    found = data_version(tree)
    if found != wanted:
        raise StageError(f"the data set came out as version {found}, not {wanted}: another processor or environment")


def data_version(tree: Path) -> str:
    """The md5 of the data set that the worktree's `data.dvc` names."""
    return yaml.safe_load((tree / DATA_DVC).read_text(encoding="utf-8"))["outs"][0]["md5"]


def make_phantoms(tree: Path) -> tuple[str, ...]:
    """The command of that commit that makes the embedded data set."""
    module = ("pipeline.cli", "data") if (tree / "pipeline" / "cli.py").is_file() else ("pipeline.data",)
    return (sys.executable, "-m", *module, "phantom")


def compare(registered: Mapping[str, str], tree: Path) -> list[str]:
    """Where the rebuilt metrics and predictions differ from the registered ones; empty when they do not."""
    before, after = json.loads(registered["metrics.json"]), json.loads((tree / METRICS).read_text(encoding="utf-8"))
    before, after = runs.flat(before), runs.flat(after)
    differences = [
        f"{name}: registered {before.get(name, 'missing')}, rebuilt {after.get(name, 'missing')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    rebuilt = (tree / PREDICTIONS).read_text(encoding="utf-8")
    if rebuilt != registered["predictions.csv"]:
        differences.append(difference_of_predictions(registered["predictions.csv"], rebuilt))
    return differences


def difference_of_predictions(registered: str, rebuilt: str) -> str:
    """How two different contents of predictions.csv differ, in one line."""
    before, after = (pd.read_csv(io.StringIO(text)).set_index("path") for text in (registered, rebuilt))
    if list(before.index) != list(after.index):
        common = len(before.index.intersection(after.index))
        return f"predictions: of {len(before)} and {len(after)} test images, {common} in common"
    other = int((before["predicted"] != after["predicted"]).sum())
    gap = float((before[list(CLASSES)] - after[list(CLASSES)]).abs().to_numpy().max())
    return f"predictions: {other} of {len(before)} images in another class, probabilities differ by up to {gap:.2g}"


def changed_packages(recorded: str) -> list[str]:
    """What packages had other versions at registration than now."""
    then = dict(part.rsplit(" ", 1) for part in recorded.split(", ") if " " in part)
    now = dict(part.rsplit(" ", 1) for part in lineage.packages().split(", "))
    return [
        f"{name} was {version} at registration and is {now.get(name, 'missing')} now"
        for name, version in then.items()
        if now.get(name) != version
    ]


def environment(tree: Path) -> dict[str, str]:
    """The variables of a command in the worktree: its own code, store and caches, this environment's programs."""
    others = ("MLFLOW_", "DVC_", "GIT_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'src'}",  # before the repository that is installed
        "DVC_SITE_CACHE_DIR": str(tree / ".cache" / "dvc"),
        "DVC_NO_ANALYTICS": "1",
    }


def run(tree: Path, *command: str) -> None:
    """Run a command in the worktree; what it prints goes to the terminal."""
    code = subprocess.run(command, cwd=tree, env=environment(tree), check=False).returncode
    if code:
        raise StageError(
            f"`{' '.join(command)}` ended with {code}; its message is above\n"
            f"  the worktree stays for a look: {tree.relative_to(ROOT)}"
        )


def remove(tree: Path) -> None:
    """Remove a worktree, also what a killed process left of one."""
    git.call("worktree", "remove", "--force", str(tree), folder=ROOT)
    shutil.rmtree(tree, ignore_errors=True)
    _git("worktree", "prune")


def _git(*arguments: str, content: bytes | None = None, folder: Path = ROOT) -> None:
    done = git.call(*arguments, content=content, folder=folder)
    if done.returncode:
        raise StageError(f"`git {' '.join(arguments)}` failed: {done.stderr.decode(errors='replace').strip()}")
