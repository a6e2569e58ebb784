"""Running several stages: the Prefect flow, DVC's steps, cross-validation on Dask, Kubeflow, the closing summary.

What one stage does is in `pipeline.stages`.
"""
