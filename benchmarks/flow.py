"""The overhead of DVC with nothing to do, of the flow and of a stage's start: `python -m benchmarks.flow`.

In a clone of the last commit with a small phantom set, each command a process of its own: `dvc repro` with nothing to
do against `dvc status`; the flow against `dvc repro`, with nothing to do and with every stage forced; and importing
what the stages without TensorFlow need against a Python that does nothing.
"""

import typer

from benchmarks import harness

SMALL = {
    "data.phantom.benign": 30, "data.phantom.malignant": 24, "data.phantom.normal": 18,
    "featurize.image_size": 32, "train.head_epochs": 1, "train.tail_epochs": 2, "evaluate.bootstrap": 200,
}  # fmt: skip
WITHOUT_TENSORFLOW = ("validate", "split", "report", "register")


def main(quick: harness.Quick = False) -> None:
    repeats = 1 if quick else harness.REPEATS
    folder = harness.clone("flow", SMALL)
    harness.busi(folder, "data", "phantom")
    harness.python(folder, "-m", "dvc", "repro")

    def runs(**commands: tuple[str, ...]) -> dict[str, list[float]]:
        return harness.alternate(
            {name: lambda command=command: harness.python(folder, *command) for name, command in commands.items()},
            repeats,
        )

    asked = runs(repro=("-m", "dvc", "repro"), status=("-m", "dvc", "status"), flow=("-m", "pipeline.cli", "flow"))
    ratio = harness.quotients(asked["repro"], asked["status"])
    harness.record(
        quick, "noop", "`dvc repro` with nothing to do", "`dvc status`", "≤ 1.2×",
        f"{harness.spread(ratio, '×')}: {harness.spread(asked['repro'], ' s')}", harness.median(ratio) <= 1.2,
        {"ratio": ratio, "dvc repro": asked["repro"], "dvc status": asked["status"]},
    )  # fmt: skip

    forced = runs(repro=("-m", "dvc", "repro", "--force"), flow=("-m", "pipeline.cli", "flow", "--force"))
    more, idle = (
        [flow - repro for flow, repro in zip(found["flow"], found["repro"], strict=True)] for found in (forced, asked)
    )
    harness.record(
        quick, "flow", "the flow, every stage forced", "bare `dvc repro --force`", "≤ +15 s",
        f"{harness.spread(more, ' s')} more; with nothing to do {harness.spread(idle, ' s')} more",
        harness.median(more) <= 15,
        {"more": more, "more with nothing to do": idle, "dvc repro": forced["repro"], "flow": forced["flow"]},
    )  # fmt: skip

    modules = {name: ("-c", f"import pipeline.stages.{name}") for name in WITHOUT_TENSORFLOW}
    started = runs(nothing=("-c", "pass"), **modules)
    later = {
        name: [mine - bare for mine, bare in zip(started[name], started["nothing"], strict=True)]
        for name in WITHOUT_TENSORFLOW
    }
    harness.record(
        quick, "start", "start of a stage that needs no TensorFlow: its imports", "`python -c pass`", "≤ +1.5 s",
        "; ".join(f"{name} {harness.spread(values, ' s')} more" for name, values in later.items()),
        max(map(harness.median, later.values())) <= 1.5, {**later, "python -c pass": started["nothing"]},
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
