"""Stage `evaluate`: the assembled model on the raw test images, never on features -> metrics, figures, the report.

The malignant operating point is chosen on the validation images, and so is the distance from which on an image is none
that the model knows. A few test images are set aside with what the model says of them, for anyone to check that a copy
of it still says so.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve
from tqdm import tqdm

from busi.data.images import prepare, read_image, to_gray
from busi.data.layout import CLASSES, MALIGNANT
from busi.data.manifest import lesion_masks
from busi.data.split import deal_at_random, has_twin_in_train
from busi.evaluation import gate
from busi.evaluation import localization as pointing
from busi.evaluation.metrics import (
    accuracy_by_slice,
    confusion_matrix,
    detection,
    evaluate,
    mean_of,
    operating_point,
    plain_share,
    reliability,
    resamples_without_a_class,
    roc_curve,
)
from busi.evaluation.slices import ranges_of, slices_of
from busi.model.calibration import apply_temperature
from busi.model.inference import compile_description, compile_pass
from busi.model.ood_detection import Novelty, fit
from busi.reporting import figures as draw
from busi.reporting import gallery
from busi.reporting.report import render, titled
from pipeline.params import Evaluate, Params, read_params
from pipeline.registry import lineage
from pipeline.runtime.atomic_io import atomic_write, sha256, write_csv, write_json, write_text
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.stages import audit

DATA = Path("data")
MANIFEST = Path("artifacts/validate/manifest.csv")
SPLIT = Path("artifacts/split/split.csv")
MODEL = Path("artifacts/train/model.keras")
HISTORY = Path("artifacts/train/history.csv")
RUN = Path("artifacts/train/run.json")
VALIDATION_REPORT = Path("reports/validation.json")
SPLIT_REPORT = Path("reports/split.json")

PREDICTIONS = Path("artifacts/evaluate/predictions.csv")
FIGURES = Path("artifacts/evaluate/figures")
PLOTS = Path("artifacts/evaluate/plots")
REPORT = Path("artifacts/evaluate/report.html")
NOVELTY = Path("artifacts/evaluate/novelty.npz")
SMOKE = Path("artifacts/evaluate/smoke")
METRICS = Path("reports/metrics.json")

BATCH = 32  # images in memory at once
SMOKE_IMAGES = 8
KNOWN_IMAGES = 1000  # of training, at most, that an image's distance is measured to
EXPLAINED = 100  # images that HiResCAM is tried on, so that its time does not grow with the data set


def main() -> None:
    params = read_params()
    settings = params.evaluate

    require_inputs()
    run, validation, split = (json.loads(path.read_text()) for path in (RUN, VALIDATION_REPORT, SPLIT_REPORT))
    history = pd.read_csv(HISTORY)
    images = pd.read_csv(SPLIT, dtype=str, keep_default_na=False)
    test, validated, trained = (images_of(images, part) for part in ("test", "val", "train"))
    manifest = pd.read_csv(MANIFEST).set_index("path").loc[test["path"]]
    model = load_model(run["image_size"], settings.seed)

    labels, groups = test["label"].map(CLASSES.index).to_numpy(), test["duplicate_group"].to_numpy()
    look, size = compile_pass(model), run["image_size"]
    probabilities, described = classify(look, size, test["path"].tolist())
    on_validation, validation_described = classify(look, size, validated["path"].tolist())
    known = trained.iloc[spread(np.arange(len(trained)), KNOWN_IMAGES)]
    describe = compile_description(model)
    known_described = np.concatenate([describe(batch) for batch in batches_of(known["path"].tolist(), size, "known")])
    novelty = fit(known_described, validation_described, settings.accepted_inputs)
    before = apply_temperature(probabilities, 1 / run["temperature"])  # as they were without the temperature
    predicted = probabilities.argmax(axis=1)
    predictions = test.assign(predicted=np.take(CLASSES, predicted), **dict(zip(CLASSES, probabilities.T, strict=True)))
    metrics = {
        **evaluate(labels, probabilities, groups, settings.bootstrap, settings.confidence, settings.seed),
        "operating_point": malignant_detection(test, probabilities, validated, on_validation, settings),
        "slices": sliced_accuracy(test, predicted, manifest, settings),
        "accepted_inputs": accepted_inputs(novelty, described, groups, settings),
        "uncalibrated": calibration_of(labels, before, groups, settings),
        **explained(model, look, test, manifest, settings),
        **(audited(images, params) if settings.audit_random_split else {}),
    }
    bins = {"before": reliability(labels, before), "after": reliability(labels, probabilities)}
    pictures = draw_all(metrics, labels, probabilities, bins, history)
    report = render(
        metrics=metrics,
        decision=gate.decide(metrics, params.register_.gate.model_dump()),
        intervals=intervals_of(labels, groups, settings),
        predictions=predictions,
        figures=pictures,
        gallery=shown(model, look, predictions, manifest),
        slice_ranges=ranges_of(manifest),
        validation=validation,
        split=split,
        parameters=params.model_dump(include={"split", "featurize", "train", "evaluate"})
        | {"register.gate": params.register_.gate.model_dump()},
        lineage=lineage.of_evaluation(params.featurize.weights) | {"model_sha256": sha256(MODEL)} | run,
    )

    write_csv(PREDICTIONS, predictions)
    write_plots(predictions, labels, probabilities, bins)
    for name, content in pictures.items():
        with atomic_write(FIGURES / f"{name}.png") as partial:
            partial.write_bytes(content)
    write_text(REPORT, report)
    with atomic_write(NOVELTY) as partial:
        novelty.save(partial)
    set_aside(predictions)
    write_json(METRICS, metrics)
    announce(metrics)

    # Not at the top: the import takes seconds, and what this module computes needs no tracking.
    from pipeline.tracking import store as tracking

    with tracking.run(run["key"]) as tracked:
        tracked.log_evaluation(metrics, [PREDICTIONS, FIGURES, REPORT, SMOKE])


def require_inputs() -> None:
    """Raise a `StageError` that names what is missing and what makes it."""
    made_by = {RUN: "train", MODEL: "train", HISTORY: "train", SPLIT: "split", SPLIT_REPORT: "split"}
    made_by |= {VALIDATION_REPORT: "validate", MANIFEST: "validate"}
    for path, maker in made_by.items():
        if not path.is_file():
            raise StageError(f"{path} not found\n  run `dvc repro {maker}`, which makes it")


def images_of(split: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of a split's part: path, label, duplicate_group, sorted by path."""
    rows = split.loc[split["part"] == part, ["path", "label", "duplicate_group"]]
    return rows.sort_values("path", ignore_index=True)


