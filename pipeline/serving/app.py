"""The app on the Production model: `make app`, which is `streamlit run pipeline/app.py [-- --model NAME]`.

Streamlit runs this file from top to bottom whenever something on the page changes. What has been uploaded and what
was found out about it lives in the session's memory, and nowhere else. The model is loaded once a version, after the
registry's `verify`; the registry is asked at every run which version is in Production.

Whatever is wrong with a file or with the registry is a sentence on the page. A traceback is a bug, and goes to the
terminal (`showErrorDetails` in .streamlit/config.toml). What the page says beside Streamlit's own widgets is in
`app.html.j2`, and how it looks in `app.css`.
"""

import argparse
import base64
import gc
import hashlib
import re
import sys
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Streamlit puts this file's folder there, whose modules (data, flow, split) would be taken for others of their names
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry not in (str(ROOT), str(HERE)))]

import jinja2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import streamlit as st  # noqa: E402
from markupsafe import Markup, escape  # noqa: E402
from starlette.formparsers import MultiPartParser  # noqa: E402

import pipeline  # noqa: E402, F401 - makes `busi` importable
from busi import DISCLAIMER  # noqa: E402
from busi.data import images  # noqa: E402
from busi.data.layout import CLASSES, IMAGE_SUFFIXES, MALIGNANT  # noqa: E402
from busi.evaluation.metrics import plain_share  # noqa: E402
from busi.reporting import viewing  # noqa: E402
from busi.serving import MAX_BYTES, read_upload  # noqa: E402
from pipeline.runtime.errors import StageError  # noqa: E402

# Starlette writes what is larger than this to a temporary file while it comes in; now it holds all in memory
MultiPartParser.spool_max_size = 2 * MAX_BYTES

TITLE = "Breast ultrasound classifier"
EXAMPLES = {
    "Benign phantom": "benign.png",
    "Malignant phantom": "malignant.png",
    "Normal phantom": "normal.png",
    "Scanner's screen": "screen.png",
    "No ultrasound": "landscape.png",
}
EXAMPLE_WIDTH = 160  # pixels
AT_ONCE = 8  # files between two steps of the progress bar
SHOWN_SIDE = 900  # pixels of the picture on the page
THUMBNAIL_SIDE = 72
LEAST_SIDE = 16  # pixels that a crop keeps
LET_GO_SECONDS = 3  # that other sessions have to finish with the old model
SCAN, WHOLE, BY_HAND = "Scan only", "Whole image", "By hand"
FORMULA = ("=", "+", "-", "@", "\t")  # a spreadsheet would run a cell that begins so


class File(NamedTuple):
    """One file as it came: `name` fit for one line, and `key`, the sha256 of its bytes."""

    name: str
    content: bytes
    key: str


class Look(NamedTuple):
    """What is found out about a file before it is classified. `size` is (width, height), None for an unreadable one;
    `proposal` is the box of its scan; `thumbnail` is the address of a small picture."""

    size: tuple[int, int] | None = None
    proposal: viewing.Box | None = None
    thumbnail: str | None = None


class Crop(NamedTuple):
    """How a file is cropped: one of `SCAN`, `WHOLE` and `BY_HAND`, and the box that was set by hand."""

    how: str
    box: viewing.Box | None = None


def main() -> None:
    st.set_page_config(page_title=TITLE, layout="wide")
    show = _pieces()
    st.html(HERE / "app.css")
    st.html(show.disclaimer_line())
    masthead = st.empty()
    masthead.html(show.masthead(TITLE))
    try:
        found, synthetic = production_model()
    except (StageError, OSError, ValueError) as error:
        st.html(show.failure([line.strip() for line in str(error).splitlines()]))
        st.button("Look again", type="primary")
        return
    masthead.html(show.masthead(TITLE, found, synthetic))
    say_when_promoted(found)
    files = choose_files()
    if files:
        show_files(found, files)
    show_model(found)
    st.html(show.foot())


# The model


