"""`dvc metrics show` and `diff` fit a terminal of 100 columns; everything else stands in files of its own."""

import pytest

pytestmark = pytest.mark.slow
COLUMNS = 100


def test_metrics_fit_a_terminal(first):
    shown = first.dvc("metrics", "show")
    assert max(map(len, shown.splitlines())) <= COLUMNS
    for name in ("accuracy", "low", "high", "auroc", "sens", "val_loss"):
        assert name in shown.split()
    first.set_params({"train": {"seed": 5}})
    first.dvc("repro", "evaluate")
    difference = first.dvc("metrics", "diff")
    assert max(map(len, difference.splitlines())) <= COLUMNS
    assert "val_loss" in difference.split()
