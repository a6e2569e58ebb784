"""The Production version that the app serves: found in the registry, verified, and loaded once for all sessions.

It runs by the code in its own files. The app takes only drawing from `busi`.
"""

import argparse
import gc
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import streamlit as st

from busi.data.layout import CLASSES
from pipeline.runtime.errors import StageError
from pipeline.serving.app.examples import example_image

RELEASE_SECONDS = 3  # for other sessions to finish with the old model


def served_model():
    """The `production.Production` version to serve, and whether it was trained on synthetic images only.

    Raises:
        StageError: there is none, it does not pass the registry's checks, or the registry does not answer.
    """
    with st.spinner("Looking up the Production model"):
        # MLflow takes seconds to import; the top of the page is there by then
        from pipeline.registry import names
        from pipeline.tracking import versions

        name = asked_model() or names.default_name()
        version = versions.production_version(name)
    if version is None:
        raise StageError(f"No version of {name} is in Production.")
    with st.spinner(f"Checking and loading {name} version {version}"):
        served = _load(name, version)
    return served, name == names.SYNTHETIC_NAME


def asked_model() -> str | None:
    """The model that `--model` names on the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model")
    return parser.parse_known_args(sys.argv[1:])[0].model


def _load(name: str, version: str):
    """The Production version, loaded once; one later than `version` where that was replaced meanwhile."""
    loader, loaded = _shelf()
    return loader.submit(_load_alone, loaded, name, version).result()


def _load_alone(loaded: dict, name: str, version: str):
    from pipeline.registry import production
    from pipeline.tracking import versions

    if (name, version) not in loaded:  # while this call waited, another session may have loaded a later version
        version = versions.production_version(name)
    if (name, version) not in loaded:
        # The old model goes first: the process never gives back the memory that two models at once take
        leaving = [weakref.ref(served) for served in loaded.values()]
        loaded.clear()
        deadline = time.monotonic() + RELEASE_SECONDS
        while any(model() for model in leaving) and time.monotonic() < deadline:
            time.sleep(0.05)
        gc.collect()
        gc.collect()  # frees what only the model kept alive, such as the compiled pass of its heat maps
        served = production.load(name)
        # Compile now. It takes memory too, and with the first file several sessions would wait for it
        served.classifier.predict([example_image("Benign phantom")])
        served.classifier.heatmap(example_image("Benign phantom"), CLASSES[0])
        version = served.version
        loaded[name, version] = served
    return loaded[name, version]


@st.cache_resource(show_spinner=False)
def _shelf() -> tuple[ThreadPoolExecutor, dict]:
    """The thread that loads models, and the one loaded model that all sessions share, by name and version.

    All models are loaded by one thread, because malloc keeps freed memory for the thread that freed it: so the next
    model takes the place of the last one.
    """
    return ThreadPoolExecutor(1, "loading"), {}
