"""Images become what transformers' processors on Pillow make of them; bad ones cost one line and little memory."""

import json
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import transformers
from PIL import Image
from transformers.image_utils import load_image

from wherry.errors import BundleError, InputError
from wherry.vision import ImageProcessor, read_image
from wherry.vision.flattened import Flattener
from wherry.vision.kinds import KINDS
from wherry.vision.views import Viewer

SHAPES = [(90, 130), (131, 64), (40, 40)]
BY_EDGE = {"size": {"shortest_edge": 50}, "crop_size": {"height": 44, "width": 60}}
PATCHED = ("Glm46V", "Glm4v", "PaddleOCRVL", "Qwen2VL")
VIEWED = (*PATCHED, "Idefics3", "LlavaNext", "SmolVLM")
"""Those whose images come in parts or as patches; see `Viewer`."""
ON_TORCHVISION = {
    "Sam2": {
        "size": {"height": 1024, "width": 1024},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "Sam3": {"size": {"height": 1008, "width": 1008}},
}
"""Those that transformers has on torchvision alone, and what they start with, as its source says."""
WHOLE = [kind for kind in KINDS if kind not in (*VIEWED, "Gemma4", "TimmWrapper", *ON_TORCHVISION)]
OPTIONS = [
    *((kind, {}) for kind in WHOLE),
    *(("ViT", {"size": {"height": 40, "width": 60}, "resample": resample}) for resample in range(6)),
    ("ViT", {"do_resize": False, "do_normalize": False}),
    ("ViT", {"do_rescale": False, "image_mean": [100, 110, 120], "image_std": [50, 60, 70]}),
    ("CLIP", BY_EDGE),
    ("CLIP", {"do_resize": False, "crop_size": {"height": 101, "width": 101}}),
    ("Bit", {**BY_EDGE, "do_center_crop": False}),
    ("Blip", {"size": {"height": 33, "width": 34}, "do_rescale": False}),
    ("ConvNext", {"size": {"shortest_edge": 64}, "crop_pct": 0.8}),
    ("Detr", {"size": {"shortest_edge": 64, "longest_edge": 100}}),
    ("Detr", {"size": {"max_height": 70, "max_width": 75}}),
    ("Detr", {"size": {"shortest_edge": 64, "longest_edge": 100}, "pad_size": {"height": 120, "width": 110}}),
    ("Yolos", {"size": {"shortest_edge": 70, "longest_edge": 100}}),
    ("RTDetr", {"do_normalize": True}),
    ("MaskFormer", {"size": {"shortest_edge": 60, "longest_edge": 100}, "size_divisor": 16}),
    ("DPT", {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}),
    ("DPT", {"do_resize": False, "do_pad": True, "size_divisor": 32}),
    ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}),
    ("MobileViT", {"do_flip_channel_order": False}),
    ("PoolFormer", {"size": {"height": 64, "width": 64}, "crop_pct": 0.9}),
    ("Vilt", {"size": {"shortest_edge": 96}}),
]


def picture(height, width):
    random = np.random.default_rng(height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_pixels_are_those_of_transformers(tmp_path, kind, options):
    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    theirs.save_pretrained(tmp_path)
    ours = ImageProcessor.load(tmp_path)
    for image in (picture(*shape) for shape in SHAPES):
        expected, found = theirs(image, return_tensors="np"), ours(image)
        assert found.size == image.size[::-1]
        np.testing.assert_allclose(found.pixels, expected["pixel_values"][0], atol=1e-5, rtol=0)
        if "pixel_mask" in expected:
            np.testing.assert_array_equal(found.mask, expected["pixel_mask"][0])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in VIEWED if kind != "LlavaNext"),  # whose own sizes do not go together
        ("Idefics3", {"size": {"longest_edge": 120}, "max_image_size": {"longest_edge": 40}}),
        ("SmolVLM", {"do_image_splitting": False, "max_image_size": {"longest_edge": 40}}),
        (
            "LlavaNext",
            {
                "size": {"shortest_edge": 40},
                "crop_size": {"height": 40, "width": 40},
                "image_grid_pinpoints": [[40, 80], [80, 40], [80, 80], [40, 120]],
            },
        ),
        (
            "LlavaNext",
            {"size": {"height": 44, "width": 40}, "crop_size": {"height": 56, "width": 56}},
        ),
        ("Qwen2VL", {"patch_size": 8, "merge_size": 3, "min_pixels": 48 * 48, "max_pixels": 72 * 72}),
        ("PaddleOCRVL", {"patch_size": 8, "merge_size": 3, "min_pixels": 48 * 48, "max_pixels": 72 * 72}),
        ("Glm4v", {"patch_size": 8, "merge_size": 3, "size": {"shortest_edge": 3000, "longest_edge": 6000}}),
    ],
)
def test_images_in_parts_and_as_patches(tmp_path, kind, options):
    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    theirs.save_pretrained(tmp_path)
    ours = Viewer.load(tmp_path) if options else Viewer.of({"image_processor_type": f"{kind}ImageProcessor"})
    patches = kind in PATCHED
    for image in (picture(*shape) for shape in (*SHAPES, *[(10, 60), (50, 9)] * patches)):
        expected, found = theirs(image, return_tensors="np"), ours(image)
        pixels = expected["pixel_values"] if patches else expected["pixel_values"][0]
        np.testing.assert_allclose(found.pixels, pixels, atol=1e-5, rtol=0)
        if patches:
            np.testing.assert_array_equal(found.grid, expected["image_grid_thw"])
        else:
            assert len(pixels) == found.rows * found.columns + 1


