"""How the page looks beside Streamlit's own widgets: pieces of HTML from `app.html.j2`, and rules from `app.css`."""

import re
from collections.abc import Mapping
from pathlib import Path

import jinja2
import streamlit as st
from markupsafe import Markup, escape

from busi import DISCLAIMER
from busi.data.layout import CLASSES, MALIGNANT
from busi.evaluation.records import Metric, format_range
from busi.evaluation.resampling import wilson_share
from busi.reporting import viewing

HERE = Path(__file__).resolve().parent
CSS = HERE / "app.css"


@st.cache_resource(show_spinner=False)
def pieces():
    """The macros of `app.html.j2`, which escape whatever they are given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["commands"] = mark_commands
    environment.globals |= {
        "classes": CLASSES,
        "malignant": CLASSES[MALIGNANT],
        "disclaimer": DISCLAIMER,
        "percent": lambda share, digits=0: f"{share:.{digits}%}",
        "interval": interval,
    }
    return environment.get_template("app.html.j2").module


def interval(found: Mapping, digits: int = 0) -> str:
    """The interval of a share, as "80 to 100%".

    Where all or none are right, resampling gives an interval without width, and Wilson's interval replaces it.

    Args:
        found: a `Metric` as metrics.json has it; `value`, `low` and `high` are 0 to 1.
        digits: after the point.
    """
    metric = Metric.from_json(found)
    if metric.low == metric.high and metric.n:
        metric = wilson_share(round(metric.value * metric.n), metric.n, viewing.CONFIDENCE)
    return f"{format_range(metric, digits, percent=True)}%"


def mark_commands(text: str) -> Markup:
    """A sentence as HTML, with everything between back quotes set as a command."""
    plain = str(escape(text))  # a Markup would escape the tags that `re.sub` puts in
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", plain))  # noqa: S704 - escaped before
