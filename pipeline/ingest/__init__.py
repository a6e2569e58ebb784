"""Bringing things in from outside: data sets, backbone weights, pretraining.

What a downloaded data set must look like is decided in `busi.data`.
"""