@pytest.mark.parametrize("options", [{}, {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 70}])
def test_images_as_placed_patches(tmp_path, options):
    """Gemma 4's, which transformers fills up to as many as it may have."""
    theirs = transformers.Gemma4ImageProcessorPil(**options)
    theirs.save_pretrained(tmp_path)
    ours = Viewer.load(tmp_path) if options else Viewer.of({"image_processor_type": "Gemma4ImageProcessor"})
    for image in (picture(*shape) for shape in (*SHAPES, (3, 700), (900, 2), (1100, 900))):
        expected, found = theirs(image, return_tensors="np"), ours(image)
        count, side = len(found.pixels), options.get("pooling_kernel_size", 3)
        np.testing.assert_allclose(found.pixels, expected["pixel_values"][0, :count], atol=1e-5, rtol=0)
        np.testing.assert_array_equal(found.places, expected["image_position_ids"][0, :count])
        assert (expected["image_position_ids"][0, count:] == -1).all()
        assert count == side**2 * expected["num_soft_tokens_per_image"][0]


@pytest.mark.parametrize("told", [{}, {"size": {"longest_edge": 100}, "patch_size": {"height": 10, "width": 12}}])
def test_images_of_whole_patches(tmp_path, told):
    theirs = transformers.PixtralImageProcessorPil(**told)
    theirs.save_pretrained(tmp_path)
    ours = Viewer.load(tmp_path)
    for image in (picture(*shape) for shape in (*SHAPES, (30, 700), (1100, 900))):
        expected, found = theirs(image, return_tensors="np"), ours(image)
        np.testing.assert_allclose(found.pixels, expected["pixel_values"], atol=1e-5, rtol=0)
        assert (found.rows, found.columns) == (0, 0)


@pytest.mark.parametrize(("edge", "offered"), [(100, [[336, 672]]), (336, []), (336, [[0, 336]])])
def test_tiles_that_do_not_fill_an_image(edge, offered):
    settings = {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": offered}
    with pytest.raises(ValueError, match=f"no multiples of tiles of {edge} pixels"):
        Viewer.of(settings | {"crop_size": {"height": edge, "width": edge}})


@pytest.mark.parametrize("options", [{}, {"max_patches": 20, "patch_size": {"height": 8, "width": 12}}])
def test_images_as_patches_that_tell_where_they_are(tmp_path, options):
    """Theirs are resized by torch, which reckons in float32 where Pillow does in float64."""
    theirs = transformers.Pix2StructImageProcessorPil(**options)
    theirs.save_pretrained(tmp_path)
    ours = Flattener.load(tmp_path)
    for image in (*(picture(*shape) for shape in SHAPES), picture(3, 200), Image.new("RGB", (30, 40), "grey")):
        expected, found = theirs(image, return_tensors="np"), ours(image)
        np.testing.assert_allclose(found.pixels, expected["flattened_patches"][0], atol=1e-4, rtol=0)
        np.testing.assert_array_equal(found.mask, expected["attention_mask"][0])


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type is ViTImageProcessor, and the graph"),
        ({"image_processor_type": "Pix2StructImageProcessor", "is_vqa": True}, "does not write questions over images"),
        ({"image_processor_type": "Pix2StructImageProcessor", "max_patches": 0}, "from 1 on"),
    ],
)
def test_settings_that_make_no_patches(tmp_path, settings, part):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(BundleError, match=part) as raised:
        Flattener.load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_that_names_only_its_processor(kind):
    """Older files hold a few settings; the rest is the processor's own."""
    image = picture(90, 130)
    expected = getattr(transformers, f"{kind}ImageProcessorPil")()(image, return_tensors="np")["pixel_values"][0]
    for name in (f"{kind}ImageProcessor", f"{kind}ImageProcessorFast", f"{kind}FeatureExtractor"):
        found = ImageProcessor.of({"image_processor_type": name})(image).pixels
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ON_TORCHVISION)
def test_a_processor_without_a_form_on_pillow(kind):
    """It resizes, scales and normalizes, as ViT's does on Pillow."""
    image = picture(90, 130)
    theirs = transformers.ViTImageProcessorPil(resample=2, **ON_TORCHVISION[kind])
    found = ImageProcessor.of({"image_processor_type": f"{kind}ImageProcessorFast"})(image).pixels
    np.testing.assert_allclose(found, theirs(image, return_tensors="np")["pixel_values"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"image_processor_type": "SuperPointImageProcessor"}, "known are"),
        ({"size": 224}, "no image_processor_type"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "resample"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 0, "width": 4}}, "0 pixels"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"depth": 4}}, "'depth'"),
        ({"image_processor_type": "ViTImageProcessor", "size": "large"}, "cannot be followed"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": [1, 2]}, "cannot be followed"),
        ([], "preprocessor_config.json"),
    ],
)
def test_settings_that_cannot_be_followed(tmp_path, settings, part):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(BundleError, match=part) as raised:
        ImageProcessor.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_no_settings(tmp_path):
    with pytest.raises(BundleError, match=r"preprocessor_config\.json"):
        ImageProcessor.load(tmp_path)


