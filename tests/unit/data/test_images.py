"""Reading an image file: every format and mode becomes 8-bit gray, and what is damaged or too large is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from busi.data.images import MAX_PIXELS, prepare, printable, read_image, to_gray
from tests import bad_images

GRAY = bad_images.pixels(1)


def test_png_keeps_every_pixel(tmp_path):
    path = tmp_path / "a (1).png"
    path.write_bytes(bad_images.encoded(GRAY))
    for source in (path, str(path), path.read_bytes()):
        image = read_image(source)
        assert (image.format, image.mode, image.size) == ("PNG", "L", (48, 40))
        np.testing.assert_array_equal(to_gray(image), GRAY)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16"])
def test_gray_is_the_same_in_every_lossless_mode(mode):
    image = read_image(bad_images.in_mode(mode, GRAY))
    assert image.mode == mode
    gray = to_gray(image)
    assert gray.dtype == np.uint8
    np.testing.assert_array_equal(gray, GRAY)


def test_one_bit_is_black_and_white():
    mask = bad_images.disc()
    image = read_image(bad_images.encoded(mask))
    assert image.mode == "1"
    np.testing.assert_array_equal(to_gray(image), np.where(mask, 255, 0))


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("BMP", {}), ("TIFF", {})])
def test_other_formats(kind, options):
    image = read_image(bad_images.encoded(GRAY, kind, **options))
    assert image.format == kind
    assert np.abs(to_gray(image).astype(int) - GRAY).max() <= 8


def test_cmyk_jpeg():
    picture = Image.fromarray(GRAY).convert("RGB").convert("CMYK")
    image = read_image(bad_images.encoded(picture, "JPEG", quality=95))
    assert image.mode == "CMYK"
    assert np.abs(to_gray(image).astype(int) - GRAY).max() <= 12


def test_sixteen_bits_are_rounded_and_not_cut():
    values = np.array([[0, 128, 129, 257 * 7, 65535, 65535 - 129]], dtype=np.uint16)
    np.testing.assert_array_equal(to_gray(read_image(bad_images.encoded(values))), [[0, 0, 1, 7, 255, 254]])
    tiff = values.astype(">u2")
    np.testing.assert_array_equal(to_gray(Image.frombytes("I;16B", (6, 1), tiff.tobytes())), [[0, 0, 1, 7, 255, 254]])


def test_transparency_is_composited_on_black():
    alpha = np.full_like(GRAY, 255)
    alpha[:, :10] = 0
    expected = np.where(alpha == 0, 0, GRAY)
    la = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(alpha)])
    for picture in (la, la.convert("RGBA")):
        np.testing.assert_array_equal(to_gray(read_image(bad_images.encoded(picture))), expected)
    keyed = np.full((4, 4), 200, np.uint8)
    keyed[0] = 90
    image = read_image(bad_images.encoded(keyed, transparency=200))
    np.testing.assert_array_equal(to_gray(image), np.where(keyed == 200, 0, keyed))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is not an image\n" * 5, "not an image"),
        (bad_images.truncated(bad_images.encoded(GRAY)), "truncated"),
        (bad_images.truncated(bad_images.encoded(GRAY, "JPEG", quality=95)), "(?i)truncated"),
        (bad_images.encoded(GRAY)[:20], "(?i)truncated"),
        (bad_images.encoded(GRAY, "GIF"), "a GIF image"),
        (bad_images.bomb(), "expected at most"),
        (bad_images.bomb(MAX_PIXELS // 8000 + 1, 8000), "expected at most"),
        (bad_images.encoded(GRAY.astype(np.float32), "TIFF"), "pixel type F"),
        (bad_images.encoded(GRAY.astype(np.int32), "TIFF"), "pixel type I"),
        (
            bad_images.encoded(
                Image.fromarray(GRAY), "TIFF", save_all=True, append_images=[Image.fromarray(GRAY[::-1].copy())]
            ),
            "several frames",
        ),
    ],
)
def test_refused(data, reason, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    for source, name in ((data, "shown.png"), (path, None)):
        with pytest.raises(ValueError, match=reason) as caught:
            read_image(source, name)
        message = str(caught.value)
        assert message.startswith(f"{name or path}: ")
        assert "expected" in message


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.png: cannot be opened"):
        read_image(tmp_path / "none.png")


def test_newline_in_a_name_does_not_break_the_message():
    with pytest.raises(ValueError, match=r"^a\\nb: ") as caught:
        read_image(b"", "a\nb")
    assert "\n" not in str(caught.value)
    assert printable("Brüste (1).png") == "Brüste (1).png"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_a_value_error(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"]))
    content = bytearray(bad_images.encoded(GRAY, kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = read_image(bytes(content))
    except ValueError:
        return
    assert to_gray(image).shape == (image.height, image.width)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_prepare_gives_a_gray_square(width, height, size):
    image = Image.fromarray(bad_images.pixels(3, width, height))
    square = prepare(image, size)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    assert (square == square[:, :, :1]).all()
    assert square.min() >= np.asarray(image).min()
    assert square.max() <= np.asarray(image).max()
    np.testing.assert_array_equal(square, prepare(image, size))


def test_prepare_is_antialiased_and_leaves_its_input():
    checker = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    image = Image.fromarray(checker)
    assert np.abs(prepare(image, 8).astype(int) - 127).max() <= 8
    np.testing.assert_array_equal(np.asarray(image), checker)


def test_prepare_refuses_a_size_below_one():
    with pytest.raises(ValueError, match="at least 1"):
        prepare(Image.fromarray(GRAY), 0)
