"""Side-by-side measurements, each run as `python -m benchmarks.NAME` in the repository root."""
