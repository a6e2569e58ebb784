"""Which registered version is Production and why: checks, moves, verification, lineage, reproduction.

How MLflow stores a version is in `pipeline.tracking`.
"""
