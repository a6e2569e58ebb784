"""Files are read and written as UTF-8 whatever the locale, so that they are the same on every machine."""

import ast

import pytest

from pipeline.paths import ROOT

FILES = sorted(path for folder in ("pipeline", "src", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def by_locale(source: str) -> list[int]:
    """The lines with a call that reads or writes text in the encoding of the locale."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        named = {keyword.arg for keyword in call.keywords}
        function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        texts = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        opened = function == "open" and any(set(mode) <= set("rwxat+") for mode in texts if mode)
        of_path = function in ("read_text", "write_text") and isinstance(call.func, ast.Attribute)
        process = function in ("run", "Popen", "check_output") and "text" in named
        if (opened or of_path or process) and "encoding" not in named:
            found.append(call.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_encoding_is_named(path):
    assert by_locale(path.read_text(encoding="utf-8")) == []


def test_what_the_test_finds():
    calls = ["p.read_text()", 'p.write_text("x")', 'open(p, "w")', 'p.open("r")', "run(c, text=True)"]
    for call in calls:
        assert by_locale(call) == [1], call
        assert by_locale(f'{call[:-1]}, encoding="utf-8")'.replace("(, ", "(")) == [], call
    for call in ('p.open("rb")', "image.open(p)", "write_text(p, text)"):
        assert by_locale(call) == []
