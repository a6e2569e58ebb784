"""Run a suite of expectations over a table and publish Great Expectations' Data Docs so that they open from disk.

Great Expectations' pages load style sheets, scripts and a logo from servers on the internet. `run_checkpoint` puts
those files (`data_docs_assets/`) beside the pages and points the links at them, so that the pages need no network.
"""

import html
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import great_expectations as gx
import pandas as pd
from great_expectations.checkpoint import UpdateDataDocsAction
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.expectation import Expectation

ASSETS = Path(__file__).parent / "data_docs_assets"

# What Great Expectations 1.24 links to, by a piece of the address, and the file beside the pages that takes its
# place. Other links are dropped: charts (vega; no page of ours has one), dark colours, and what a later release adds.
_LOCAL = {
    "/bootstrap.min.css": "bootstrap.min.css",
    "/bootstrap-table.min.css": "bootstrap-table.min.css",
    "/bootstrap-table-filter-control.": "bootstrap-table-filter-control.min.css",
    "/bootstrap-datepicker.min.css": "bootstrap-datepicker.min.css",
    "/font-awesome/": "icons.css",
    "/jquery-": "jquery.min.js",
    "/popper.min.js": "popper.min.js",
    "/bootstrap.min.js": "bootstrap.min.js",
    "/bootstrap-table.min.js": "bootstrap-table.min.js",
    "/bootstrap-table-filter-control.min.js": "bootstrap-table-filter-control.min.js",
    "/bootstrap-datepicker.min.js": "bootstrap-datepicker.min.js",
}
_TAG = re.compile(
    r'<link\b[^>]*?\bhref="(?P<link>https?://[^"]+)"[^>]*>'
    r'|<script\b[^>]*?\bsrc="(?P<script>https?://[^"]+)"[^>]*>\s*</script>'
)
_ICON = re.compile(r'href="[^"]*/static/images/favicon\.ico"')
_LOGO = re.compile(r"https?://[^\"']*/(logo-long\.png)[^\"']*")
_STYLE_URL = re.compile(r"url\((['\"]?)https?://[^)]*\)")
# Great Expectations breaks the words of its table of contents anywhere, lets the heads of its tables of rows run
# together ("Countpath"), and names a data asset that an ephemeral context does not have.
_CONTENTS_STYLE = "word-break: break-all;overflow-wrap: normal;"
_OWN_STYLE = (
    "<style>table table th { padding: .3rem !important; } .ge-navigation-sidebar-link { font-size: .8rem; }</style>"
)
_NO_ASSET = " Data asset: None<br>"
_FOOTER = re.compile(r"<footer>.*?</footer>", re.DOTALL)
_KEPT = ("favicon.ico", "logo-long.png")


class Outcome(NamedTuple):
    """The result of one expectation: `unexpected` holds (path, value) of each row that breaks it."""

    success: bool
    unexpected: list[tuple[str, object]]


def run_checkpoint(name: str, table: pd.DataFrame, suite: Sequence[Expectation], site: Path) -> list[Outcome]:
    """Validate a table and write Data Docs.

    Args:
        name: what the pages call this run.
        table: has a column `path` that names each row.
        suite: the expectations, each about rows.
        site: folder for the pages; replaced whole. Its `index.html` is the start page.

    Returns:
        One outcome an expectation, in order of the suite.

    Raises:
        RuntimeError: an expectation could not be evaluated (a bug in the suite).
    """
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    partial = site.with_name(f".{site.name}.partial").absolute()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)  # where that fails, Great Expectations would go on, and print its traceback
    try:
        context = gx.get_context(mode="ephemeral", project_config=_config(partial))
        asset = context.data_sources.add_pandas("data").add_dataframe_asset("manifest")
        validation = gx.ValidationDefinition(
            name="manifest",
            data=asset.add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add(gx.ExpectationSuite(name="manifest", expectations=list(suite))),
        )
        checkpoint = gx.Checkpoint(
            name="validate",
            validation_definitions=[context.validation_definitions.add(validation)],
            actions=[UpdateDataDocsAction(name="data_docs")],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": ["path"],
                "return_unexpected_index_query": False,
            },
        )
        # The pages show values as they are: a file name must not be able to bring markup into them.
        escaped = table.map(lambda value: html.escape(value) if isinstance(value, str) else value)
        run = RunIdentifier(run_name=re.sub(r"[^\w-]+", "_", name))
        results = checkpoint.run(batch_parameters={"dataframe": escaped}, run_id=run).run_results.values()
        _open_from_disk(partial)
        shutil.rmtree(site, ignore_errors=True)
        os.replace(partial, site)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    found = {result.expectation_config.id: result for whole in results for result in whole.results}
    return [_outcome(found[expectation.id]) for expectation in suite]


def _config(site: Path) -> DataContextConfig:
    pages = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site).replace("$", r"\$")},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={"validate": pages},
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )


def _outcome(found) -> Outcome:
    if found.exception_info.get("raised_exception", True):
        raise RuntimeError(f"{found.expectation_config.type} could not be evaluated: {found.exception_info}")
    rows = []
    for row in found.result.get("unexpected_index_list") or []:
        values = [_unescape(value) for column, value in row.items() if column != "path"]
        rows.append((_unescape(row["path"]), values[0] if len(values) == 1 else tuple(values)))
    return Outcome(bool(found.success), rows)


def _unescape(value: object) -> object:
    return html.unescape(value) if isinstance(value, str) else value


def _open_from_disk(site: Path) -> None:
    """Make the pages below `site` independent of the network, and drop files that no page uses."""
    assets = site / "assets"
    shutil.copytree(ASSETS, assets)
    for name in _KEPT:
        shutil.copy(site / "static" / "images" / name, assets / name)
    shutil.rmtree(site / "static")
    for page in site.rglob("*.html"):
        base = Path(os.path.relpath(assets, page.parent)).as_posix()
        text = page.read_text(encoding="utf-8")
        text = _TAG.sub(lambda match, base=base: _local_tag(match, base), text)
        text = _LOGO.sub(rf"{base}/\1", text)
        text = _ICON.sub(f'href="{base}/favicon.ico"', text)
        text = _STYLE_URL.sub("none", text)
        text = text.replace(_CONTENTS_STYLE, "overflow-wrap: anywhere;").replace(_NO_ASSET, "")
        text = text.replace("</head>", f"{_OWN_STYLE}</head>", 1)
        page.write_text(_FOOTER.sub("", text), encoding="utf-8")


def _local_tag(match: re.Match, base: str) -> str:
    address = match["link"] or match["script"]
    kind = "css" if match["link"] else "js"
    file = next((file for piece, file in _LOCAL.items() if piece in address and file.endswith(f".{kind}")), None)
    if file is None:
        return ""
    if kind == "css":
        return f'<link rel="stylesheet" href="{base}/{file}">'
    return f'<script src="{base}/{file}"></script>'
