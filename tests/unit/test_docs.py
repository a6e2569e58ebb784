"""The documentation names what exists: files, headings, make targets, commands with their options, parameters."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typer
import yaml

from pipeline.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "weights/README.md",
        ROOT / "pipeline/serving/examples/README.md",
    ]
)
LONGEST = {"README.md": 130, "docs/results.md": 150}  # lines

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"``(.+?)``|`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SOURCE_FILE = re.compile(r"\b(?:src|pipeline|tests|benchmarks|docs|weights)/[\w./-]+\.(?:py|md|j2|css|xz)\b")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=name)
def page(request) -> Path:
    return request.param


def prose(page: Path) -> str:
    return CODE_SPAN.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))


def code(page: Path) -> Iterator[str]:
    """Every line of the fenced blocks, and every code span of the rest."""
    text = page.read_text(encoding="utf-8")
    for block in FENCE.findall(text):
        yield from block.splitlines()[1:-1]
    for double, single in CODE_SPAN.findall(FENCE.sub("", text)):
        yield double or single


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def keys(section: Mapping, before: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def test_links_and_anchors_resolve(page):
    dead = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_the_source_files_named_exist(page):
    named = {found for text in code(page) for found in SOURCE_FILE.findall(text)}
    assert not {file for file in named if "NAME" not in file and not (ROOT / file).exists()}


def test_the_make_targets_named_exist_with_their_variables(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    calls = [found for text in code(page) for found in re.findall(r"(?:^|[\s;(])make ([a-z]+)([^;&|]*)", text)]
    assert {target for target, _ in calls} <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    variables = {name for _, rest in calls for name in re.findall(r"\b([A-Z]+)=", rest)}
    assert variables <= set(re.findall(r"\b[A-Z]+\b", makefile))


def test_the_commands_named_exist_with_their_options(page):
    commands = typer.main.get_command(app).commands
    wrong = []
    for text in code(page):
        for command, rest in re.findall(r"(?:^|[\s;(=])busi ([a-z]+)([^|;&`]*)", text):
            options = (
                {option for param in commands[command].params for option in param.opts}
                if command in commands
                else set()
            )
            wrong += [text] * (
                command not in commands or not set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= options | {"--help"}
            )
    assert not wrong


def test_the_modules_named_exist(page):
    named = {
        found for text in code(page) for found in re.findall(r"python -m ((?:pipeline|benchmarks|tests)[\w.]*)", text)
    }
    places = {module: ROOT / module.replace(".", "/") for module in named}
    assert not {
        module for module, place in places.items() if not (place.is_dir() or place.with_suffix(".py").is_file())
    }


def test_what_a_page_places_in_a_file_is_in_it(page):
    placed = re.findall(r"`(\w+)` in `([\w./]+\.py)`", page.read_text(encoding="utf-8"))
    assert not {
        (what, file)
        for what, file in placed
        if not re.search(rf"^(?:def |class )?{what}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_every_parameter_is_described_and_no_other():
    text = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([a-z_]+(?:\.[a-z_]+)+)` \|", text, re.MULTILINE))
    assert described == set(keys(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "most"), LONGEST.items())
def test_a_page_that_everybody_reads_stays_short(file, most):
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= most
