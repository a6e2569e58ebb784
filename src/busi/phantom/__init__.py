"""Synthetic breast-ultrasound images in BUSI's layout, with masks and BI-RADS descriptors as their truth.

How pretraining views them is in `busi.pretraining`.
"""
