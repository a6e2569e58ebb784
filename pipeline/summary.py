"""The closing words of `make run`: what was reached, the gate's verdict, where things are, what to type next.

The store is not in `dvc.lock`, so DVC cannot see that it was deleted; this notices, and registers again.
"""

import json
from pathlib import Path

from busi import DISCLAIMER
from pipeline.outputs import stage
from pipeline.params import read_params

METRICS = Path("reports/metrics.json")
GATE = Path("reports/gate.json")
REPORT = Path("artifacts/evaluate/report.html")
DATA_DOCS = Path("artifacts/validate/data_docs/index.html")


def main() -> None:
    params = read_params()
    metrics, gate = json.loads(METRICS.read_text()), json.loads(GATE.read_text())

    from pipeline import lineage
    from pipeline.register import ensure_registered

    receipt = ensure_registered(params)

    accuracy = metrics["accuracy"]
    print()
    print(f"data       {lineage.dataset()['name']}{', synthetic' if lineage.dataset()['synthetic'] else ''}")
    print(
        f"accuracy   {accuracy['value']:.3f} on {accuracy['n']} test images, "
        f"{params.evaluate.confidence:.0%} interval {accuracy['low']:.3f} to {accuracy['high']:.3f}"
    )
    print(f"gate       {gate['verdict']}")
    for rule in gate["rules"]:
        threshold = "off" if rule["threshold"] is None else f"at least {rule['threshold']:.2f}"
        mark = "" if rule["passed"] else "  <- failed"
        print(f"             {rule['name']:<22} {rule['value']:.3f}  ({threshold}){mark}")
    print(f"model      {receipt['name']} version {receipt['version']}")
    print(f"report     {REPORT}")
    print(f"data docs  {DATA_DOCS}")
    print("\nnext")
    print("  make ui                               see run and model in the MLflow UI")
    print(f"  {_promote(receipt, params)}")
    print("  make data SOURCE=path/to/zip && make run   use your own images in BUSI's layout")
    print(f"\n{DISCLAIMER}")


if __name__ == "__main__":
    with stage("summary"):
        main()
