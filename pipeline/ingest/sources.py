"""Where a data set comes from: generated, downloaded, or a zip or folder that the user has. Every image is decoded."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from busi.data import archive
from busi.data.arrangement import name_fault
from busi.data.layout import CLASSES, DATASET_FILE, PUBLISHED_COUNTS
from pipeline.params import read_params
from pipeline.runtime.errors import StageError

DOWNLOADS = Path(".cache/pooch")
FAULTS_SHOWN = 10

EMBEDDED, BUSI, KAGGLE = "phantom", "busi", "kaggle"  # every other source is a path
BUSI_URL = "https://scholar.cu.edu.eg/Dataset_BUSI.zip"
BUSI_SHA256 = "b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7"
BUSI_DOI = "10.1016/j.dib.2019.104863"
BUSI_LICENCE = "CC BY 4.0"
KAGGLE_SET = "aryashah2k/breast-ultrasound-images-dataset"

OTHER_WAYS = "other ways: `busi data {other}`, or `busi data PATH` with a zip or folder"


def is_path(source: str) -> bool:
    """Whether a source is a path of the user's and not the name of one that is known."""
    return source not in (EMBEDDED, BUSI, KAGGLE)


def collect(source: str, folder: Path) -> tuple[dict, tuple[str, ...], list[str]]:
    """Bring a data set into `folder`, one folder a class, and decode every file of it.

    Args:
        source: phantom, busi, kaggle, or a path to a zip or folder.
        folder: made here.

    Returns:
        The content of `dataset.json`; the names of files that no data set needs, which were left out; and notes for
        the user.

    Raises:
        StageError, ValueError, OSError: the text says what was wrong with the source.
    """
    if source == EMBEDDED:
        return _generate(folder), (), []
    if source == BUSI:
        return _take_busi(_download_busi(), BUSI_URL, folder)
    if source == KAGGLE:
        return _take_busi(_download_kaggle(), f"Kaggle {KAGGLE_SET}", folder)
    path = Path(source).expanduser()
    if not path.exists():
        raise StageError(f"{source!r} is not there\n  SOURCE is phantom, busi, kaggle, or a path to a zip or folder")
    taken = archive.collect(path.resolve(), folder)
    _require_readable(folder)
    description = taken.description or _describe_local(path.resolve())
    return description | {"counts": taken.counts, "masks": taken.masks}, taken.ignored, []


def _generate(folder: Path) -> dict:
    from busi.phantom.dataset import generate

    wanted = read_params().data.phantom
    return generate(folder, {label: getattr(wanted, label) for label in CLASSES}, wanted.seed)


def _take_busi(path: Path, where: str, folder: Path) -> tuple[dict, tuple[str, ...], list[str]]:
    taken = archive.collect(path, folder)
    _require_readable(folder)
    description = {
        "name": BUSI,
        "synthetic": False,
        "source": f"doi:{BUSI_DOI}, {where}",
        "licence": BUSI_LICENCE,
        "counts": taken.counts,
        "masks": taken.masks,
    }
    notes = [] if taken.counts == PUBLISHED_COUNTS else [f"BUSI as published has {PUBLISHED_COUNTS}"]
    return description, taken.ignored, notes


def _require_readable(folder: Path) -> None:
    """Decode every file, so that no set with a damaged image takes the place of a good one.

    Raises:
        StageError: names the files that cannot be read, with the reason for each.
    """
    from busi.data.images import read_image

    def fault(name: str) -> str | None:
        try:
            read_image(folder / name, name)
        except ValueError as error:
            return str(error)
        return None

    names = sorted(file.relative_to(folder).as_posix() for label in CLASSES for file in (folder / label).iterdir())
    with ThreadPoolExecutor() as pool:
        checked = tqdm(pool.map(fault, names), total=len(names), desc="decode", unit="file", mininterval=1)
        faults = [found for found in checked if found]
    if faults:
        more = [f"and {len(faults) - FAULTS_SHOWN} more"] if len(faults) > FAULTS_SHOWN else []
        raise StageError(
            f"{len(faults)} of {len(names)} files are no images that can be read\n  "
            + "\n  ".join(faults[:FAULTS_SHOWN] + more)
            + "\n  mend or remove them (a mask with its image), and repeat"
        )


def _describe_local(path: Path) -> dict:
    name = path.name if path.is_dir() else path.stem
    if reason := name_fault(name):
        raise StageError(f"{name!r} can't name a data set: {reason}")
    if name == EMBEDDED:
        raise StageError(
            f"{path.name!r} is named like the synthetic set but has no {DATASET_FILE} to say what it is\n"
            f"  put the {DATASET_FILE} of the set beside its class folders, or rename it if it is real"
        )
    return {"name": name, "synthetic": False, "source": path.name, "licence": "not stated by its source"}


def _download_busi() -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    for left in DOWNLOADS.glob("tmp*"):  # pooch's, of a killed download
        left.unlink()
    try:
        return Path(
            pooch.retrieve(
                BUSI_URL,
                known_hash=f"sha256:{BUSI_SHA256}",
                fname="Dataset_BUSI.zip",
                path=DOWNLOADS,
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
            )
        )
    # A wrong hash is a ValueError; requests' errors are OSErrors
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise StageError(
            f"BUSI could not be downloaded from {BUSI_URL}; nothing was kept\n  {error}\n  "
            + OTHER_WAYS.format(other=KAGGLE)
        ) from error


def _download_kaggle() -> Path:
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(KAGGLE_SET))
    # kagglehub's own errors share no class but Exception with each other
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise StageError(
            f"Kaggle did not give {KAGGLE_SET}\n  {type(error).__name__}: {error}\n"
            "  it needs the network and, for some accounts, credentials (KAGGLE_API_TOKEN, see kaggle.com/settings)\n  "
            + OTHER_WAYS.format(other=BUSI)
        ) from error
