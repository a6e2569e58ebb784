"""Side-by-side measurements, each run as `python -m benchmarks.NAME` in the repository root."""

import pipeline  # noqa: F401  sets the variables that libraries read, and says in one sentence which package is missing
