"""Commands of the pages leave the checkout as it was: what they write lies where git ignores it."""

import pytest

pytestmark = pytest.mark.slow

COMMANDS = (
    "busi promote 1 --yes --force --reason traces",
    "busi run",
    "busi data",
    "busi doctor",
    "busi summary",
    "busi versions",
    "busi history",
    "busi verify --all",
    "busi show 1",
    "busi card 1",
    "busi predict data/benign",
    "busi predict --csv data/benign",
    "busi --help",
    "dvc status",
    "dvc data status",
    "dvc dag --md",
    "dvc metrics show",
    "dvc metrics diff",
    "dvc params diff",
    "dvc diff",
    "dvc plots show",
    "dvc plots diff",
    "dvc exp show --no-pager",
    "dvc exp run --temp validate",
    "dvc exp run --queue -S split.seed=4 validate",
    "dvc queue start",
    "dvc queue status",
    "dvc queue remove --all",
    "dvc gc --workspace --force",
)


def test_commands_leave_nothing(first):
    before = first.run("git", "status", "--porcelain", "--untracked-files=all")
    left = {}
    for command in COMMANDS:
        first.run(*command.split())
        after = first.run("git", "status", "--porcelain", "--untracked-files=all")
        if after != before:
            left[command], before = after, after
    assert left == {}
