"""Fetch the ImageNet weights of DenseNet121 into weights/: `busi weights`."""

from pipeline.paths import WEIGHTS
from pipeline.runtime.errors import StageError

# keras.applications' own address and file hash (keras/src/applications/densenet.py)
URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/densenet/"
    "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
MD5 = "30ee3e1110167f948a6b9946edeeb738"
FILE = WEIGHTS / "densenet121_imagenet_notop.h5"


def fetch() -> None:
    """Download the file, unless it is there and has the right hash, and say how to use it.

    Raises:
        StageError: it could not be had, or has another hash; nothing was kept.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        # Downloads beside the target, checks the hash, then renames; a file that is there and right stays
        pooch.retrieve(
            URL,
            known_hash=f"md5:{MD5}",
            fname=FILE.name,
            path=FILE.parent,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
        )
    # A wrong hash is a ValueError; requests' errors are OSErrors
    except (ValueError, OSError) as error:
        raise StageError(
            f"the ImageNet weights could not be fetched from {URL}; nothing was kept\n  {error}"
        ) from error
    print(f"weights: {FILE}\n  use them: set featurize.weights to {FILE.name} in params.yaml, then dvc repro")
