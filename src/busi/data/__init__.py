"""Images and data sets: layout on disk, decoding, archives, the manifest, near-duplicates, splits.

No network and no metric belongs here.
"""
