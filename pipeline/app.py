"""The app on the Production model: `make app`, which is `streamlit run pipeline/app.py [-- --model NAME]`.

Streamlit runs this file from top to bottom whenever something on the page changes. What has been uploaded and what
was found out about it lives in the session's memory, and nowhere else. The model is loaded once a version, after the
registry's `verify`; the registry is asked at every run which version is in Production.

Whatever is wrong with a file or with the registry is a sentence on the page. A traceback is a bug, and goes to the
terminal (`showErrorDetails` in .streamlit/config.toml).
"""

import argparse
import base64
import hashlib
import html
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# Streamlit puts this file's folder there, whose modules (data, flow, split) would be taken for others of their names
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry not in (str(ROOT), str(ROOT / "pipeline")))]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import streamlit as st  # noqa: E402
from starlette.formparsers import MultiPartParser  # noqa: E402

from pipeline.outputs import StageError  # noqa: E402 - first of ours: it makes `busi` importable
from busi import DISCLAIMER, images, viewing  # noqa: E402, I001
from busi.layout import CLASSES, IMAGE_SUFFIXES, MALIGNANT  # noqa: E402
from busi.serving import MAX_BYTES, read_upload  # noqa: E402

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
COLOURS = {"benign": "#0072B2", "malignant": "#D55E00", "normal": "#009E73"}  # as in the report's figures
AT_ONCE = 8  # files between two steps of the progress bar
SHOWN_SIDE = 900  # pixels of the picture on the page
THUMBNAIL_SIDE = 72
LEAST_SIDE = 16  # pixels that a crop keeps
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
    st.html(Path(__file__).with_suffix(".css"))
    st.html(f'<div class="disclaimer" role="note">{DISCLAIMER}</div>')
    masthead = st.empty()
    masthead.html(_masthead(""))
    try:
        found = production_model()
    except (StageError, OSError, ValueError) as error:
        explain_failure(str(error))
        return
    masthead.html(_masthead(_model_line(found)))
    say_when_promoted(found)
    files = choose_files()
    if files:
        show_files(found, files)
    show_model(found)
    st.html(
        f'<p class="foot">{DISCLAIMER}<br>Images stay in the memory of the computer that runs this app. They are written '
        "to no disk and are gone when you close or reload the page.</p>"
    )


# The model


def production_model():
    """The `production.Production` of the model that was asked for, loaded once a version.

    Raises:
        StageError: there is none, it does not pass the registry's checks, or the registry does not answer.
    """
    with st.spinner("Asking the registry which model is in Production"):
        from pipeline import production, tracking  # MLflow takes seconds; the page stands by then

        name = asked_model() or production.default_name()
        version = tracking.production_version(name)
    if version is None:
        raise StageError(f"No version of {name} is in Production yet.")
    with st.spinner(f"Checking and loading {name} version {version}"):
        found = _load(name, version)
        if str(found.version) != version:  # promoted in between
            _load.clear()
            found = _load(name, str(found.version))
    return found


