"""What produced a model: code, data, split, parameters, weights and packages, as text that fits a tag.

Every value is a string. A value that can't be known says so: a version always tells whether there was a commit, a
remote or an uncommitted change.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import tempfile
from pathlib import Path

import yaml

from pipeline.dataset import read_dataset
from pipeline.paths import DATA_DVC, DVC_FILE, DVC_LOCK, PARAMS, SPLIT, WEIGHTS
from pipeline.runtime import git
from pipeline.runtime.errors import StageError

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "pillow", "scikit-learn", "mlflow", "dvc")

RUN_WRITES = (f":(exclude){DVC_LOCK}", ":(exclude)reports")
FIELDS = (
    "commit", "tree", "remote", "data_set", "synthetic", "data_md5", "split_md5", "params_md5", "dvc_lock_md5",
    "weights", "weights_md5", "packages",
)  # fmt: skip
NAMED = 5  # changed files that are named
# What decides a run and is in git: where it differs from the commit, a rebuild needs the difference
DECIDES = (*map(str, (DVC_FILE, PARAMS, DATA_DVC)), "pipeline", "src", str(WEIGHTS))

UNCOMMITTED = "uncommitted.patch"  # the name of `uncommitted()`'s file beside a registered model
NOT_RECORDED = "not recorded"


def collect(weights: str) -> dict[str, str]:
    """The lineage of the files in the working directory, the repository root.

    Args:
        weights: `featurize.weights`, `none` or the name of a file under `weights/`.

    Returns:
        One text for each of `FIELDS`.
    """
    data = read_dataset()
    return {
        **_code(),
        "data_set": data["name"],
        "synthetic": str(data["synthetic"]).lower(),
        "data_md5": _data_md5(),
        "split_md5": md5(SPLIT),
        "params_md5": md5(PARAMS),
        "dvc_lock_md5": lock_md5(DVC_LOCK),
        "weights": weights,
        "weights_md5": _weights_md5(weights),
        "packages": packages(),
    }


def of_evaluation(weights: str) -> dict[str, str]:
    """The part of the lineage that follows from the declared inputs of stage `report`, so that its page may show it."""
    data = read_dataset()
    return {
        "data_set": data["name"],
        "data_source": str(data.get("source", NOT_RECORDED)),
        "data_md5": _data_md5(),
        "split_md5": md5(SPLIT),
        "weights": weights,
        "weights_md5": _weights_md5(weights),
        "packages": _locked(),
    }


def packages() -> str:
    """`name version, ...` of Python and of the packages that decide what comes out."""
    return f"python {platform.python_version()}, {_locked()}"


def uncommitted() -> str:
    """What decides a run and differs from the commit, as a patch that `git apply` takes; empty when nothing does.

    New files are in it. Files that decide nothing are not: they may hold what should not leave this machine.

    Raises:
        StageError: git can't apply the patch to the commit, or it is not UTF-8, so that nobody could rebuild the
            version from it.
    """
    if git.state() is not git.Checkout.WHOLE:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        # An index of its own: the user's staged changes are left as they are
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git.call("read-tree", "HEAD", environment=index)
        present = [path for path in DECIDES if Path(path).exists()]
        git.call("add", "--all", "--", *present, environment=index)
        patch = git.call(*git.PATCH, "--cached", "HEAD", "--", *DECIDES, environment=index).stdout
        git.call("read-tree", "HEAD", environment=index)
        tried = git.call("apply", "--cached", "--check", "-", content=patch, environment=index) if patch else None
    try:
        if tried is not None and tried.returncode:
            raise ValueError(tried.stderr.decode(errors="replace").strip())
        return patch.decode("utf-8")
    except ValueError as error:
        raise StageError(
            f"what differs from the commit can't be kept as a patch, so the version could not be rebuilt: {error}\n"
            "  commit the changes, and repeat"
        ) from error


def md5(path: Path) -> str:
    """The md5 of a file as DVC writes it, or `not recorded` where there is no such file."""
    if not path.is_file():
        return NOT_RECORDED
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lock_md5(path: Path) -> str:
    """The md5 of `dvc.lock` without its `register` stage, which DVC adds only after registration has read the file.

    So it is the same during the run that registers as after it. The md5 is of the rest as JSON with sorted keys.
    """
    if not path.is_file():
        return NOT_RECORDED
    lock = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    lock.get("stages", {}).pop("register", None)
    return hashlib.md5(json.dumps(lock, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def is_commit(recorded: str) -> bool:
    """Whether a version's tag `commit` names one; else it says why it does not."""
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", recorded) is not None


def without_credentials(url: str) -> str:
    """A remote's URL without user name, password or token.

    >>> without_credentials("https://me:secret@host/team/busi.git")
    'https://host/team/busi.git'
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url  # a path, or user@host:path, which has no place for a password
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    kept = f"{user.partition(':')[0]}{at}" if scheme == "ssh" else ""
    return f"{scheme}://{kept}{host}{slash}{path.partition('?')[0]}"


def _locked() -> str:
    """`name version, ...` of `PACKAGES`: requirements.lock decides these, but not the version of Python."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def _code() -> dict[str, str]:
    checkout = git.state()
    if checkout is git.Checkout.WHOLE or checkout is git.Checkout.WITHOUT_COMMIT:
        commit = git.text("rev-parse", "--verify", "--quiet", "HEAD") or f"{NOT_RECORDED}: {checkout.sentence()}"
        return {"commit": commit, "tree": _tree(), "remote": _remote()}
    return {"commit": f"{NOT_RECORDED}: {checkout.sentence()}", "tree": NOT_RECORDED, "remote": NOT_RECORDED}


def _tree() -> str:
    """`clean`, or what differs from the commit. What a run itself writes (`dvc.lock`, `reports/`) is not a change."""
    listed = git.text("status", "--porcelain", "-z", "--no-renames", "--untracked-files=normal", "--", ".", *RUN_WRITES)
    if listed is None:
        return NOT_RECORDED
    changed = sorted(entry[3:] for entry in listed.split("\0") if entry)
    if not changed:
        return "clean"
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return f"uncommitted changes: {', '.join(changed[:NAMED])}{more}"


def _remote() -> str:
    names = (git.text("remote") or "").split()
    if not names:
        return "none"
    name = "origin" if "origin" in names else names[0]
    return without_credentials(git.text("config", "--get", f"remote.{name}.url") or "none")


def _data_md5() -> str:
    """The md5 that DVC gives `data/`, as `data.dvc` has it."""
    if not DATA_DVC.is_file():
        return NOT_RECORDED
    outs = (yaml.safe_load(DATA_DVC.read_text(encoding="utf-8")) or {}).get("outs") or [{}]
    return str(outs[0].get("md5", NOT_RECORDED))


def _weights_md5(weights: str) -> str:
    """The md5 of a file under `weights/`, or `none` for random weights."""
    if weights == "none":
        return "none"
    path = Path(weights)
    return md5(path if path.parts[0] == WEIGHTS.name else WEIGHTS / path)
