"""Side-by-side measurements, each run as `python -m benchmarks.NAME` in the repository root."""

import pipeline  # noqa: F401  puts src/ on the path