def asked_model() -> str | None:
    """What stands behind `--model`."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--model")
    return parser.parse_known_args(sys.argv[1:])[0].model


@st.cache_resource(show_spinner=False, max_entries=1)
def _load(name: str, version: str):
    """Load the Production version; `version` is there to tell one from the next in the cache."""
    from pipeline import production

    return production.load(name)


def explain_failure(text: str) -> None:
    """Say why there is no model to classify with, and what to do."""
    first, *more = text.splitlines()
    st.html(
        '<p class="refusal">No model to classify with</p>'
        + _notice([first.strip(), *(line.strip() for line in more)], "warn")
        + '<p class="said">How a model gets into Production, in the folder of this project:</p><ol class="steps">'
        "<li><code>make run</code> trains a model on the data that is there (the embedded synthetic set when there is "
        "none), evaluates it, and registers it with the verdict of its gate.</li>"
        "<li><code>make promote</code> makes the newest version that passed the gate the Production version.</li>"
        "<li><code>make verify</code> says whether registry, files and audit log agree, and what does not.</li></ol>"
    )
    st.button("Look again", type="primary")


def say_when_promoted(found) -> None:
    """Say so when another version has come into Production since this page last looked."""
    before = st.session_state.get("version")
    st.session_state.version = found.classifier.version
    if before not in (None, found.classifier.version):
        text = f"{found.classifier.version} is in Production now, in place of {before}. What you see below is its work."
        st.html(_notice([text]))


def show_model(found) -> None:
    """The gate with its rules, and the model card."""
    st.subheader("The model", anchor=False)
    verdict = found.gate["verdict"]
    with st.expander(f"Gate: {verdict}"):
        st.html(_rules(found.gate["rules"]))
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
    chosen = st.pills("Or one of these synthetic images", list(EXAMPLES), key="example")
    if not chosen:
        return []
    return [_file(EXAMPLES[chosen], (ROOT / "pipeline" / "examples" / EXAMPLES[chosen]).read_bytes())]


def show_files(found, files: list[File]) -> None:
    """Classify what has not been classified yet, and show the table and one image in full."""
    looks, crops = _memory("looks", files), _memory("crops", files)
    rows = classify(found, files, looks, crops)
    table = to_table(files, rows, looks, crops)
    number = 0
    if len(files) > 1:
        st.subheader(f"{len(files)} files", anchor=False)
        accepted = int(table["accepted"].sum())
        unreadable = sum(row["probabilities"] is None for row in rows)
        counts = [f"{accepted} classified", f"{len(files) - accepted - unreadable} refused as unknown input"]
        st.html(f'<p class="said">{", ".join(counts)}, {unreadable} that can\'t be read.</p>')
        show_table(table, [looks[file.key].thumbnail for file in files])
        number = st.selectbox(
            "Look at",
            range(len(files)),
            format_func=lambda i: f"{i + 1}. {files[i].name}",
            key="number",
        )
    file, row = files[number], rows[number]
    with st.container(border=True):
        show_result(found, file, row, looks[file.key], crops)
    st.download_button(
        "Download as CSV",
        table.to_csv(index=False).encode(),
        file_name="classified.csv",
        mime="text/csv",
        on_click="ignore",
        key="csv",
    )


def classify(found, files: list[File], looks: dict, crops: dict) -> list[dict]:
    """A row of `ImageClassifier.predict` for each file as it is cropped; what was classified before is remembered."""
    known = st.session_state.setdefault("rows", {})
    for file in files:
        if file.key not in looks:
            looks[file.key] = look_at(file)
    wanted = {file.key: (found.classifier.version, file.key, box_of(file, looks, crops)) for file in files}
    missing = [file for file in {file.key: file for file in files}.values() if wanted[file.key] not in known]
    if missing:
        with st.spinner("Classifying"):
            progress = st.progress(0.0) if len(missing) > AT_ONCE else None
            for start in range(0, len(missing), AT_ONCE):
                part = missing[start : start + AT_ONCE]
                said = found.classifier.predict([cropped(file, wanted[file.key][2]) for file in part])
                known |= zip([wanted[file.key] for file in part], said.to_dict(orient="records"), strict=True)
                if progress:
                    done = start + len(part)
                    progress.progress(done / len(missing), f"{done} of {len(missing)} files")
            if progress:
                progress.empty()
    st.session_state.rows = {key: known[key] for key in known if key in wanted.values()}
    return [known[wanted[file.key]] for file in files]


def look_at(file: File) -> Look:
    try:
        gray = images.to_gray(read_upload(file.content))
    except ValueError:
        return Look()  # the classifier says why
    small = viewing.png(viewing.fit(gray, THUMBNAIL_SIDE))
    thumbnail = f"data:image/png;base64,{base64.b64encode(small).decode()}"
    return Look((gray.shape[1], gray.shape[0]), viewing.scan_box(gray), thumbnail)


def box_of(file: File, looks: Mapping[str, Look], crops: Mapping[str, Crop]) -> viewing.Box | None:
    """The part of a file that is classified and shown; None for all of it."""
    look = looks[file.key]
    if look.size is None:
        return None
    crop = crops.get(file.key, Crop(SCAN))
    box = {SCAN: look.proposal, WHOLE: None, BY_HAND: crop.box}[crop.how]
    return None if box == (0, 0, *look.size) else box


def cropped(file: File, box: viewing.Box | None) -> bytes:
    """The file to classify: as it came, or its gray levels within the box, which are all that the network sees."""
    if box is None:
        return file.content
    left, top, right, bottom = box
    return viewing.png(images.to_gray(read_upload(file.content))[top:bottom, left:right])


def to_table(files: list[File], rows: list[dict], looks: Mapping[str, Look], crops: Mapping[str, Crop]) -> pd.DataFrame:
    """The table of the download: one row a file, in the order in which they came."""
    made = []
    for file, row in zip(files, rows, strict=True):
        said = row["probabilities"] if row["accepted"] else dict.fromkeys(CLASSES)
        box = box_of(file, looks, crops)
        made.append(
            {
                "file": f"'{file.name}" if file.name.startswith(FORMULA) else file.name,
                "label": row["label"],
                **{f"p_{label}": said[label] for label in CLASSES},
                "accepted": row["accepted"],
                "reason": row["reason"],
                "crop": "none" if box is None else " ".join(map(str, box)),
                "model_version": row["model_version"],
                "disclaimer": row["disclaimer"],
            }
        )
    table = pd.DataFrame(made)
    probabilities = [f"p_{label}" for label in CLASSES]
    table[probabilities] = table[probabilities].astype(float).round(6)
    return table


# What is shown


def show_table(table: pd.DataFrame, thumbnails: list[str | None]) -> None:
    shown = table.assign(number=range(1, len(table) + 1), image=thumbnails)
    probability = {f"p_{label}": st.column_config.NumberColumn(label, format="percent", width=80) for label in CLASSES}
    st.dataframe(
        shown,
        hide_index=True,
        row_height=44,
        column_order=["number", "image", *table.columns],
        column_config={
            "number": st.column_config.NumberColumn("#", width=40),
            "image": st.column_config.ImageColumn("", width=60),
            "file": st.column_config.TextColumn("file", width=170),
            "label": st.column_config.TextColumn("label", width=90),
            **probability,
            "accepted": st.column_config.CheckboxColumn("accepted", width=80),
            "reason": st.column_config.TextColumn("reason", width=260),
            "crop": st.column_config.TextColumn("crop", width=110),
            "model_version": st.column_config.TextColumn("model version"),
        },
    )


def show_result(found, file: File, row: Mapping, look: Look, crops: dict[str, Crop]) -> None:
    """One file in full: picture, probabilities and what to make of them, or why it is not classified."""
    picture, text = st.columns([10, 11], gap="large")
    with picture:
        if look.size is None:
            st.html(_notice(["There is no picture to show."]))
        else:
            box = box_of(file, {file.key: look}, crops)
            left, top, right, bottom = box or (0, 0, *look.size)
            gray = images.to_gray(read_upload(file.content))
            shown = viewing.fit(gray[top:bottom, left:right], SHOWN_SIDE)
            if row["accepted"]:
                show_overlay(found, file, box, shown, row["label"])
            else:
                st.image(shown, width="stretch")
            choose_crop(file, look, gray, crops)
    with text:
        size = "" if look.size is None else f" · {look.size[0]} × {look.size[1]} pixels"
        eyebrow = f'<p class="eyebrow">{html.escape(file.name)}{size}</p>'
        if row["accepted"]:
            st.html(
                eyebrow + _verdict(row) + _bars(row["probabilities"], found.metrics["operating_point"]["threshold"])
            )
            record = viewing.track_record(found.predictions, max(row["probabilities"].values()))
            st.html(_how_sure(record) + _operating_point(row, found.metrics["operating_point"]))
        else:
            headline = "Can't be read" if row["probabilities"] is None else "Not classified: unknown input"
            st.html(f'{eyebrow}<p class="refusal">{headline}</p>{_notice(_refusal(row), "warn")}')
        st.html(f'<p class="said"><small>{html.escape(row["model_version"])} · {DISCLAIMER}</small></p>')


@st.fragment
def show_overlay(found, file: File, box: viewing.Box | None, shown: np.ndarray, label: str) -> None:
    """The picture under its heat map, with opacity and class to choose; a fragment, so that only this is run again."""
    picture = st.empty()
    opacity = st.slider("Opacity of the heat map", 0, 100, 50, 5, format="%d%%", key="opacity")
    explained = st.segmented_control(
        "Heat map of", CLASSES, default=label, required=True, key=f"explained-{file.key}-{label}"
    )
    heat = heat_map(found, file, box, shown.shape, explained)
    picture.image(viewing.blend(shown, heat, opacity / 100), width="stretch")
    ramp = ", ".join(f"rgb{colour}" for colour in viewing.RAMP)
    st.html(
        f'<div class="legend">less<span style="background: linear-gradient(90deg, {ramp})"></span>more</div>'
        f'<p class="said"><small>Grad-CAM: where the network found what speaks for {explained}, each map scaled to its '
        "own peak. It shows where the network looked, not where a lesion is.</small></p>"
    )


def heat_map(found, file: File, box: viewing.Box | None, shape: tuple[int, int], label: str) -> np.ndarray:
    """The heat map at the size of the picture; those of one picture are remembered."""
    picture = (found.classifier.version, file.key, box)
    known = st.session_state.get("heat")
    if known is None or known[0] != picture:
        known = st.session_state.heat = (picture, {})
    if label not in known[1]:
        with st.spinner("Asking the network where it looked"):
            heat = found.classifier.heatmap(cropped(file, box), label)
            rows, columns = (
                np.linspace(0, side - 1, count).round().astype(int) for side, count in zip(heat.shape, shape)
            )
            known[1][label] = heat[np.ix_(rows, columns)]
    return known[1][label]


def choose_crop(file: File, look: Look, gray: np.ndarray, crops: dict[str, Crop]) -> None:
    """Let the crop of a file be chosen; the choice is written to `crops` before the page runs again."""
    width, height = look.size
    offered = [WHOLE, BY_HAND] if look.proposal == (0, 0, width, height) else [SCAN, WHOLE, BY_HAND]
    now = crops.get(file.key, Crop(offered[0]))
    keys = {part: f"crop-{part}-{file.key}" for part in ("how", "across", "down")}

    def choose() -> None:
        how = st.session_state[keys["how"]]
        across = st.session_state.get(keys["across"], look.proposal[::2])
        down = st.session_state.get(keys["down"], look.proposal[1::2])
        crops[file.key] = Crop(how, _at_least(across, down, width, height) if how == BY_HAND else None)

    with st.expander("Crop to the scan", expanded=now.how == BY_HAND):
        st.segmented_control(
            "What is classified", offered, default=now.how, required=True, key=keys["how"], on_change=choose
        )
        if now.how == BY_HAND:
            left, top, right, bottom = now.box
            st.slider("From left to right", 0, width, (left, right), key=keys["across"], on_change=choose)
            st.slider("From top to bottom", 0, height, (top, bottom), key=keys["down"], on_change=choose)
        box = box_of(file, {file.key: look}, crops)
        if box is not None:
            st.image(viewing.outlined(gray, box, SHOWN_SIDE // 2), width="stretch")
        st.html(
            '<p class="said"><small>What is shown above is what is classified. The proposal removes black margins and '
            "text that a black gap parts from the scan. The network was trained on images as their data set has them, "
            "which are cropped to the scan already, some with a narrow margin: a capture of a scanner's whole screen is "
            "unknown to it, and so is a small part of a scan.</small></p>"
        )


# Below this line everything returns text or data


def _file(name: str, content: bytes) -> File:
    return File(images.printable(name), content, hashlib.sha256(content).hexdigest())


def _memory(name: str, files: list[File]) -> dict:
    """The session's memory of that name, by file, without the files that are gone."""
    keys = {file.key for file in files}
    known = st.session_state.get(name, {})
    st.session_state[name] = {key: value for key, value in known.items() if key in keys}
    return st.session_state[name]


