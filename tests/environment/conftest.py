"""The workspaces of tests/pipeline, for tests of what a user's machine, settings and habits do to the commands."""

from tests.pipeline.conftest import built, first, make_workspace  # noqa: F401
from tests.pipeline.registry import (  # noqa: F401
    empty_store,
    folder_with_store,
    keras_file,
    known,
    outputs,
    with_production,
    with_two_versions,
)
