"""Rows that a user gives, and inputs made of them: every kind of file, and one line for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, ViTImageProcessor, WhisperFeatureExtractor

from wherry_exporter import export
from wherry_exporter.data import Row, read_rows
from wherry_exporter.errors import UsageError
from wherry_exporter.front import Front


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)
    return path


def tone(path: Path, rate: int, channels: int = 1) -> Path:
    """Half a second of 440 Hz."""
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, 1), rate, subtype="FLOAT")
    return path


def test_a_text_on_each_line(tmp_path):
    path = written(tmp_path / "data.txt", "The river is wide.\r\n\n   \nÉté; 我是\n  a\u2028b ")
    assert [row.text for row in read_rows(path)] == ["The river is wide.", "Été; 我是", "  a\u2028b "]
    assert read_rows(str(path))[1].place == f"{path}, line 4"


def test_an_object_on_each_line(tmp_path):
    picture(tmp_path / "images" / "a.png")
    rows = [
        {"text": "good", "text_pair": "bad", "label": "calm", "group": "de"},
        {"image": "images/a.png", "label": 2, "group": 7},
        {"text": "Ada", "label": [{"start": 0, "end": 3, "label": "PER"}]},
    ]
    path = written(tmp_path / "data.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n")
    assert read_rows(path) == [
        Row(f"{path}, line 1", text="good", text_pair="bad", label="calm", group="de"),
        Row(f"{path}, line 2", image=tmp_path / "images/a.png", label=2, group="7"),
        Row(f"{path}, line 3", text="Ada", label=[{"start": 0, "end": 3, "label": "PER"}]),
    ]


def test_a_folder_whose_subfolders_are_labels(tmp_path):
    for name in ("cat/b.png", "cat/a.JPG", "dog/c.webp", "top.jpeg"):
        picture(tmp_path / name)
    tone(tmp_path / "dog" / "bark.wav", 16000)
    written(tmp_path / "cat" / "notes.md", "no image")
    found = {(row.image or row.audio).name: row.label for row in read_rows(tmp_path)}
    assert found == {"a.JPG": "cat", "b.png": "cat", "c.webp": "dog", "bark.wav": "dog", "top.jpeg": None}


def test_one_image_or_sound(tmp_path):
    assert read_rows(picture(tmp_path / "a.png"))[0].image == tmp_path / "a.png"
    assert read_rows(tone(tmp_path / "a.wav", 8000))[0].audio == tmp_path / "a.wav"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such file or folder: {path}"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', "{path}, line 2: not JSON"),
        ("a.jsonl", "[" * 100_000, "{path}, line 1: not JSON"),
        ("a.jsonl", '["a"]', "{path}, line 1: not a JSON object"),
        ("a.jsonl", '{"text": "a", "lable": 1}', "{path}, line 1: unknown lable; a row has text, text_pair"),
        ("a.jsonl", '{"label": "calm"}', "{path}, line 1: no text, image or audio; a row has"),
        ("a.jsonl", '{"text": 5}', "{path}, line 1: text is no string"),
        ("a.jsonl", '{"text": null}', "{path}, line 1: text is no string"),
        ("a.jsonl", '{"image": ["a.png"]}', "{path}, line 1: image is no string"),
        ("a.jsonl", '{"text": "a"}\n{"image": "none.png"}', "{path}, line 2: no such file: {folder}/none.png"),
        ("a.jsonl", '{"image": ""}', "{path}, line 1: no such file: {folder}"),
        ("a.txt", b"caf\xe9\n", "{path} is not UTF-8 text: byte 3 is 0xe9"),
        ("a.jsonl", b'{"text": "\xff"}', "{path} is not UTF-8 text: byte 10 is 0xff"),
        ("a.txt", "", "{path} holds no rows"),
        ("a.jsonl", "\n \n", "{path} holds no rows"),
        ("folder/notes.md", "no image", "{folder}/folder holds no rows"),
        ("a.csv", "text,label\n", "{path} is neither text (.txt, .jsonl) nor an image nor a sound"),
    ],
)
def test_a_mistake_in_rows_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        written(path, content)
    with pytest.raises(UsageError) as caught:
        read_rows(path.parent if name.startswith("folder/") else path)
    assert str(caught.value).startswith(message.format(path=path, folder=tmp_path))
    assert "\n" not in str(caught.value)


def test_texts_are_tokenized_as_transformers_does(classifier):
    front = Front(classifier, ["input_ids", "attention_mask", "token_type_ids"], 512)
    texts, pairs = ["The sea is calm.", "ok"], ["Is it?", "A storm is coming"]
    made = front.feed([Row("", text=text, text_pair=pair) for text, pair in zip(texts, pairs, strict=True)])
    expected = AutoTokenizer.from_pretrained(classifier)(texts, pairs, padding=True, return_tensors="np")
    assert list(made) == ["input_ids", "attention_mask", "token_type_ids"]
    for name, array in made.items():
        np.testing.assert_array_equal(array, expected[name])
    assert front.feed([Row("", text="calm " * 1000)])["input_ids"].shape == (1, 256)
    assert Front(classifier, ["input_ids"], 12).feed([Row("", text="calm " * 1000)])["input_ids"].shape == (1, 12)


def test_rows_of_texts_that_lack_one(classifier, tmp_path):
    front = Front(classifier, ["input_ids"], 512)
    with pytest.raises(UsageError, match=r"^line 2: no text, which this model takes$"):
        front.feed([Row("line 1", text="a"), Row("line 2", image=tmp_path / "a.png")])
    with pytest.raises(UsageError, match=r"^line 2: no text_pair, which other rows have$"):
        front.feed([Row("line 1", text="a", text_pair="b"), Row("line 2", text="c")])
    with pytest.raises(UsageError, match=r"^rows cannot be turned into bbox, which this model takes$"):
        Front(classifier, ["input_ids", "bbox"], 512).feed([Row("line 1", text="a")])


@pytest.fixture
def vision(tmp_path):
    folder = tmp_path / "vision"
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return Front(folder, ["pixel_values"], 0)


def test_images_are_prepared_by_the_checkpoints_processor(vision, tmp_path):
    paths = [picture(tmp_path / "a.png"), picture(tmp_path / "b.jpg", (0, 255, 0))]
    Image.new("L", (20, 20), 128).save(tmp_path / "grey.png")
    Image.new("RGBA", (20, 20), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    paths += [tmp_path / "grey.png", tmp_path / "clear.png"]
    values = vision.feed([Row("", image=path) for path in paths])["pixel_values"]
    processor = AutoImageProcessor.from_pretrained(vision.folder)
    expected = processor([Image.open(path).convert("RGB") for path in paths], return_tensors="np").pixel_values
    assert values.dtype == np.float32
    assert values.shape == (4, 3, 16, 16)
    np.testing.assert_array_equal(values, expected)


def test_images_that_lack_or_cannot_be_read(vision, tmp_path, classifier):
    with pytest.raises(UsageError, match=r"^line 3: no image, which this model takes$"):
        vision.feed([Row("line 3", text="a cat")])
    whole = picture(tmp_path / "a.png").read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        broken = written(tmp_path / "broken.png", content)
        with pytest.raises(UsageError, match=r"^line 4: .*broken.png is no image that can be read: [^\n]*$"):
            vision.feed([Row("line 4", image=broken)])
    with pytest.raises(UsageError, match=r"^the checkpoint's preprocessor cannot be loaded: "):
        Front(classifier, ["pixel_values"], 0).feed([Row("", image=picture(tmp_path / "b.png"))])


@pytest.fixture
def hearing(tmp_path):
    folder = tmp_path / "hearing"
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder)
    return Front(folder, ["input_features"], 0)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
def test_sounds_of_any_sampling_rate_and_channels(hearing, tmp_path, rate, channels):
    """440 Hz are where they are at the model's own rate: the loudest band, and nearly the same features."""
    features = hearing.feed([Row("", audio=tone(tmp_path / "tone.wav", rate, channels))])["input_features"]
    wave = np.sin(2 * np.pi * 440 * np.arange(8000) / 16000).astype(np.float32) * 0.3
    expected = WhisperFeatureExtractor(chunk_length=1)(wave, sampling_rate=16000, return_tensors="np").input_features
    assert features.shape == expected.shape
    assert features.dtype == np.float32
    middle = slice(5, 40)
    assert (features[0].argmax(0)[middle] == expected[0].argmax(0)[middle]).all()
    np.testing.assert_allclose(features[..., middle].max(1), expected[..., middle].max(1), atol=0.02)


def test_sounds_that_lack_or_cannot_be_read(hearing, tmp_path):
    with pytest.raises(UsageError, match=r"^line 1: no audio, which this model takes$"):
        hearing.feed([Row("line 1", text="hello")])
    broken = written(tmp_path / "broken.wav", b"RIFF no sound")
    with pytest.raises(UsageError, match=r"^line 2: .*broken.wav is no sound that can be read: [^\n]*$"):
        hearing.feed([Row("line 2", audio=broken)])


def test_rows_hold_no_videos(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.VideoMAEConfig(**sizes, image_size=16, patch_size=8, num_frames=2)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "model")
    (tmp_path / "rows.txt").write_text("a row\n")
    for asked in ("verify_data", "calibration"):
        with pytest.raises(UsageError, match="video-classification cannot be examined on rows yet: leave"):
            export(tmp_path / "model", tmp_path / "bundle", **{asked: tmp_path / "rows.txt"})
    assert not (tmp_path / "bundle").exists()
