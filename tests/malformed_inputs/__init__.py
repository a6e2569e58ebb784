"""Files that nobody should trust: seeded mutations of images, zips, folders and requests, for every reader of them.

`images`, `archives`, `folders` and `requests` give as many cases as asked for; the same seed gives the same bytes, so
that a case that failed is known by its seed and number. A mutation keeps the checksums right where a reader looks at
them first (PNG's chunks, the zip's members), or nothing behind that check would ever be reached. The heavy cases, those
that cost a careless reader gigabytes or minutes, come first.
"""

from tests.malformed_inputs.archive_files import EVIL, archives, description, directory_of, overlapping, zipped
from tests.malformed_inputs.folder_trees import folders
from tests.malformed_inputs.good_files import Case, good_images, good_set, write_set
from tests.malformed_inputs.image_files import (
    images,
    jpeg_of_scans,
    png_chunks,
    png_of,
    png_of_zeros,
    tiff_of_frames,
    tiff_of_tags,
)
from tests.malformed_inputs.request_bodies import request_of, requests

__all__ = [
    "EVIL",
    "Case",
    "archives",
    "description",
    "directory_of",
    "folders",
    "good_images",
    "good_set",
    "images",
    "jpeg_of_scans",
    "overlapping",
    "png_chunks",
    "png_of",
    "png_of_zeros",
    "request_of",
    "requests",
    "tiff_of_frames",
    "tiff_of_tags",
    "write_set",
    "zipped",
]
