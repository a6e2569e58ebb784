"""The last step of a run, `busi summary`: what was reached, the gate's verdict, where things are, what to type next.

The store is not in `dvc.lock`, so DVC cannot see that it was deleted. This step does, and registers again.
"""

import json

from busi import DISCLAIMER
from busi.evaluation import gate
from pipeline.dataset import read_dataset
from pipeline.params import read_params
from pipeline.paths import DATA_DOCS_PAGE, GATE, METRICS, REPORT
from pipeline.runtime.lifecycle import STAGES, seconds_of
from pipeline.stages import register
from pipeline.tracking import versions


def run() -> None:
    """Register where the store has no such version, and print what was reached."""
    params = read_params()
    data = read_dataset()
    receipt = register.ensure_registered(params)
    metrics, decision = json.loads(METRICS.read_text(encoding="utf-8")), json.loads(GATE.read_text(encoding="utf-8"))

    accuracy = metrics["accuracy"]
    print()
    print(f"data       {data['name']}{', synthetic' if data['synthetic'] else ''}")
    print(
        f"accuracy   {accuracy['value']:.3f} on {accuracy['n']} test images, "
        f"{params.evaluate.confidence:.0%} interval {accuracy['low']:.3f} to {accuracy['high']:.3f}"
    )
    print(f"gate       {decision['verdict']}")
    for rule in decision["rules"]:
        value = "not measured" if rule["value"] is None else f"{rule['value']:.3f}"
        wanted = "off" if rule["threshold"] is None else f"{gate.RULES[rule['name']].sign} {rule['threshold']:.2f}"
        print(f"             {rule['name']:<27} {value}, {wanted}{'  <- failed' if rule['passed'] is False else ''}")
    print(f"model      {receipt['name']} version {receipt['version']}")
    print(f"report     {REPORT}")
    if DATA_DOCS_PAGE.is_file():  # not a declared output, so neither pulled nor restored
        print(f"data docs  {DATA_DOCS_PAGE}")
    if seconds := seconds_of(STAGES):
        print(f"seconds    {', '.join(f'{name} {took:.0f}' for name, took in seconds.items())}, when each last ran")
    override = "" if decision["verdict"] == gate.PASSED else " REASON='...'"
    serve = (f"make promote VERSION={receipt['version']}{override}", "serve this version as models:/NAME@production")
    if versions.production_version(receipt["name"]) == receipt["version"]:
        serve = ("make app", "try this version, which is in Production")
    print("\nnext")
    for command, what in (
        ("make ui", "see run and model in the MLflow UI"),
        serve,
        ("make data SOURCE=path && make run", "use your own images, a zip or folder in BUSI's layout"),
    ):
        print(f"  {command:<36}{what}")
    print(f"\n{DISCLAIMER}")
