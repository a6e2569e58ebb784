"""What answers is the code that was registered with a version, whatever the working tree holds by then."""

import base64
import shutil

import pytest

from pipeline.paths import ROOT
from pipeline.registry import names, production
from pipeline.serving import predict
from pipeline.stages import register
from pipeline.tracking import bundle, logged_model, versions
from tests.pipeline.registry import NAME, promote

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own

LINE = '"model_version": self.version,'


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of `src/`, from which versions are registered, to edit."""
    copy = shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    monkeypatch.setattr(bundle, "SOURCES", copy)
    return copy


def edit(sources):
    serving = sources / "busi" / "serving.py"
    assert LINE in serving.read_text()
    serving.write_text(serving.read_text().replace(LINE, '"model_version": f"edited {self.version}",'))


def test_an_edit_of_the_code_that_serves_is_another_version_of_the_same_run(folder, sources):
    register.main()
    (sources / "busi" / "reporting" / "report.py").write_text("# what no version carries\n")
    register.main()
    assert [version.version for version in versions.list_versions(NAME)] == [1]
    edit(sources)
    register.main()
    second, first = versions.list_versions(NAME)
    assert first.run_id == second.run_id
    assert first.tags["bundle_sha256"] != second.tags["bundle_sha256"] == bundle.collect().digest
    register.main()
    assert len(versions.list_versions(NAME)) == 2
    with logged_model.files_of(second) as files:
        code = {path.relative_to(files / "code").as_posix() for path in (files / "code").rglob("*") if path.is_file()}
    package = bundle.collect().package
    assert code == {name.replace("busi", package, 1) for name in bundle.collect().files}


def test_each_version_answers_by_its_own_code_in_one_process(folder, sources, known, capsys):
    """And so do the command line and the endpoint, while this process has imported the `busi` of the working tree."""
    from starlette.testclient import TestClient

    register.main()
    edit(sources)
    register.main()
    files, row = known[0]
    promote(1)
    first = production.load(NAME).classifier
    promote(2)
    second = production.load(NAME).classifier
    shutil.rmtree(sources)
    [old], [new] = first.predict([files])["model_version"], second.predict([files])["model_version"]
    assert (old.startswith("edited"), new.startswith("edited")) == (False, True)
    for classifier in (first, second):  # what it imports only now is there although its files are gone
        assert classifier.heatmap(files, "benign").shape == (32, 32)
        [said] = classifier.predict([files])["probabilities"]
        assert said == pytest.approx({label: row[label] for label in said}, abs=1e-3)

    (folder / "one.png").write_bytes(files)
    capsys.readouterr()
    predict.run([folder / "one.png"], False, True, NAME)
    assert "edited" in capsys.readouterr().out
    with logged_model.files_of(names.choose(NAME, 2)) as copy:
        client = TestClient(logged_model.scoring_app(copy))
        answer = client.post("/invocations", json={"dataframe_records": [{"image": base64.b64encode(files).decode()}]})
    assert answer.json()["predictions"][0]["model_version"].startswith("edited")
