"""Synthetic breast-ultrasound images in BUSI's layout, with lesion masks and BI-RADS descriptors as their truth.

`dataset` writes a whole data set and `scan` renders one image. `anatomy`, `lesion`, `physics` and `annotations` are
the parts of a scan; `shapes` and `random_fields` are what they draw with.

The same seed gives the same bytes on every processor, because everything that decides a pixel is integer arithmetic.
Scalars from `math` are rounded to 1/16 pixel or a quarter of a decibel before a pixel sees them, random fields are
`Generator.integers`, the logarithm is a table of integer thresholds, and Pillow resizes and blurs 8-bit images in
fixed point. NumPy's own exp, log, sin, power, FFT and normal variates are avoided: their last bit depends on the
processor's vector instructions.
"""
