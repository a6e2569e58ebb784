"""Running several stages: the Prefect flow, DVC's steps, cross-validation on Dask, Kubeflow, the closing summary.

What one stage does is in `pipeline.stages`.
"""

from pipeline.paths import CACHE

CACHE.mkdir(exist_ok=True)  # Prefect makes its own folder in it when it is imported, and no folder above
