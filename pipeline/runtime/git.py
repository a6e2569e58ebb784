"""The one module that calls git. What it gives does not depend on how the user has set git up.

Plumbing commands read few settings; `OPTIONS` overrules those that they and the others read, in files and variables.
"""

import os
import subprocess
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

# A user's list of files to ignore must not hide a source file, nor a hook or a monitor run at our calls
OPTIONS = (
    *("-c", "color.ui=never"),
    *("-c", "core.excludesFile="),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.quotePath=false"),
    *("-c", "status.relativePaths=true"),
)
# `diff-index` reads no setting of how differences look, such as diff.noprefix or diff.context; these two it would run
PATCH = ("diff-index", "--patch", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-renames")

_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE")
_LOOKS = ("GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_PAGER", "GIT_TRACE")


class Checkout(Enum):
    """What the repository root is to git. The value of all but the first says what is missing and what to do."""

    WHOLE = ""
    WITHOUT_COMMIT = "no commit yet; `git commit` makes one"
    INSIDE_ANOTHER = "this folder lies inside a larger git repository; clone it by itself to have its commits recorded"
    ANOTHER_OWNER = (
        "git does not read a repository of another user; `git config --global --add safe.directory {folder}` allows it"
    )
    NO_REPOSITORY = "no git repository, such as an unpacked zip; `git clone` makes one"
    NO_GIT = "git is not installed"

    def sentence(self) -> str:
        """The value with the folder's path in it."""
        return self.value.format(folder=Path.cwd())


def call(
    *arguments: str,
    content: bytes | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run git and give its exit code and output as bytes.

    Args:
        arguments: a command and its options.
        content: for its standard input.
        folder: where to run it; the working directory without it.
        environment: variables beside those of this process.

    Raises:
        FileNotFoundError: git is not installed.
    """
    kept = {name: value for name, value in os.environ.items() if name not in (*_ELSEWHERE, *_LOOKS)}
    variables = kept | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"} | dict(environment or {})
    return subprocess.run(
        ["git", *OPTIONS, *arguments], cwd=folder, input=content, capture_output=True, check=False, env=variables
    )


def text(*arguments: str, environment: Mapping[str, str] | None = None) -> str | None:
    """What git prints, without the final newline; None when it fails or is not installed."""
    try:
        done = call(*arguments, environment=environment)
    except FileNotFoundError:
        return None
    return done.stdout.decode(errors="replace").rstrip("\n") if done.returncode == 0 else None


def state() -> Checkout:
    """What the working directory, which is to be the repository root, is to git."""
    try:
        done = call("rev-parse", "--show-toplevel")
    except FileNotFoundError:
        return Checkout.NO_GIT
    if done.returncode:
        return Checkout.ANOTHER_OWNER if b"dubious ownership" in done.stderr else Checkout.NO_REPOSITORY
    if Path(os.fsdecode(done.stdout.rstrip(b"\n"))).resolve() != Path.cwd().resolve():
        return Checkout.INSIDE_ANOTHER
    return Checkout.WHOLE if text("rev-parse", "--verify", "--quiet", "HEAD") else Checkout.WITHOUT_COMMIT
