"""The network: layers, stored features, training, calibration, inference, heat maps, out-of-distribution detection.

How good its answers are is in `busi.evaluation`.
"""
