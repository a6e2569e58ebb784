"""The page of the app, from top to bottom.

Uploads and results live in the memory of the browser's session, and nowhere else. Every run of the page asks the
registry which version is in Production.

A fault of a file or of the registry is a sentence on the page. A traceback is a bug; it goes to the terminal
(`showErrorDetails` in .streamlit/config.toml).
"""

from collections.abc import Mapping

import streamlit as st
from starlette.formparsers import MultiPartParser

from busi.data import images
from busi.data.layout import IMAGE_SUFFIXES
from busi.reporting import viewing
from busi.serving import MAX_BYTES, read_upload
from pipeline.runtime.errors import StageError
from pipeline.serving.app.crop import Crop, box_of, choose_crop
from pipeline.serving.app.examples import EXAMPLES, example_image
from pipeline.serving.app.heat_map import show_heat_map
from pipeline.serving.app.model import served_model
from pipeline.serving.app.state import File, Preview, classify, file_of, remembered
from pipeline.serving.app.style import CSS, pieces
from pipeline.serving.app.table import show_table, to_table

# Starlette writes an upload larger than this to a temporary file. Uploads must stay in memory
MultiPartParser.spool_max_size = 2 * MAX_BYTES

TITLE = "Breast ultrasound classifier"
EXAMPLE_WIDTH = 160  # pixels
PICTURE_SIDE = 900  # pixels of the picture on the page, at most


def main() -> None:
    st.set_page_config(page_title=TITLE, layout="wide")
    html = pieces()
    st.html(CSS)
    st.html(html.disclaimer_line())
    masthead = st.empty()
    masthead.html(html.masthead(TITLE))
    try:
        served, synthetic = served_model()
    except (StageError, OSError, ValueError) as error:
        st.html(html.failure([line.strip() for line in str(error).splitlines()]))
        st.button("Try again", type="primary")
        return
    masthead.html(html.masthead(TITLE, served, synthetic))
    note_promotion(served)
    files = choose_files()
    if files:
        show_files(served, files)
    show_model(served)
    st.html(html.foot())


def note_promotion(served) -> None:
    """Say so when another version has come into Production since the last run of this page."""
    before, now = st.session_state.get("version"), served.classifier.version
    st.session_state.version = now
    if before not in (None, now):
        st.html(pieces().notice([f"{now} has replaced {before} in Production. Everything below comes from {now}."]))


def choose_files() -> list[File]:
    """The files to classify: those uploaded, or one of the bundled examples."""
    uploaded = st.file_uploader(
        "Images to classify: one or many, PNG, JPEG, BMP or TIFF",
        type=[suffix.lstrip(".") for suffix in IMAGE_SUFFIXES],
        accept_multiple_files=True,
        key="uploads",
    )
    if uploaded:
        return [file_of(upload.name, upload.getvalue()) for upload in uploaded]
    label = "Or try one of these synthetic images"
    if not st.session_state.get("example"):
        show_examples(label)
        return []
    chosen = st.pills(label, list(EXAMPLES), key="example")
    return [file_of(EXAMPLES[chosen], example_image(chosen))]


def show_examples(label: str) -> None:
    """The bundled examples, each with a button that chooses it."""

    def choose(name: str) -> None:
        st.session_state.example = name

    st.html(pieces().label(label))
    with st.container(horizontal=True, key="examples"):
        for name in EXAMPLES:
            with st.container(width=EXAMPLE_WIDTH):
                st.image(example_image(name), width=EXAMPLE_WIDTH)
                st.button(name, key=f"example-{EXAMPLES[name]}", on_click=choose, args=(name,), width="stretch")


def show_files(served, files: list[File]) -> None:
    """Classify the files, and show the table of many, one file in full, and the download."""
    previews, crops = remembered("previews", files), remembered("crops", files)
    answers = classify(served, files, previews, crops)
    table = to_table(files, answers, previews, crops)
    number = 0
    if len(files) > 1:
        st.subheader(f"{len(files)} files", anchor=False)
        accepted = int(table["accepted"].sum())
        unreadable = sum(answer["probabilities"] is None for answer in answers)
        st.html(pieces().count(accepted, len(files) - accepted - unreadable, unreadable))
        show_table(table, [previews[file.key].thumbnail for file in files])
        names = [f"{i}. {file.name}" for i, file in enumerate(files, start=1)]
        number = st.selectbox("File to show", range(len(files)), format_func=names.__getitem__)
    with st.container(border=True, key="result"):
        show_result(served, files[number], answers[number], previews[files[number].key], crops)
    st.download_button(
        "Download as CSV",
        table.to_csv(index=False).encode(),
        file_name="classified.csv",
        mime="text/csv",
        on_click="ignore",
        key="csv",
    )


def show_result(served, file: File, answer: Mapping, preview: Preview, crops: dict[str, Crop]) -> None:
    """One file in full: its picture, and the probabilities with their reading or the reason of a refusal."""
    html, point = pieces(), served.metrics["operating_point"]
    box = box_of(preview, crops.get(file.key))
    st.html(html.headline(file.name, preview.size, box, answer))
    if preview.size is None:
        st.html(html.refusal(answer) + html.signed(answer["model_version"]))
        return
    picture, text = st.columns([10, 11], gap="large")
    with picture:
        left, top, right, bottom = box or (0, 0, *preview.size)
        gray = images.to_gray(read_upload(file.content))
        shown = viewing.shrink(gray[top:bottom, left:right], PICTURE_SIDE)
        if answer["accepted"]:
            show_heat_map(served, file, box, shown, answer["label"])
        else:
            st.image(shown, width="stretch", output_format="PNG")
        choose_crop(file, preview, gray, crops)
    with text:
        if answer["accepted"]:
            record = viewing.track_record(served.predictions, max(answer["probabilities"].values()))
            bars = html.bars(answer["probabilities"], point["threshold"])
            parts = [bars, html.how_sure(record), html.operating_point(answer, point)]
        else:
            parts = [html.refusal(answer)]
        st.html("".join([*parts, html.signed(answer["model_version"])]))


def show_model(served) -> None:
    """The verdict of the gate with its rules, and the model card."""
    st.subheader("The model", anchor=False)
    with st.expander(f"Gate: {served.gate['verdict']}"):
        st.html(pieces().rules(served.gate["rules"]))
    with st.expander("Model card"):
        st.markdown(served.card)
