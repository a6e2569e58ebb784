"""How good a model is: metrics with intervals, slices, localization, the gate's verdict.

Arrays and tables in, numbers out; drawing them is in `busi.reporting`.
"""
