"""timm's own checkpoints: what their config.json says of images, and, where timm is installed, an export."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from wherry import pipeline
from wherry.vision import ImageProcessor
from wherry_exporter import ExportError, export
from wherry_exporter.load import load
from wherry_exporter.timm_form import in_transformers_words, preprocessor

TOLD = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
TOLD |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("changed", "size", "resample"),
    [
        ({}, {"shortest_edge": 235}, 3),
        ({"crop_pct": 0.9, "interpolation": "bilinear"}, {"shortest_edge": 248}, 2),
        ({"crop_pct": 1.0, "crop_mode": "squash", "input_size": [3, 256, 128]}, {"height": 256, "width": 128}, 3),
    ],
)
def test_how_images_are_prepared(changed, size, resample):
    """Sizes as timm 1.0 prints its transforms."""
    told = json.loads(preprocessor({"pretrained_cfg": TOLD | changed})["preprocessor_config.json"])
    assert (told["size"], told["resample"]) == (size, resample)
    height, width = (TOLD | changed)["input_size"][1:]
    assert told["crop_size"] == {"height": height, "width": width}
    assert told["image_mean"] == TOLD["mean"]


def test_an_odd_line_is_cut_off_above(tmp_path):
    """torchvision rounds half of an odd number to an even one: 235 - 224 is 11, and 6 lines go above."""
    (tmp_path / "preprocessor_config.json").write_bytes(
        preprocessor({"pretrained_cfg": TOLD})["preprocessor_config.json"]
    )
    rows = np.repeat(np.arange(235, dtype=np.uint8)[:, None, None], 235, 1).repeat(3, 2)
    pixels = ImageProcessor.load(tmp_path)(Image.fromarray(rows)).pixels
    first = pixels[0, 0, 0] * TOLD["std"][0] + TOLD["mean"][0]
    assert round(float(first) * 255) == 6


def test_what_no_processor_does(tmp_path):
    with pytest.warns(UserWarning, match=r"no image processor prepares as this model's do \(border, bicubic\)"):
        assert preprocessor({"pretrained_cfg": TOLD | {"crop_mode": "border"}}) == {}


def checkpoint(folder, arch="resnet18", told=TOLD):
    config = {"architecture": arch, "num_classes": 3, "pretrained_cfg": told, "label_names": ["tug", "punt", "skiff"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("told", [{"input_size": 5}, {"crop_pct": 0}, {"mean": 3}, {"input_size": "abc"}])
def test_what_makes_no_sense(told, tmp_path):
    raw = {"pretrained_cfg": TOLD | told}
    with pytest.raises(ExportError, match=r"the pretrained_cfg of .*config\.json makes no sense: "):
        in_transformers_words(SimpleNamespace(), raw, tmp_path / "config.json")


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is there")
def test_timm_is_asked_for(tmp_path):
    save_file({"fc.bias": torch.zeros(3)}, checkpoint(tmp_path) / "model.safetensors")
    with pytest.raises(ExportError, match=r"requires the timm library .*`pip install timm`"):
        load(tmp_path)


@pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")
@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224"])
def test_a_checkpoint_of_timm(arch, tmp_path):
    import timm
    from transformers import AutoImageProcessor

    model = timm.create_model(arch, num_classes=3).eval()
    (tmp_path / "timm").mkdir()
    save_file(model.state_dict(), checkpoint(tmp_path / "timm", arch) / "model.safetensors")
    bundle = export(tmp_path / "timm", tmp_path / "bundle", precision=["fp32"])
    assert bundle.task == "image-classification"
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (12, 17, 3)).astype(np.uint8)).resize((510, 360))
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "timm")(image)["pixel_values"]
    with torch.no_grad():
        expected = model(pixels)[0].softmax(-1)
    found = {
        each["label"]: each["score"] for each in pipeline("image-classification", tmp_path / "bundle")(image, top_k=3)
    }
    np.testing.assert_allclose([found[name] for name in ("tug", "punt", "skiff")], expected, atol=1e-5)