def load_model(size: int, seed: int):
    """The trained model, after seeding what draws at random."""
    # Not at the top: importing TensorFlow takes seconds, and what this module computes else needs none.
    from busi.model.network import load_model, seed_everything

    seed_everything(seed)
    model = load_model(MODEL)
    shapes = tuple(model.input_shape), tuple(model.output_shape)
    if shapes != ((None, size, size, 3), (None, len(CLASSES))):
        raise StageError(
            f"{MODEL} takes {shapes[0]} and gives {shapes[1]}; {RUN} says image_size {size} and there are "
            f"{len(CLASSES)} classes\n  the two are not of one training: run `dvc repro --force train`"
        )
    return model


def classify(look: Callable, size: int, paths: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, float32 (n, 3), and descriptions, float32 (n, F), of images in `data/`, with progress."""
    batches = [look(batch)[:2] for batch in batches_of(paths, size, "evaluate")]
    return tuple(np.concatenate(columns) for columns in zip(*batches, strict=True))


def batches_of(paths: list[str], size: int, what: str) -> Iterator[np.ndarray]:
    """The pixels of images in `data/`, uint8 (b, size, size, 3), with progress."""
    with tqdm(total=len(paths), desc=what, unit="image") as progress:
        for start in range(0, len(paths), BATCH):
            batch = [prepare(read_image(DATA / path), size) for path in paths[start : start + BATCH]]
            yield np.stack(batch)
            progress.update(len(batch))


def malignant_detection(
    test: pd.DataFrame,
    probabilities: np.ndarray,
    validated: pd.DataFrame,
    on_validation: np.ndarray,
    params: Evaluate,
) -> dict:
    """The operating point for malignant, chosen on validation, and what it gives on test."""
    malignant = CLASSES[MALIGNANT]
    sought, scores = (validated["label"] == malignant).to_numpy(), on_validation[:, MALIGNANT]
    threshold = operating_point(sought, scores, params.target_sensitivity)
    found = detection(
        (test["label"] == malignant).to_numpy(),
        probabilities[:, MALIGNANT] >= threshold,
        test["duplicate_group"].to_numpy(),
        params.bootstrap,
        params.confidence,
        params.seed,
    )
    return {
        "threshold": threshold,
        "target_sensitivity": params.target_sensitivity,
        "validation_sensitivity": round(float((scores[sought] >= threshold).mean()), 6),
        "validation_images": int(sought.sum()),
        **found,
    }


def sliced_accuracy(test: pd.DataFrame, predicted: np.ndarray, manifest: pd.DataFrame, params: Evaluate) -> dict:
    """Accuracy in the slices that the manifest allows."""
    right = np.take(CLASSES, predicted) == test["label"].to_numpy()
    groups = test["duplicate_group"].to_numpy()
    return accuracy_by_slice(right, slices_of(manifest), groups, params.bootstrap, params.confidence, params.seed)


def calibration_of(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, params: Evaluate) -> dict:
    """What calibration is measured by."""
    found = evaluate(labels, probabilities, groups, params.bootstrap, params.confidence, params.seed)
    return {name: found[name] for name in ("expected_calibration_error", "brier_score")}


def accepted_inputs(novelty: Novelty, described: np.ndarray, groups: np.ndarray, params: Evaluate) -> dict:
    """The share of the test images that are not refused as unknown, and the threshold, chosen on validation."""
    accepted = novelty.distance(described) <= novelty.threshold
    found = mean_of(accepted, groups, params.bootstrap, params.confidence, params.seed)
    return {**found, "threshold": round(novelty.threshold, 3)}


def explained(model, look: Callable, test: pd.DataFrame, manifest: pd.DataFrame, params: Evaluate) -> dict:
    """How often HiResCAM of the true class points at the lesion, and whether random weights would do as well.

    Over `EXPLAINED` test images with a lesion at most, or over any where the data set has no masks; then there is only
    a rank correlation. What can't be measured is left out.
    """
    from busi.model.explanation import evidence, randomised

    with_lesion = np.flatnonzero(manifest["lesion_fraction"] > 0)
    chosen = test.iloc[spread(with_lesion if len(with_lesion) else np.arange(len(test)), EXPLAINED)]
    paths, classes = chosen["path"].tolist(), chosen["label"].tolist()
    learned = heat_maps(evidence, model, look, paths, classes, "heat maps")
    with randomised(model, params.seed):
        random = heat_maps(evidence, model, look, paths, classes, "heat maps, random weights")

    def mean(values: list, of: np.ndarray | slice = slice(None)) -> dict:
        groups = chosen["duplicate_group"].to_numpy()[of]
        return mean_of(np.array(values)[of], groups, params.bootstrap, params.confidence, params.seed)

    correlations = [pointing.rank_correlation(*maps) for maps in zip(learned, random, strict=True)]
    varied = np.isfinite(correlations)
    against = {"rank_correlation": mean(correlations, varied)} if varied.any() else {}
    if not len(with_lesion):
        return {"randomised_weights": against} if against else {}
    hits, noise_hits, shares, centred = [], [], [], []
    for heat, noise, lesion in zip(learned, random, map(lesion_masks(DATA), chosen["path"]), strict=True):
        hits.append(pointing.points_at(heat, lesion))
        noise_hits.append(pointing.points_at(noise, lesion))
        shares.append(lesion.mean())
        centred.append(pointing.is_centred(lesion))
    return {
        "pointing_game": {**mean(hits), "chance": mean(shares), "centre": mean(centred)},
        "randomised_weights": {"pointing_game": mean(noise_hits), **against},
    }


def heat_maps(function: Callable, model, look: Callable, paths: list[str], classes: list[str], what: str) -> np.ndarray:
    """A function of `busi.explain` over one class for each image, float32 (n, h, w), with progress."""
    numbers, maps = iter(np.array([CLASSES.index(label) for label in classes])), []
    for batch in batches_of(paths, model.input_shape[1], what):
        maps.append(function(model, look(batch).levels, np.array(list(islice(numbers, len(batch))))))
    return np.concatenate(maps)


def shown(model, look: Callable, predictions: pd.DataFrame, manifest: pd.DataFrame) -> dict[str, list[dict]]:
    """The pictures of the gallery: for each kind of `gallery.choose`, rows as `report.render` takes them."""
    from busi.model.explanation import heat_map

    chosen, lesion_of = gallery.choose(predictions), lesion_masks(DATA)
    rows = predictions.iloc[[place for places in chosen.values() for place in places]]
    heats = iter(heat_maps(heat_map, model, look, rows["path"].tolist(), rows["predicted"].tolist(), "gallery"))
    entries: dict[str, list[dict]] = {kind: [] for kind in chosen}
    for kind, places in chosen.items():
        for place in places:
            row, heat = predictions.iloc[place].to_dict(), next(heats)
            gray = to_gray(read_image(DATA / row["path"]))
            lesion = lesion_of(row["path"]) if manifest["lesion_fraction"].iloc[place] > 0 else None
            drawn = {"image": gallery.picture(gray), "overlay": gallery.overlay(gray, heat, lesion)}
            entries[kind].append(row | drawn | {"outlined": lesion is not None, "empty": not heat.any()})
    return entries


def audited(images: pd.DataFrame, params: Params) -> dict:
    """The accuracy that a plain random split of the same images would have claimed, by a training of its own."""
    dealt = deal_at_random(images, params.evaluate.seed)
    test, twins = images_of(dealt, "test"), has_twin_in_train(dealt)
    model = audit.train_on(dealt, DATA, params)
    said, _ = classify(compile_pass(model), model.input_shape[1], test["path"].tolist())
    right = np.take(CLASSES, said.argmax(axis=1)) == test["label"].to_numpy()

    def share(of: np.ndarray) -> dict:
        return plain_share(int(right[of].sum()), int(of.sum()), params.evaluate.confidence)

    found = {"accuracy": share(np.ones_like(twins)), "with_twin": share(twins), "without_twin": share(~twins)}
    return {"random_split_audit": found}


def draw_all(
    metrics: dict, labels: np.ndarray, probabilities: np.ndarray, bins: dict[str, pd.DataFrame], history: pd.DataFrame
) -> dict[str, bytes]:
    """Every figure as a PNG file, by name."""
    point, measures = metrics["operating_point"], ("expected_calibration_error", "brier_score")
    errors = {
        "before": tuple(metrics["uncalibrated"][name] for name in measures),
        "after": tuple(metrics[name] for name in measures),
    }
    drawn = {
        "confusion": draw.confusion_figure(confusion_matrix(labels, probabilities.argmax(axis=1))),
        "roc": draw.roc_figure(labels, probabilities, point),
        "precision_recall": draw.precision_recall_figure(labels, probabilities, point),
        "reliability": draw.reliability_figure(bins["before"], bins["after"], errors),
        "slices": draw.slices_figure(titled(metrics["slices"]), metrics["accuracy"], gate.SLICE_IMAGES),
        "training": draw.training_figure(history),
    }
    return {name: draw.png(figure) for name, figure in drawn.items()}


def write_plots(
    predictions: pd.DataFrame, labels: np.ndarray, probabilities: np.ndarray, bins: dict[str, pd.DataFrame]
) -> None:
    """Write the points of the figures, for `dvc plots`."""
    write_csv(PLOTS / "confusion.csv", predictions[["label", "predicted"]].rename(columns={"label": "actual"}))
    for index, label in enumerate(CLASSES):
        positive, scores = labels == index, probabilities[:, index]
        fpr, tpr = roc_curve(positive, scores)
        write_csv(PLOTS / f"roc_{label}.csv", pd.DataFrame({"fpr": fpr, "tpr": tpr}))
        precision, recall, _ = precision_recall_curve(positive, scores)
        write_csv(PLOTS / f"pr_{label}.csv", pd.DataFrame({"recall": recall, "precision": precision}))
    for name, table in bins.items():
        write_csv(PLOTS / f"reliability_{name}.csv", table)


def intervals_of(labels: np.ndarray, groups: np.ndarray, params: Evaluate) -> dict:
    """How the intervals were made, for the report."""
    return {
        "confidence": params.confidence,
        "bootstrap": params.bootstrap,
        "groups": len(np.unique(groups)),
        "without_a_class": resamples_without_a_class(labels, groups, params.bootstrap, params.seed),
    }


def set_aside(predictions: pd.DataFrame) -> None:
    """Copy some test images, spread over the classes, beside what the model says of them: `smoke.json`."""
    expected = []
    for row in predictions.iloc[spread(np.arange(len(predictions)), SMOKE_IMAGES)].to_dict(orient="records"):
        content = (DATA / row["path"]).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        with atomic_write(SMOKE / f"{digest}.image") as partial:
            partial.write_bytes(content)
        expected.append({"path": row["path"], "sha256": digest} | {label: round(row[label], 6) for label in CLASSES})
    write_json(SMOKE / "smoke.json", expected)


def spread(items: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the items, evenly spaced from the first to the last."""
    return items[np.unique(np.linspace(0, len(items) - 1, count).astype(int))]


def announce(metrics: dict) -> None:
    """Print the metrics that the gate looks at, and where the report is."""
    rows = {"accuracy": metrics["accuracy"], "macro AUROC": metrics["auroc_macro"]}
    rows |= {f"{label} sensitivity": metrics["per_class"][label]["sensitivity"] for label in CLASSES}
    point = metrics["operating_point"]
    rows[f"malignant at p ≥ {point['threshold']:.2f}"] = point["sensitivity"]
    rows["calibration error"] = metrics["expected_calibration_error"]
    rows["accepted as known"] = metrics["accepted_inputs"]
    if "pointing_game" in metrics:
        rows["points at the lesion"] = metrics["pointing_game"]
    if "random_split_audit" in metrics:
        rows["random split's claim"] = metrics["random_split_audit"]["accuracy"]
    for name, metric in rows.items():
        print(f"{name:<22} {metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f}), n = {metric['n']}")
    print(f"report: {REPORT.as_posix()}")


if __name__ == "__main__":
    with stage("evaluate"):
        main()
