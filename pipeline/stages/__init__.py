"""The stages of `dvc.yaml`, one entry module each: parameters, inputs, one call into `busi`, outputs.

What several stages need is in `pipeline.runtime`; what a stage computes is in `busi`.
"""