def production_model():
    """The `production.Production` of the model that was asked for, and whether it has seen synthetic images only.

    Raises:
        StageError: there is none, it does not pass the registry's checks, or the registry does not answer.
    """
    with st.spinner("Asking the registry which model is in Production"):
        from pipeline.registry import production, promotion  # MLflow takes seconds; the page stands by then
        from pipeline.tracking import store as tracking  # MLflow takes seconds; the page stands by then

        name = asked_model() or production.default_name()
        version = tracking.production_version(name)
    if version is None:
        raise StageError(f"No version of {name} is in Production.")
    with st.spinner(f"Checking and loading {name} version {version}"):
        found = _load(name, version)
    return found, name == promotion.SYNTHETIC_NAME


def asked_model() -> str | None:
    """What stands behind `--model`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model")
    return parser.parse_known_args(sys.argv[1:])[0].model


def _load(name: str, version: str):
    """The Production version, loaded unless it is already. What comes may be a later one."""
    loader, loaded = _shelf()
    return loader.submit(_load_alone, loaded, name, version).result()


def _load_alone(loaded: dict, name: str, version: str):
    from pipeline.registry import production
    from pipeline.tracking import store as tracking

    if (name, version) not in loaded:  # while this one waited, another session may have loaded the next
        version = tracking.production_version(name)
    if (name, version) not in loaded:
        # Before the next one comes: what two models at once take, the system does not get back
        leaving = [weakref.ref(found) for found in loaded.values()]
        loaded.clear()
        patience = time.monotonic() + LET_GO_SECONDS
        while any(model() for model in leaving) and time.monotonic() < patience:
            time.sleep(0.05)
        gc.collect()
        gc.collect()  # what was kept for as long as the model was there: `busi.explain` has such a thing
        found = production.load(name)
        # Here, and not for the first file: compiling takes room too, and several sessions would wait for it
        found.classifier.predict([image_of("Benign phantom")])
        found.classifier.heatmap(image_of("Benign phantom"), CLASSES[0])
        version = found.version
        loaded[name, version] = found
    return loaded[name, version]


@st.cache_resource(show_spinner=False)
def _shelf() -> tuple[ThreadPoolExecutor, dict]:
    """The one thread that loads models, and the one model that all sessions share, by name and version.

    One thread, because malloc keeps what a thread has freed for that thread: the next model takes the last one's room.
    """
    return ThreadPoolExecutor(1, "loading"), {}


def say_when_promoted(found) -> None:
    """Say so when another version has come into Production since this page last looked."""
    before = st.session_state.get("version")
    st.session_state.version = found.classifier.version
    if before not in (None, found.classifier.version):
        text = f"{found.classifier.version} is in Production now, in place of {before}. What you see below is its work."
        st.html(_pieces().notice([text]))


def show_model(found) -> None:
    """The gate with its rules, and the model card."""
    st.subheader("The model", anchor=False)
    with st.expander(f"Gate: {found.gate['verdict']}"):
        st.html(_pieces().rules(found.gate["rules"]))
    with st.expander("Model card"):
        st.markdown(found.card)


# The files


def choose_files() -> list[File]:
    """What is to be classified: the uploaded files, or one of the bundled images."""
    uploaded = st.file_uploader(
        "Images to classify: one or many, PNG, JPEG, BMP or TIFF",
        type=[suffix.lstrip(".") for suffix in IMAGE_SUFFIXES],
        accept_multiple_files=True,
        key="uploads",
    )
    if uploaded:
        return [_file(upload.name, upload.getvalue()) for upload in uploaded]
    label = "Or one of these synthetic images"
    if not st.session_state.get("example"):
        show_examples(label)
        return []
    chosen = st.pills(label, list(EXAMPLES), key="example")
    return [_file(EXAMPLES[chosen], image_of(chosen))]


def image_of(example: str) -> bytes:
    return (HERE / "examples" / EXAMPLES[example]).read_bytes()


def show_examples(label: str) -> None:
    """The bundled images, each with a button that chooses it."""

    def choose(name: str) -> None:
        st.session_state.example = name

    st.html(_pieces().label(label))
    with st.container(horizontal=True, key="examples"):
        for name in EXAMPLES:
            with st.container(width=EXAMPLE_WIDTH):
                st.image(image_of(name), width=EXAMPLE_WIDTH)
                st.button(name, key=f"example-{EXAMPLES[name]}", on_click=choose, args=(name,), width="stretch")


def show_files(found, files: list[File]) -> None:
    """Classify what has not been classified yet, and show the table and one image in full."""
    looks, crops = _memory("looks", files), _memory("crops", files)
    rows = classify(found, files, looks, crops)
    table = to_table(files, rows, looks, crops)
    number = 0
    if len(files) > 1:
        st.subheader(f"{len(files)} files", anchor=False)
        accepted, unreadable = int(table["accepted"].sum()), sum(row["probabilities"] is None for row in rows)
        st.html(_pieces().count(accepted, len(files) - accepted - unreadable, unreadable))
        show_table(table, [looks[file.key].thumbnail for file in files])
        names = [f"{i}. {file.name}" for i, file in enumerate(files, start=1)]
        number = st.selectbox("Look at", range(len(files)), format_func=names.__getitem__)
    with st.container(border=True, key="result"):
        show_result(found, files[number], rows[number], looks[files[number].key], crops)
    st.download_button(
        "Download as CSV",
        table.to_csv(index=False).encode(),
        file_name="classified.csv",
        mime="text/csv",
        on_click="ignore",
        key="csv",
    )


def classify(found, files: list[File], looks: dict[str, Look], crops: Mapping[str, Crop]) -> list[dict]:
    """A row of `ImageClassifier.predict` for each file as it is cropped; what was classified before is remembered."""
    version, known = found.classifier.version, st.session_state.get("rows", {})
    for file in files:
        if file.key not in looks:
            looks[file.key] = look_at(file)
    wanted = {file.key: (version, file.key, box_of(looks[file.key], crops.get(file.key))) for file in files}
    known = st.session_state.rows = {key: known[key] for key in wanted.values() if key in known}
    missing = [file for file in {file.key: file for file in files}.values() if wanted[file.key] not in known]
    with st.spinner("Classifying"), st.empty():
        for start in range(0, len(missing), AT_ONCE):
            if len(missing) > AT_ONCE:
                st.progress(start / len(missing), f"{start} of {len(missing)} files")
            part = missing[start : start + AT_ONCE]
            said = found.classifier.predict([cropped(file, wanted[file.key][2]) for file in part])
            known |= zip([wanted[file.key] for file in part], said.to_dict(orient="records"), strict=True)
    return [known[wanted[file.key]] for file in files]


def look_at(file: File) -> Look:
    try:
        gray = images.to_gray(read_upload(file.content))
    except ValueError:
        return Look()  # the classifier says why
    small = viewing.png(viewing.fit(gray, THUMBNAIL_SIDE))
    thumbnail = f"data:image/png;base64,{base64.b64encode(small).decode()}"
    return Look((gray.shape[1], gray.shape[0]), viewing.scan_box(gray), thumbnail)


def box_of(look: Look, crop: Crop | None) -> viewing.Box | None:
    """The part of a file that is classified and shown, by default that of its scan; None for all of it."""
    if look.size is None:
        return None
    box = {SCAN: look.proposal, WHOLE: None, BY_HAND: crop.box if crop else None}[crop.how if crop else SCAN]
    return None if box == (0, 0, *look.size) else box


def cropped(file: File, box: viewing.Box | None) -> bytes:
    """The file to classify: as it came, or its gray levels within the box, which are all that the network sees."""
    if box is None:
        return file.content
    left, top, right, bottom = box
    return viewing.png(images.to_gray(read_upload(file.content))[top:bottom, left:right])


def to_table(files: list[File], rows: list[dict], looks: Mapping[str, Look], crops: Mapping[str, Crop]) -> pd.DataFrame:
    """The table of the download: one row a file, in the order in which they came; empty where nothing is said."""
    made = []
    for file, row in zip(files, rows, strict=True):
        said = row["probabilities"] if row["accepted"] else dict.fromkeys(CLASSES, np.nan)
        box = box_of(looks[file.key], crops.get(file.key))
        made.append(
            {
                "file": f"'{file.name}" if file.name.startswith(FORMULA) else file.name,
                "label": row["label"] or "",
                **{label: round(said[label], 6) for label in CLASSES},
                "accepted": row["accepted"],
                "reason": row["reason"],
                "crop": "none" if box is None else " ".join(map(str, box)),
                "model_version": row["model_version"],
                "disclaimer": row["disclaimer"],
            }
        )
    return pd.DataFrame(made)


# What is shown


def show_table(table: pd.DataFrame, thumbnails: list[str | None]) -> None:
    column = st.column_config
    shown = table.assign(number=range(1, len(table) + 1), image=thumbnails)
    st.dataframe(
        shown.style.format("{:.1%}", subset=list(CLASSES), na_rep=""),
        hide_index=True,
        row_height=44,
        column_order=["number", "image", *table.columns],
        column_config={
            "number": column.NumberColumn("#", width=40),
            "image": column.ImageColumn("", width=60),
            "file": column.TextColumn(width=180),
            "label": column.TextColumn(width=90),
            **{label: column.NumberColumn(width=85) for label in CLASSES},
            "accepted": column.CheckboxColumn(width=80),
            "reason": column.TextColumn(width=260),
            "crop": column.TextColumn(width=110),
            "model_version": column.TextColumn("model version"),
        },
    )


def show_result(found, file: File, row: Mapping, look: Look, crops: dict[str, Crop]) -> None:
    """One file in full: picture, probabilities and what to make of them, or why it is not classified."""
    show, point = _pieces(), found.metrics["operating_point"]
    box = box_of(look, crops.get(file.key))
    st.html(show.headline(file.name, look.size, box, row))
    if look.size is None:
        st.html(show.refusal(row) + show.signed(row["model_version"]))
        return
    picture, text = st.columns([10, 11], gap="large")
    with picture:
        left, top, right, bottom = box or (0, 0, *look.size)
        gray = images.to_gray(read_upload(file.content))
        shown = viewing.fit(gray[top:bottom, left:right], SHOWN_SIDE)
        if row["accepted"]:
            show_overlay(found, file, box, shown, row["label"])
        else:
            st.image(shown, width="stretch", output_format="PNG")
        choose_crop(file, look, gray, crops)
    with text:
        if row["accepted"]:
            record = viewing.track_record(found.predictions, max(row["probabilities"].values()))
            bars = show.bars(row["probabilities"], point["threshold"])
            said = [bars, show.how_sure(record), show.operating_point(row, point)]
        else:
            said = [show.refusal(row)]
        st.html("".join([*said, show.signed(row["model_version"])]))


@st.fragment
def show_overlay(found, file: File, box: viewing.Box | None, shown: np.ndarray, label: str) -> None:
    """The picture under its heat map, with opacity and class to choose; a fragment, so that only this runs again."""
    picture = st.empty()
    st.html(_pieces().legend(viewing.RAMP))
    opacity = st.slider("Opacity of the heat map", 0, 100, 50, 5, format="%d%%", key="opacity")
    explained = st.segmented_control(
        "Heat map of", CLASSES, default=label, required=True, key=f"explained-{file.key}-{label}"
    )
    heat = heat_map(found, file, box, shown.shape, explained)
    picture.image(viewing.blend(shown, heat, opacity / 100), width="stretch", output_format="PNG")
    st.html(_pieces().about_heat_map(explained))


def heat_map(found, file: File, box: viewing.Box | None, shape: tuple[int, int], label: str) -> np.ndarray:
    """The heat map at the size of the picture; those of one picture are remembered."""
    picture = (found.classifier.version, file.key, box)
    if st.session_state.get("heat", [None])[0] != picture:
        st.session_state.heat = (picture, {})
    known = st.session_state.heat[1]
    if label not in known:
        with st.spinner("Asking the network where it looked"):
            heat = found.classifier.heatmap(cropped(file, box), label)
        sides = zip(heat.shape, shape, strict=True)
        known[label] = heat[np.ix_(*(np.linspace(0, side - 1, count).round().astype(int) for side, count in sides))]
    return known[label]


def choose_crop(file: File, look: Look, gray: np.ndarray, crops: dict[str, Crop]) -> None:
    """Let the crop of a file be chosen; the choice is in `crops` before the page runs again."""
    width, height = look.size
    offered = [WHOLE, BY_HAND] if look.proposal == (0, 0, width, height) else [SCAN, WHOLE, BY_HAND]
    now = crops.get(file.key, Crop(offered[0]))
    left, top, right, bottom = now.box or look.proposal
    how, across, down = (f"{part}-{file.key}" for part in ("crop", "across", "down"))

    def choose() -> None:
        state = st.session_state
        chosen = state.get(across, (left, right)), state.get(down, (top, bottom))
        crops[file.key] = Crop(state[how], _at_least(*chosen, width, height) if state[how] == BY_HAND else None)

    with st.expander("Crop to the scan", expanded=now.how == BY_HAND):
        label = "What is classified"
        st.segmented_control(label, offered, default=now.how, required=True, key=how, on_change=choose)
        if now.how == BY_HAND:
            st.slider("From left to right", 0, width, (left, right), key=across, on_change=choose)
            st.slider("From top to bottom", 0, height, (top, bottom), key=down, on_change=choose)
        box = box_of(look, now)
        if box is not None:
            st.image(viewing.outlined(gray, box, SHOWN_SIDE // 2), width="stretch", output_format="PNG")
        st.html(_pieces().about_crop())


# Below this line nothing is shown


@st.cache_resource(show_spinner=False)
def _pieces():
    """The macros of `app.html.j2`, which escape whatever they are given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["commands"] = _commands
    environment.globals |= {
        "classes": CLASSES,
        "malignant": CLASSES[MALIGNANT],
        "disclaimer": DISCLAIMER,
        "percent": lambda share, digits=0: f"{share:.{digits}%}",
        "interval": _interval,
    }
    return environment.get_template("app.html.j2").module


