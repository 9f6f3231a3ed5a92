"""Models that see images among words, measured on rows of both: the manifest's figures are those of transformers."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from wherry.bundle import Bundle
from wherry.cli import main
from wherry.pipelines import pipeline
from wherry_exporter import export
from wherry_exporter.data import read_rows
from wherry_exporter.examine import Examiner, configuration
from wherry_exporter.prompts import PromptFront, without_videos
from wherry_exporter.runners import GraphRunner, TorchRunner

LONG = {
    "model_type": "llama",
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SPECIAL = ("<image>", "<video>", "<start>", "<fake_token_around_image>", "<global-img>")
IDS = {"image_token_id": 150, "video_token_id": 151, "vision_start_token_id": 152}
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
)
ROWS: list[dict[str, str]] = [
    {"image": "wide.png", "text": "What is this?", "label": "a wide one", "group": "wide"},
    {"image": "high.png", "text": "And this?", "label": "high", "group": "high"},
    {"text": "No image at all.", "label": "none", "group": "high"},
]


def words() -> Any:
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,?!:"
    vocabulary = {letter: number + 6 for number, letter in enumerate(characters)} | {"[UNK]": 5}
    vocabulary |= {token: number + 150 for number, token in enumerate(SPECIAL)}
    rust = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    rust.decoder = decoders.Fuse()
    rust.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        unk_token="[UNK]",
        pad_token="[UNK]",
        bos_token="!",
        eos_token="?",
        image_token="<image>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def llava(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**VISION, "model_type": "clip_vision_model"}
    config = transformers.LlavaConfig(text_config=LONG, vision_config=vision, image_token_id=150)
    size = {"height": 32, "width": 32}
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    processor = transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def idefics3(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE
    config = transformers.Idefics3Config(text_config=LONG, vision_config=VISION, scale_factor=2, image_token_id=150)
    size, part = {"longest_edge": 64}, {"longest_edge": 32}
    images = transformers.Idefics3ImageProcessorPil(size=size, max_image_size=part, do_image_splitting=True)
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4)
    return transformers.Idefics3ForConditionalGeneration(config), processor


def qwen2_vl(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {**LONG, "model_type": "qwen2_vl_text", "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 64, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **IDS)
    images = transformers.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 64)
    return transformers.Qwen2VLForConditionalGeneration(config), transformers.Qwen2VLProcessor(images, tokenizer)


@dataclass(frozen=True)
class Seen:
    """A checkpoint with its bundle, which has figures on `ROWS`.

    Attributes:
        mark: what a row's text has for its image; nothing where a chat template or the processor puts it there.
    """

    model: Any
    processor: Any
    mark: str
    folder: Path
    bundle: Bundle


def florence2(tokenizer: Any) -> tuple[Any, Any]:
    text = {
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_model"), 64),
        **{name: LONG[name] for name in ("vocab_size", "max_position_embeddings")},
        "model_type": "bart",
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    stages = {
        **{"patch_size": [7, 3], "patch_stride": [8, 4], "patch_padding": [3, 1], "patch_prenorm": [False, True]},
        **{name: [2, 2] for name in ("num_heads", "num_groups")},
        **{"depths": [1, 1], "embed_dim": [8, 8], "window_size": 2, "projection_dim": 64, "drop_path_rate": 0.0},
    }
    config = transformers.Florence2Config(text_config=text, vision_config=stages, image_token_id=150)
    size = {"height": 32, "width": 32}
    images = transformers.CLIPImageProcessorPil(size=size, crop_size=size, image_seq_length=2)
    processor = transformers.Florence2Processor(images, tokenizer)
    return transformers.Florence2ForConditionalGeneration(config), processor


MAKERS = {"llava": llava, "idefics3": idefics3, "qwen2_vl": qwen2_vl, "florence2": florence2}
SWEPT = [pytest.param("florence2", marks=pytest.mark.sweep)]


@pytest.fixture(scope="module", params=["llava", "idefics3", "qwen2_vl", *SWEPT])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    with without_videos():
        model, processor = MAKERS[request.param](words())
        processor.save_pretrained(folder / "model")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.15)
    model.eval().save_pretrained(folder / "model")
    random = np.random.default_rng(0)
    for name, size in (("wide", (24, 48, 3)), ("high", (48, 30, 3))):
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{name}.png")
    mark = "<image>" if request.param == "llava" else ""
    rows = [row | {"text": (mark if "image" in row else "") + row["text"]} for row in ROWS]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = "int8" if request.param == "florence2" else "int4"
    bundle = export(folder / "model", folder / "bundle", precision=["fp32", small], verify_data=data, calibration=data)
    return Seen(model, processor, mark, folder, bundle)


def losses(seen: Seen, row: dict[str, str]) -> list[float]:
    """How unlikely the original finds each token of the row's label."""
    images = [Image.open(seen.folder / row["image"]).convert("RGB")] if "image" in row else None
    template = seen.processor.tokenizer.chat_template
    text = ("<image>" if images and (template or seen.mark) else "") + row["text"]
    given = seen.processor(text=[f"user:{text}" if template else text], images=images, return_tensors="pt")
    answer = seen.processor.tokenizer(row["label"], return_tensors="pt").input_ids
    if seen.model.config.is_encoder_decoder:
        with torch.no_grad():
            logits = seen.model(**given, decoder_input_ids=torch.cat([torch.tensor([[2]]), answer[:, :-1]], 1)).logits
        return torch.nn.functional.cross_entropy(logits[0], answer[0], reduction="none").tolist()
    given["input_ids"] = torch.cat([given["input_ids"], answer], 1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros_like(answer)], 1)
    with torch.no_grad():
        logits = seen.model(**given).logits[0, -answer.shape[1] - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, answer[0], reduction="none").tolist()


