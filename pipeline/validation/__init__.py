"""Holding a data set to expectations: the suite, the Great Expectations checkpoint, its Data Docs.

What is read off an image is in `busi.data.manifest`.
"""
