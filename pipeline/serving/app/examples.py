"""The bundled synthetic images to try the app on (`pipeline/serving/examples/README.md` says how they were made)."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = {
    "Benign phantom": "benign.png",
    "Malignant phantom": "malignant.png",
    "Normal phantom": "normal.png",
    "Scanner screen": "screen.png",
    "Not ultrasound": "landscape.png",
}


def example_image(name: str) -> bytes:
    """The file of one of `EXAMPLES`."""
    return (FOLDER / EXAMPLES[name]).read_bytes()
