"""What a process needs to be safe: files written whole, one way to end, locks, children that end with it.

Nothing here knows what a stage computes, or talks to MLflow or Prefect.
"""
