"""Every path that two modules name. All but `ROOT` and `CACHE` are relative to the root, where every command runs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"

PARAMS = Path("params.yaml")
DVC_FILE, DVC_LOCK = Path("dvc.yaml"), Path("dvc.lock")
DATA, DATA_DVC = Path("data"), Path("data.dvc")
DATASET = DATA / "dataset.json"
WEIGHTS = Path("weights")

MANIFEST = Path("artifacts/validate/manifest.csv")
DATA_DOCS = Path("artifacts/validate/data_docs")  # not declared: it carries times
DATA_DOCS_PAGE = DATA_DOCS / "index.html"  # where to begin
SPLIT = Path("artifacts/split/split.csv")
FEATURES, ROWS = Path("artifacts/featurize/features.npy"), Path("artifacts/featurize/rows.csv")
MODEL = Path("artifacts/train/model.keras")
HISTORY = Path("artifacts/train/history.csv")
RUN = Path("artifacts/train/run.json")
VALIDATION_SCORE = Path("artifacts/train/val.json")  # what `dvc metrics` shows of a training
CHECKPOINT = Path("artifacts/train/checkpoint.npz")  # not declared, so that DVC leaves it to a run that goes on
PREDICTIONS = Path("artifacts/evaluate/predictions.csv")
HEAT_MAPS = Path("artifacts/evaluate/heat_maps.npz")
OOD_DETECTOR = Path("artifacts/evaluate/novelty.npz")
PLOTS = Path("artifacts/evaluate/plots")
SMOKE = Path("artifacts/evaluate/smoke")
FIGURES = Path("artifacts/report/figures")
REPORT = Path("artifacts/report/report.html")
VERDICT = Path("artifacts/register/verdict.txt")

VALIDATION_REPORT = Path("reports/validation.json")
SPLIT_REPORT = Path("reports/split.json")
METRICS = Path("reports/metrics.json")
HEADLINE = Path("reports/headline.json")  # what `dvc metrics` shows of an evaluation
GATE = Path("reports/gate.json")

STORE = Path("mlruns")
RECEIPT = STORE / "registration.json"
