"""Picture files are what a viewer shows: upright, bright as saved, transparency on white."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from jax_itm.data.images import read_picture
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.errors import UserError
from tests.helpers.errors import refuses

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)
ORIENTATION = 0x0112
# How to store the upright picture so that a viewer, told the number, shows it upright again.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: x.transpose(1, 0, 2)[:, ::-1],
}


def upright() -> np.ndarray:
    """Different in all four corners, and wider than high."""
    pixels = np.empty((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = RED, GREEN, BLUE, (120, 120, 120)
    return pixels


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def tagged(number: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return saved(Image.fromarray(STORED[number](upright())), kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("number", STORED)
def test_pictures_are_upright(kind, number):
    np.testing.assert_allclose(read_picture(tagged(number, kind)).astype(int), upright(), atol=6)


def test_a_broken_exif_turns_nothing():
    plain = Image.fromarray(upright())
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\0", b"Exif\0\0" + b"\xff" * 40):
        np.testing.assert_array_equal(read_picture(saved(plain, "PNG", exif=exif)), upright())
    strange = Image.Exif()
    strange[ORIENTATION] = 9
    np.testing.assert_array_equal(read_picture(saved(plain, "PNG", exif=strange)), upright())


RAMP = np.linspace(0, 1, 256).reshape(16, 16)
GREY = np.round(RAMP * 255)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.round(RAMP * 65535).astype(np.uint16), "PNG"),
        (np.round(RAMP * 65535).astype(np.uint16), "TIFF"),
        (np.round(RAMP * 65535).astype(np.uint16), "PPM"),
        (RAMP.astype(np.float32), "TIFF"),
        (GREY.astype(np.uint8), "PNG"),
    ],
)
def test_more_than_8_bits_keep_their_brightness(pixels, kind):
    actual = read_picture(saved(Image.fromarray(pixels), kind)).astype(int)
    np.testing.assert_allclose(actual, np.repeat(GREY[..., None], 3, axis=2), atol=1)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((8, 8), 70000, np.int32), "pixels of 32 bits"),
        (np.full((8, 8), 1.5, np.float32), "floating-point pixels outside 0 to 1"),
        (np.full((8, 8), np.nan, np.float32), "floating-point pixels outside 0 to 1"),
    ],
)
def test_a_brightness_that_is_not_known_is_refused(pixels, message):
    with pytest.raises(UserError, match=f"image: not a readable image \\({message}") as error:
        read_picture(saved(Image.fromarray(pixels), "TIFF"))
    assert "\n" not in str(error.value)


def with_alpha(mode: str) -> Image.Image:
    """Red, then half transparent red, then nothing, with black below it."""
    pixels = np.zeros((8, 12, 4), np.uint8)
    pixels[:, :8] = (255, 0, 0, 255)
    pixels[:, 4:8, 3] = 128
    picture = Image.fromarray(pixels, "RGBA")
    return picture if mode == "RGBA" else picture.convert(mode)


def test_transparency_is_put_on_white():
    for kind in ("PNG", "WEBP"):
        actual = read_picture(saved(with_alpha("RGBA"), kind, **{"lossless": True} if kind == "WEBP" else {}))
        np.testing.assert_allclose(actual[2, [1, 6, 10]], [(255, 0, 0), (255, 127, 127), (255,) * 3], atol=2)
    grey = read_picture(saved(with_alpha("LA"), "PNG"))
    np.testing.assert_allclose(grey[2, [1, 10], 0], [76, 255], atol=1)
    palette = Image.fromarray(np.uint8([[0, 1], [1, 0]])).convert("P")
    palette.putpalette([*RED, *BLUE])
    for options in ({"transparency": 1}, {"transparency": b"\xff\x00"}):
        actual = read_picture(saved(palette, "PNG", **options))
        np.testing.assert_array_equal(actual, [[RED, (255,) * 3], [(255,) * 3, RED]])
    one_colour = saved(Image.fromarray(upright()), "PNG", transparency=BLUE)  # tRNS of RGB
    assert (read_picture(one_colour)[20, 10] == 255).all() and (read_picture(one_colour)[3, 3] == RED).all()


def test_cmyk_follows_its_profile(monkeypatch):
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    plain = read_picture(saved(inks, "JPEG", quality=100))
    np.testing.assert_allclose(plain[0, 0], (255, 0, 0), atol=3)
    seen = []

    def convert(picture, source, target, outputMode):
        seen.append((ImageCms.getProfileName(source).strip(), outputMode))
        return Image.new("RGB", picture.size, GREEN)

    # No free profile of inks is at hand: what is tested is that the file's own is used.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(inks, "JPEG", icc_profile=profile)
    np.testing.assert_allclose(read_picture(data)[0, 0], plain[0, 0], atol=3)  # does not fit: ignored
    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    assert tuple(read_picture(data)[0, 0]) == GREEN
    assert seen == [("sRGB built-in", "RGB")]


def test_prepare_says_what_was_turned_and_counts_sizes_as_shown(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(tagged(6, "JPEG"))
    (folder / "b.webp").write_bytes(tagged(8, "WEBP"))
    (folder / "c.png").write_bytes(saved(with_alpha("RGBA").resize((48, 32)), "PNG"))
    (folder / "a.csv").write_text("path,caption\na.jpg,A\nb.webp,B\nc.png,C\n")
    summary = prepare("folder", tmp_path / "data", folder)
    assert summary["tally"] == {
        "pictures turned upright by their EXIF": 2,
        "pictures with transparency, put on white": 1,
    }
    assert summary["spreads"]["train"]["width"] == [48, 48, 48]
    split = open_split("folder", tmp_path / "data", "train", "pixels")
    for k in (0, 1):
        np.testing.assert_allclose(split.picture(k).astype(int), upright(), atol=6)


def test_prepare_names_a_picture_of_unknown_brightness(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    Image.fromarray(np.full((8, 8), -1.0, np.float32)).save(folder / "depth.tif")
    (folder / "a.csv").write_text("path,caption\ndepth.tif,A\n")
    refuses(tmp_path, "folder", folder, r"raw/depth\.tif: not a readable image \(floating-point pixels")
