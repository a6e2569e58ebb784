"""What a process needs to be safe: whole files, one way to end, locks, children that end with it.

Nothing here knows about stages' content, MLflow, DVC or Prefect.
"""