def _at_least(across: tuple[int, int], down: tuple[int, int], width: int, height: int) -> viewing.Box:
    """The box of two ranges, widened to `LEAST_SIDE`."""

    def widened(start: int, end: int, side: int) -> tuple[int, int]:
        start = max(0, min(start, side - LEAST_SIDE))
        return start, min(side, max(end, start + LEAST_SIDE))

    (left, right), (top, bottom) = widened(*across, width), widened(*down, height)
    return left, top, right, bottom


def _masthead(model: str) -> str:
    return (
        f'<div class="masthead"><div><h1>{TITLE}</h1><p>A DenseNet121 sorts images into {", ".join(CLASSES[:-1])} and '
        f"{CLASSES[-1]}, with calibrated probabilities.</p></div>{model}</div>"
    )


def _model_line(found) -> str:
    from pipeline import promotion

    verdict, accuracy = found.gate["verdict"], found.metrics["accuracy"]
    synthetic = found.name == promotion.SYNTHETIC_NAME
    seen = "<br>Trained on synthetic images only: it says nothing about patients." if synthetic else ""
    return (
        f'<div class="model"><strong>{html.escape(found.name)}</strong> version {html.escape(found.version)} '
        f'<span class="chip {verdict}">gate {verdict}</span><br>'
        f"{accuracy['value']:.1%} of {accuracy['n']} test images right ({accuracy['low']:.1%} to {accuracy['high']:.1%})"
        f"{seen}</div>"
    )


