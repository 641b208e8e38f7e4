"""Any image in, 8-bit RGB out."""

import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, PngImagePlugin

from ctnet.images import find_images, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def photo(rng):
    return rng.integers(0, 256, (11, 17, 3)).astype(np.uint8)


@pytest.fixture
def gray(rng):
    return rng.integers(0, 256, (11, 17)).astype(np.uint8)


def as_rgb(gray):
    return np.repeat(gray[..., None], 3, 2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_files_without_loss(tmp_path, photo, suffix, kind):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(photo).save(path)
    np.testing.assert_array_equal(load_image(kind(path)), photo)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_files_with_loss(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.new("RGB", (40, 30), (200, 100, 50)).save(path)
    image = load_image(path)
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.reshape(-1, 3).mean(0), (200, 100, 50), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("opened", [False, True])
def test_exif_orientation(tmp_path, orientation, opened):
    """The file holds the upright picture turned as its EXIF tag says."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = RED, GREEN, BLUE
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(path, exif=exif)
    np.testing.assert_array_equal(load_image(Image.open(path) if opened else path), upright)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "RGBA"])
def test_opaque_pil_modes(mode):
    image = Image.new("RGB", (6, 4), WHITE).convert(mode)
    np.testing.assert_array_equal(load_image(image), np.full((4, 6, 3), 255))


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_transparent_pil_modes_lie_over_white(mode):
    image = Image.new(mode, (6, 4), 0)
    np.testing.assert_array_equal(load_image(image), np.full((4, 6, 3), 255))


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)
    np.testing.assert_allclose(load_image(path)[8, 8], RED, atol=3)


@pytest.mark.parametrize(("opacity", "value"), [(0, 255), (255, 10), (51, 206)])
def test_half_transparency(tmp_path, opacity, value):
    """206 = 10 * 51 / 255 + 255 * 204 / 255."""
    image = Image.new("RGBA", (3, 2), (10, 10, 10, opacity))
    image.save(tmp_path / "glass.png")
    for source in (image, tmp_path / "glass.png", np.array(image)):
        np.testing.assert_array_equal(load_image(source), np.full((2, 3, 3), value))


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "sign.png", transparency=1)
    assert load_image(tmp_path / "sign.png")[0].tolist() == [list(RED), list(WHITE)]


def test_gray_16_bit_with_transparency(tmp_path):
    Image.fromarray(np.array([[0, 514, 65535]], np.uint16)).save(
        tmp_path / "clear.png", transparency=514
    )
    assert load_image(tmp_path / "clear.png")[0, :, 0].tolist() == [0, 255, 255]


def test_16_bit_is_scaled(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    wanted = [0, 0, 1, 1, 128, 254, 255, 255]
    for suffix in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    big_endian = Image.frombytes("I;16B", (8, 1), values.astype(">u2").tobytes())
    int32 = Image.fromarray(values.astype(np.int32))
    for source in (
        values, values[..., None], values.astype(">u2"), torch.from_numpy(values), big_endian,
        int32, Image.fromarray(values), tmp_path / "deep.png", tmp_path / "deep.tiff",
    ):  # fmt: skip
        image = load_image(source)
        assert image.shape == (1, 8, 3)
        assert image[0, :, 1].tolist() == wanted


def test_16_bit_turned_by_exif(tmp_path):
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(values).save(tmp_path / "deep.png", exif=exif)
    assert load_image(tmp_path / "deep.png")[..., 0].tolist() == [[5, 4, 3], [2, 1, 0]]


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (5, 4), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(tmp_path / "film.gif")[0, 0], RED)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays(gray, dtype):
    image = load_image((gray / 255).astype(dtype))
    np.testing.assert_allclose(image[..., 0], gray, atol=0 if dtype != np.float16 else 1)
    assert load_image(np.ones((1, 1), dtype)).tolist() == [[[255, 255, 255]]]


def test_float_pil_image(gray):
    np.testing.assert_array_equal(load_image(Image.fromarray(gray / np.float32(255))), as_rgb(gray))


def test_arrays(photo, gray):
    np.testing.assert_array_equal(load_image(photo), photo)
    np.testing.assert_array_equal(load_image(gray), as_rgb(gray))
    np.testing.assert_array_equal(load_image(gray[..., None]), as_rgb(gray))
    np.testing.assert_array_equal(load_image(gray > 100), as_rgb(np.where(gray > 100, 255, 0)))
    np.testing.assert_array_equal(load_image(photo[::-1, ::2]), photo[::-1, ::2])


def test_answer_is_a_copy(photo):
    image = load_image(photo)
    image[:] = 0
    assert photo.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_tensors(photo, dtype):
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    if dtype != torch.uint8:
        tensor = tensor.to(dtype) / 255
    np.testing.assert_array_equal(load_image(tensor.requires_grad_(dtype != torch.uint8)), photo)
    np.testing.assert_array_equal(load_image(tensor[:1]), as_rgb(photo[..., 0]))
    np.testing.assert_array_equal(load_image(tensor[0]), as_rgb(photo[..., 0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tensors(dtype):
    assert load_image(torch.ones(3, 2, 4, dtype=dtype)).tolist() == [[[255] * 3] * 4] * 2


def test_rounding_errors_of_floats_are_forgiven():
    assert load_image(np.array([[-1e-6, 1 + 1e-6]]))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 2), np.inf), "infinite"),
        (np.full((2, 2), 200.0), "divide 8-bit values by 255"),
        (np.full((2, 2), -0.5), r"in \[0, 1\]"),
        (np.ones((2, 2), int), "uint8"),
        (np.ones((2, 2), complex), "uint8"),
        (np.ones((2, 2, 2), np.uint8), r"\(H,W,3\)"),
        (np.ones((3, 20, 20), np.uint8), "come last"),
        (np.ones(5, np.uint8), r"\(5,\)"),
        (np.ones((1, 2, 2, 3), np.uint8), "shape"),
        (np.ones((0, 3), np.uint8), "no pixels"),
        (torch.ones(3, 2, 2) * 255, "divide"),
        (torch.full((3, 2, 2), torch.nan), "NaN"),
        (torch.ones(20, 20, 3), "come first"),
        (torch.ones(4, 2, 2), r"\(3,H,W\)"),
        (torch.ones(3, 2, 2).long(), "uint8"),
        (torch.ones(()), "tensor"),
        (Image.new("F", (2, 2), 100.0), "divide"),
        (Image.new("I", (2, 2), 70000), "65535"),
        (Image.new("I", (2, 2), -1), "-1"),
        (Image.new("RGB", (0, 2)), "no pixels"),
        (Image.new("I", (0, 2)), "no pixels"),
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_bad_values(source, message):
    with pytest.raises(ValueError, match=message):
        load_image(source)


def test_bad_files(tmp_path, photo):
    with pytest.raises(FileNotFoundError, match=r"no image at .*absent\.png"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="is a folder"):
        load_image(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match="empty file"):
        load_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("no image at all")
    with pytest.raises(ValueError, match=r"text\.jpg is no image"):
        load_image(tmp_path / "text.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_truncated_files(tmp_path, rng, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut\.\w+ cannot be read"):
        load_image(path)


def test_truncated_pil_image(tmp_path, photo):
    path = tmp_path / "cut.png"
    Image.fromarray(photo).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="the PIL image cannot be read"):
        load_image(Image.open(path))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_raise_nothing_else(tmp_path, rng):
    path = tmp_path / "damaged"
    noise = Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    for suffix in ("png", "tiff", "jpeg"):
        noise.save(path, suffix)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(30):
            broken = content.copy()
            broken[rng.integers(len(content), size=5)] = rng.integers(256, size=5)
            path.write_bytes(broken.tobytes())
            try:
                assert load_image(path).dtype == np.uint8
            except ValueError as error:
                assert str(path) in str(error)


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match=r"bomb\.png is too large.*MAX_IMAGE_PIXELS"):
        load_image(tmp_path / "bomb.png")


def test_find_images(tmp_path):
    for name in ("b.JPG", "a.png", "c.tiff", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "deep.png").touch()
    listed = [tmp_path / name for name in ("a.png", "b.JPG", "c.tiff")]
    assert find_images(tmp_path) == listed
    assert find_images(str(tmp_path)) == listed
    single = tmp_path / "notes.txt"
    assert find_images([single, str(tmp_path), "absent.png"])[0] == single
    assert [path.name for path in find_images([tmp_path, "absent.png"])][-1] == "absent.png"
    assert find_images([]) == []


def test_find_images_in_an_empty_folder(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds no images \(.*\.jpg"):
        find_images([tmp_path])


def png_chunk(name: bytes, data: bytes, sound: bool = True) -> bytes:
    check = zlib.crc32(name + data) ^ (not sound)
    return len(data).to_bytes(4, "big") + name + data + check.to_bytes(4, "big")


@pytest.mark.parametrize(
    "note",
    [
        png_chunk(b"tEXt", b"Comment\0hello", sound=False),
        png_chunk(b"eXIf", b"II*\0\x08\0\0\0\x05\0broken"),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 12\nzz\n")),
        png_chunk(b"zTXt", b"Note\0\0" + zlib.compress(bytes(5 << 20))),
        png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(9 << 20))),
        png_chunk(b"iTXt", b"Title\0\1\0en\0\0not deflated"),
    ],
)  # fmt: skip
def test_a_png_with_broken_notes_is_read(tmp_path, photo, note):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    data = path.read_bytes()
    header = data.index(b"IDAT") - 4
    path.write_bytes(data[:header] + note + data[header:])
    assert np.array_equal(load_image(path), photo)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "tiff"])
@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_means_nothing_turns_nothing(tmp_path, photo, suffix, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Software] = "a scanner"
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(photo).save(path, exif=exif.tobytes())
    assert load_image(path).shape == photo.shape


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
@pytest.mark.parametrize("cut", [1, 9, 30, 60])
def test_exif_that_is_cut_off_leaves_the_pixels(tmp_path, photo, suffix, cut):
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "a camera with a long name"
    exif[ExifTags.Base.XResolution] = 72.0
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(photo).save(path, exif=exif.tobytes()[:-cut])
    assert load_image(path).shape == photo.shape


def test_damaged_pixels_of_a_png_with_notes_are_still_refused(tmp_path, photo):
    path = tmp_path / "photo.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "hello")
    Image.fromarray(photo).save(path, pnginfo=info)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="may be damaged"):
        load_image(path)


def test_patterns(tmp_path, monkeypatch):
    names = ("a.jpg", "b.JPE", "c.jfif", "[2024] trip/d.jpg", "[2024] trip/more/e.jpg", ".f/g.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "[2024] trip" / "loop").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)

    def found(*paths: str) -> list[str]:
        return [path.as_posix() for path in find_images(paths)]

    assert found("[2024] trip/*.jpg") == ["[2024] trip/d.jpg"]
    assert found("**/*.jpg") == ["[2024] trip/d.jpg", "[2024] trip/more/e.jpg", "a.jpg"]
    assert found("?.jpg", "a.jpg", str(tmp_path / "a.jpg"), "./a.jpg") == ["a.jpg"]
    assert found(".f/*.jpg") == [".f/g.jpg"]
    assert found(".") == ["a.jpg", "b.JPE", "c.jfif"]
    with pytest.raises(ValueError, match="no file matches"):
        find_images("*.png")
