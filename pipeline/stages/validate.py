"""Stage `validate`: describe every image in the manifest, and hold the data set to a suite of expectations.

Reads `data/`. Writes the manifest, `reports/validation.json` and, not declared because they carry times, Data Docs. A
failed critical expectation fails the stage: the error names the files, and Data Docs are the only output.
"""

from busi.data.manifest import build_manifest
from busi.data.validation_table import validation_table
from pipeline.dataset import read_counted_dataset
from pipeline.params import read_params
from pipeline.paths import DATA, DATA_DOCS, MANIFEST, VALIDATION_REPORT
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.runtime.lifecycle import stage
from pipeline.validation.expectations import suite
from pipeline.validation.report import require, summary, terminal_lines


def main() -> None:
    limits = read_params().validate_

    dataset = read_counted_dataset()
    manifest, problems = build_manifest(DATA)
    table = validation_table(manifest, problems, dataset["counts"], dataset["masks"])

    # Not at the top: the processes that read images import this module too, and this import takes seconds.
    from pipeline.validation.data_docs import run_checkpoint

    checks = suite(limits)
    outcomes = run_checkpoint(dataset["name"], table, [check.expectation for check in checks], DATA_DOCS)
    report = summary(dataset, manifest, checks, outcomes)

    print(terminal_lines(report, checks, outcomes))
    require(dataset["name"], checks, outcomes)
    write_csv(MANIFEST, manifest)
    write_json(VALIDATION_REPORT, report)


if __name__ == "__main__":
    with stage("validate"):
        main()
