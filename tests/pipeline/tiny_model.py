"""A model of a few weights with what stages train and evaluate leave of it: made once and stored, for its seconds.

`python -m tests.pipeline.tiny_model` writes `tests/stores/tiny_model.tar.xz` anew: model.keras, novelty.npz,
predictions.csv (24 images, noise) and smoke/ with every third image and what the model said of it.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from busi.data.layout import CLASSES

STORED = Path(__file__).parents[1] / "stores" / "tiny_model.tar.xz"


def unpack(folder: Path) -> Path:
    """Write the stored files into `folder`; the path of `model.keras`."""
    with tarfile.open(STORED) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        archive.extractall(folder)  # noqa: S202 - our own archive
    return folder / "model.keras"


def make(folder: Path) -> None:
    import keras

    from busi.model.inference import compile_ood_features
    from busi.model.ood_detection import fit_detector
    from busi.serving import ImageClassifier

    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    # The layers that serving looks at, by DenseNet121's names
    found = keras.layers.Rescaling(1 / 255, name="conv1_relu")(pixels)
    found = keras.layers.AveragePooling2D(2, name="pool2_pool")(found)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU(name="relu")(found))
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", name="head")(pooled))
    model.save(folder / "model.keras")

    files, noise = [], np.random.default_rng(3).integers(0, 256, (24, 32, 32), dtype=np.uint8)
    for image in noise:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    ood_features = compile_ood_features(model)(np.repeat(noise[..., None], 3, axis=3))
    detector = fit_detector(ood_features, ood_features, accepted=1)  # noise is what this model knows
    detector.save(folder / "novelty.npz")
    said = ImageClassifier(model, detector, "1").predict(files)
    assert said["accepted"].all()
    labels = [CLASSES[i // 8] for i in range(24)]
    table = pd.DataFrame({"path": [f"{label}/{label} ({i}).png" for i, label in enumerate(labels)], "label": labels})
    table["duplicate_group"] = [f"g{i:04d}" for i in range(24)]
    table["predicted"] = said["label"].to_numpy()
    table = table.join(pd.DataFrame(list(said["probabilities"])))
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "smoke").mkdir()
    expected = []
    for row, file in list(zip(table.to_dict(orient="records"), files, strict=True))[::3]:
        digest = hashlib.sha256(file).hexdigest()
        (folder / "smoke" / f"{digest}.image").write_bytes(file)
        expected.append({"path": row["path"], "sha256": digest} | {label: row[label] for label in CLASSES})
    (folder / "smoke" / "smoke.json").write_text(json.dumps(expected))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        with tarfile.open(STORED, "w:xz") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name, filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main()