def test_perplexity_of_labels_is_that_of_transformers(seen):
    found = json.loads((seen.bundle.folder / "wherry.json").read_text(encoding="utf-8"))["variants"]
    each = [losses(seen, row) for row in ROWS]
    for precision, variant in found.items():
        data = variant["data"]
        assert (data["rows"], data["group_gap_of"]) == (3, "perplexity")
        for figures, rows in (
            (data["figures"], each),
            (data["groups"]["wide"], each[:1]),
            (data["groups"]["high"], each[1:]),
        ):
            expected = math.exp(np.concatenate(rows).mean())
            assert figures["perplexity_torch"] == pytest.approx(expected, rel=1e-4)
            assert figures["perplexity"] == pytest.approx(expected, rel=1e-4 if precision == "fp32" else 0.3)
    assert found["fp32"]["data"]["figures"]["top1"] == 1
    exact, small = (variant["data"]["figures"]["perplexity"] for variant in found.values())
    assert exact != small


def test_images_that_do_not_fit_are_refused_in_one_line(seen, tmp_path, capsys):
    text = "What is this?" if seen.mark else "What is <image>this, and what is <image>this?"
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"image": str(seen.folder / "wide.png"), "text": text}))
    words = ["export", str(seen.folder / "model"), "-o", str(tmp_path / "out"), "--verify-data", str(data)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"wherry: {data}, line 1: the checkpoint's processor fails on it: ")
    assert error.endswith("; is there no <image> in the text?\n") == bool(seen.mark)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_rows_without_labels_are_answered_as_by_transformers(seen):
    rows = read_rows(seen.folder / "data.jsonl")[:2]
    front = PromptFront(seen.folder / "model", seen.model, 2)
    unlabelled = [replace(row, label=None) for row in rows]
    task, original = "image-text-to-text", TorchRunner(seen.model)
    examiner = Examiner(unlabelled, front, original, task, "vision-language", configuration({}, 2, None))
    runner = GraphRunner(
        {role: seen.bundle.folder / path for role, path in seen.bundle.variants["fp32"].graphs.items()}
    )
    report = examiner.measure(runner)
    assert (report.metric, report.parity.top1, report.parity.vectors) == (None, 1, 2 * 32)
    prompt = {name: torch.from_numpy(value) for name, value in front.prompt(rows[0]).inputs.items()}
    expected = seen.model.generate(**prompt, max_new_tokens=13, do_sample=False, eos_token_id=None)[:, -13:-1]
    assert examiner.work(runner)().tolist() == expected.tolist()


@pytest.fixture(scope="module")
def theirs(seen):
    """transformers' pipeline."""
    with without_videos():
        return transformers.pipeline("image-text-to-text", model=str(seen.folder / "model"), device="cpu")


def asked(seen, *names):
    """A prompt as both pipelines take it: (images, text) or a chat."""
    paths = [str(seen.folder / f"{name}.png") for name in names]
    if seen.processor.tokenizer.chat_template is None:
        return {"images": paths, "text": "<image>" * len(paths) + "What is this?"}
    parts = [part for path in paths for part in ({"type": "image", "url": path}, {"type": "text", "text": "this?"})]
    return {"text": [{"role": "user", "content": parts}]}


@pytest.mark.parametrize("names", [["wide"], ["high"], ["wide", "high"]], ids="-".join)
def test_the_pipeline_answers_as_transformers_does(seen, theirs, names):
    pipe = pipeline(model=seen.bundle.folder, device="cpu")
    prompt = asked(seen, *names)
    expected = theirs(**prompt, max_new_tokens=12, generate_kwargs={"do_sample": False})
    assert pipe(**prompt, max_new_tokens=12, do_sample=False) == expected
    whole = theirs(**prompt, max_new_tokens=12, return_full_text=False, generate_kwargs={"do_sample": False})
    assert pipe(**prompt, max_new_tokens=12, do_sample=False, return_full_text=False) == whole
    assert "".join(pipe.stream(**prompt, max_new_tokens=12, do_sample=False)) == whole[0]["generated_text"]
