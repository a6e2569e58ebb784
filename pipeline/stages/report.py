"""Stage `report`: the gate's verdict, the figures and the HTML report, from what `evaluate` found.

Reads metrics, predictions, heat maps and reliability tables of `evaluate`, the reports of the stages before it, and the
images that the report shows; writes `reports/gate.json` and, under `artifacts/report/`, `figures/` and `report.html`.
It needs neither TensorFlow nor MLflow and takes seconds, so that another threshold or style never runs the network.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from busi.data.layout import CLASSES
from busi.evaluation import heat_maps
from busi.evaluation.records import Resampling
from busi.reporting.build import Findings, GateConfig, build_report
from pipeline.params import Params, read_params
from pipeline.paths import (
    DATA,
    FIGURES,
    GATE,
    HEAT_MAPS,
    HISTORY,
    MANIFEST,
    METRICS,
    MODEL,
    PLOTS,
    PREDICTIONS,
    REPORT,
    RUN,
    SPLIT_REPORT,
    VALIDATION_REPORT,
)
from pipeline.registry import lineage
from pipeline.runtime.atomic_io import atomic_write, sha256, write_json, write_text
from pipeline.runtime.lifecycle import stage


def main() -> None:
    params = read_params()
    rules = GateConfig(params.register_.gate.model_dump(), params.register_.gate_slice_images)
    resampling = Resampling(params.evaluate.bootstrap, params.evaluate.confidence, params.evaluate.seed)

    found = Findings(
        metrics=read_json(METRICS),
        predictions=read_predictions(),
        heat_maps=heat_maps.load(HEAT_MAPS),
        reliability={name: pd.read_csv(PLOTS / f"reliability_{name}.csv") for name in ("before", "after")},
        history=pd.read_csv(HISTORY),
        manifest=pd.read_csv(MANIFEST),
        validation=read_json(VALIDATION_REPORT),
        split=read_json(SPLIT_REPORT),
    )
    origin = lineage.of_evaluation(params.featurize.weights) | {"model_sha256": sha256(MODEL)} | read_json(RUN)

    report = build_report(found, DATA, rules, resampling, shown_parameters(params), origin)

    for name, content in report.figures.items():
        with atomic_write(FIGURES / f"{name}.png") as partial:
            partial.write_bytes(content)
    write_text(REPORT, report.html)
    write_json(GATE, report.decision.as_json())
    print(f"gate: {report.decision.summary}\nreport: {REPORT.as_posix()}")


def read_predictions() -> pd.DataFrame:
    """The table as `evaluate` had it: text, and probabilities as float32."""
    kinds = dict.fromkeys(("path", "label", "duplicate_group", "predicted"), str) | dict.fromkeys(CLASSES, np.float32)
    return pd.read_csv(PREDICTIONS, dtype=kinds, keep_default_na=False)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def shown_parameters(params: Params) -> dict[str, dict]:
    """The sections that decided the model and the verdict, each flat."""
    found = params.model_dump(by_alias=True, include={"split", "featurize", "train", "evaluate", "register_"})
    sections = {}
    for name, values in found.items():
        sections[name] = {key: value for key, value in values.items() if not isinstance(value, dict)}
        sections |= {f"{name}.{key}": value for key, value in values.items() if isinstance(value, dict)}
    return sections


if __name__ == "__main__":
    with stage("report"):
        main()