def _interval(metric: Mapping, digits: int = 0) -> str:
    """A share's interval. Where all or none are right the bootstrap's has no width, and Wilson's stands in for it."""
    if metric["low"] == metric["high"]:
        metric = plain_share(round(metric["value"] * metric["n"]), metric["n"], viewing.CONFIDENCE)
    return f"{metric['low']:.{digits}%} to {metric['high']:.{digits}%}"


def _commands(text: str) -> Markup:
    """A sentence with what stands between back quotes set as a command."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))  # noqa: S704 - escaped before


def _file(name: str, content: bytes) -> File:
    return File(images.printable(name), content, hashlib.sha256(content).hexdigest())


def _memory(name: str, files: list[File]) -> dict:
    """The session's memory of that name, by file, without the files that are gone."""
    keys = {file.key for file in files}
    known = st.session_state.get(name, {})
    st.session_state[name] = {key: value for key, value in known.items() if key in keys}
    return st.session_state[name]


def _at_least(across: tuple[int, int], down: tuple[int, int], width: int, height: int) -> viewing.Box:
    """The box of two ranges, widened to `LEAST_SIDE` where the image is that large."""

    def widened(start: int, end: int, side: int) -> tuple[int, int]:
        start = max(0, min(start, side - LEAST_SIDE))
        return start, min(side, max(end, start + LEAST_SIDE))

    (left, right), (top, bottom) = widened(*across, width), widened(*down, height)
    return left, top, right, bottom


if __name__ == "__main__":  # so it is for Streamlit too
    main()
