"""The network: its parts, the frozen-prefix cache, training, calibration, inference, heat maps, unknown input.

How good its answers are is in `busi.evaluation`.
"""