def _notice(lines: list[str], kind: str = "") -> str:
    """Sentences in a frame; what stands between back quotes is a command."""
    shown = [re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(line)) for line in lines if line]
    return f'<div class="notice {kind}">{"".join(f"<p>{line}</p>" for line in shown)}</div>'


def _verdict(row: Mapping) -> str:
    probability = row["probabilities"][row["label"]]
    return f'<p class="verdict">{row["label"].capitalize()}<small>{probability:.1%} probability</small></p>'


def _bars(probabilities: Mapping[str, float], threshold: float) -> str:
    rows = []
    for label, probability in probabilities.items():
        tick = f'<span class="tick" style="left: {threshold:.2%}"></span>' if label == CLASSES[MALIGNANT] else ""
        rows.append(
            f'<tr class="{"top" if probability == max(probabilities.values()) else ""}"><th scope="row">{label}</th>'
            f'<td><span class="track"><span class="fill" style="width: {probability:.2%}; background: {COLOURS[label]}">'
            f'</span>{tick}</span></td><td class="number">{probability:.1%}</td></tr>'
        )
    return (
        f'<table class="bars">{"".join(rows)}</table>'
        f'<p class="key"><i></i>operating point for {CLASSES[MALIGNANT]}, {threshold:.1%}</p>'
    )