def saved(image, form="PNG", **options):
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def palette():
    image = picture(20, 30).quantize(8)
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    "content",
    [
        saved(picture(20, 30)),
        saved(picture(20, 30), "JPEG"),
        saved(picture(20, 30).convert("CMYK"), "JPEG"),
        saved(picture(20, 30).convert("L")),
        saved(picture(20, 30).convert("1")),
        saved(picture(20, 30).convert("LA")),
        saved(picture(20, 30).convert("RGBA")),
        saved(palette()),
        saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)),
        saved(picture(20, 30), "WEBP"),
        saved(picture(20, 30), "BMP"),
        saved(picture(20, 30), "GIF", save_all=True, append_images=[picture(20, 30).rotate(90)]),
    ],
    ids=["png", "jpeg", "cmyk", "grey", "bits", "grey-alpha", "alpha", "palette", "16-bit", "webp", "bmp", "gif"],
)
def test_files_of_all_modes_are_read_as_transformers_reads_them(tmp_path, content):
    path = tmp_path / "image"
    path.write_bytes(content)
    expected = np.asarray(load_image(str(path)))
    for source in (str(path), path, content, Image.open(path)):
        np.testing.assert_array_equal(np.asarray(read_image(source)), expected)


@pytest.mark.parametrize("turn", range(1, 9))
def test_images_are_turned_as_their_cameras_say(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    picture(20, 30).save(tmp_path / "image.png", exif=exif)
    found = np.asarray(read_image(tmp_path / "image.png"))
    np.testing.assert_array_equal(found, np.asarray(load_image(str(tmp_path / "image.png"))))
    assert found.shape[:2] == ((20, 30) if turn < 5 else (30, 20))


def header(width, height):
    """A PNG that says it is so large and holds a few bytes."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(99))),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return chunks


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (b"", "no image"),
        (b"%PDF-1.7 not an image", "no image"),
        (saved(picture(9, 9), "TIFF"), "it must be PNG"),
        (saved(picture(90, 90))[:2000], "damaged"),
        (saved(picture(90, 90), "JPEG")[:900], "damaged"),
        (saved(picture(90, 90), "WEBP")[:300], "image"),
        (header(50_000, 50_000), "million pixels"),
        (header(0, 5), "image"),
        (header(9_000, 9_999), "million pixels"),
        (np.zeros((4, 4, 4), np.uint8), "4 x 4 x 4"),
        (np.zeros((4, 4), np.uint8), "height x width x 3"),
        (np.full((4, 4, 3), np.nan), "float64"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (7, "is a int"),
        (None, "NoneType"),
        ("https://example.org/cat.png", "not fetched"),
        ("absent.png", "absent.png"),
        ("nul\0.png", "cannot read"),
    ],
)
def test_what_is_no_image_is_one_line(source, part):
    with pytest.raises(InputError, match=part) as raised:
        read_image(source)
    assert "\n" not in str(raised.value)


def test_a_shape_that_would_be_resized_to_too_much():
    processor = ImageProcessor.of({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 4000}})
    with pytest.raises(InputError, match="another shape"):
        processor(Image.new("RGB", (30_000, 10)))