def _how_sure(record: viewing.TrackRecord) -> str:
    band = f"{record.above:.0%} to {record.up_to:.0%}" if record.above else f"less than {record.up_to:.0%}"
    if not record.n:
        return f'<p class="said">On no test image was the model about this sure ({band}), so how often it is right then is unknown.</p>'
    share = record.right / record.n
    return (
        f'<p class="said">When it was about this sure ({band}) on test images, the model was right in '
        f"<strong>{record.right} of {record.n}: {share:.0%}</strong>, 95 % interval {record.low:.0%} to {record.high:.0%}.</p>"
        f'<span class="track"><span class="range" style="left: {record.low:.2%}; width: {record.high - record.low:.2%}">'
        f'</span><span class="dot" style="left: {share:.2%}"></span></span>'
        '<p class="key">Wilson interval, each test image counted as independent</p>'
    )


def _operating_point(row: Mapping, point: Mapping) -> str:
    probability, threshold = row["probabilities"][CLASSES[MALIGNANT]], point["threshold"]
    reached = probability >= threshold
    although = ""
    if reached and row["label"] != CLASSES[MALIGNANT]:
        although = f", although {row['label']} is more likely"
    elif not reached and row["label"] == CLASSES[MALIGNANT]:
        although = f", although {row['label']} is the likeliest class"
    found, spared = point["sensitivity"], point["specificity"]
    return (
        f'<p class="said">Its probability of {CLASSES[MALIGNANT]} is <strong>{"at or above" if reached else "below"} the '
        f"operating point</strong> of {threshold:.1%}{although}."
        f"<small>Chosen on validation images to find {point['target_sensitivity']:.0%} of the malignant ones. On test "
        f"images it found {found['value']:.0%} of {found['n']} malignant ones ({found['low']:.0%} to {found['high']:.0%}) "
        f"and left alone {spared['value']:.0%} of {spared['n']} others ({spared['low']:.0%} to {spared['high']:.0%})."
        "</small></p>"
    )


def _refusal(row: Mapping) -> list[str]:
    reason = row["reason"].removeprefix("image: ")
    sentence = f"{reason[:1].upper()}{reason[1:]}."
    if row["probabilities"] is None:
        return [sentence]
    return [
        sentence,
        "No class and no probability are given, as they would mean nothing. If this is a scan on a scanner's screen, "
        "crop to the scan.",
    ]


def _rules(rules: list[Mapping]) -> str:
    verdicts = {True: "passed", False: "failed", None: "off"}
    rows = []
    for rule in rules:
        value, threshold = ("none" if rule[part] is None else f"{rule[part]:.3f}" for part in ("value", "threshold"))
        verdict = verdicts[rule["passed"]]
        rows.append(
            f"<tr><td>{html.escape(rule['name'].replace('_', ' '))}</td>"
            f'<td><span class="chip {verdict}">{verdict}</span></td><td class="number">{value}</td>'
            f'<td class="number">{threshold}</td><td>{html.escape(rule["sentence"])}</td></tr>'
        )
    head = "".join(f"<th>{name}</th>" for name in ("rule", "verdict", "value", "threshold", "what was found"))
    return f'<table class="rules"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


main()
