"""Models that see images among words, measured on rows of both: the manifest's figures are those of transformers."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
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
from wherry.errors import InputError
from wherry.pipelines import pipeline
from wherry_exporter import export
from wherry_exporter.data import read_rows
from wherry_exporter.examine import Examiner, configuration
from wherry_exporter.load import Checkpoint
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
MERGED = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 64,
    "num_heads": 4,
    "intermediate_size": 48,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
SPECIAL = (
    "<image>",
    "<video>",
    "<start>",
    "<fake_token_around_image>",
    "<global-img>",
    "[IMG_BREAK]",
    "[IMG_END]",
)
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
    vocabulary |= {f"<{number}>": number for number in set(range(160)) - set(vocabulary.values())}
    rust = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    rust.decoder = decoders.Fuse()
    rust.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        unk_token="[UNK]",
        pad_token="[UNK]",
        bos_token="<1>",
        eos_token="<2>",
        image_token="<image>",
        extra_special_tokens={
            "image_token": "<image>",
            "video_token": "<video>",
            "boi_token": "<start>",
            "eoi_token": "<global-img>",
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
            "audio_token": "<fake_token_around_image>",
            "boa_token": "[IMG_BREAK]",
            "eoa_token": "[IMG_END]",
        },
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


def llava_next(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**VISION, "model_type": "clip_vision_model"}
    sizes = [[32, 64], [64, 32], [64, 64], [32, 96]]
    config = transformers.LlavaNextConfig(
        text_config=LONG, vision_config=vision, image_token_id=150, image_grid_pinpoints=sizes
    )
    size = {"height": 32, "width": 32}
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=size, image_grid_pinpoints=sizes
    )
    processor = transformers.LlavaNextProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


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
        place: what stands for an image.
        rows: those of `ROWS` that the processor takes.
    """

    model: Any
    processor: Any
    mark: str
    place: str
    rows: list[dict[str, str]]
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


def smolvlm(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE
    config = transformers.SmolVLMConfig(text_config=LONG, vision_config=VISION, scale_factor=2, image_token_id=150)
    size, part = {"longest_edge": 64}, {"longest_edge": 32}
    images = transformers.SmolVLMImageProcessorPil(size=size, max_image_size=part)
    processor = transformers.SmolVLMProcessor(images, tokenizer, None, image_seq_len=4)
    return transformers.SmolVLMForConditionalGeneration(config), processor


def gemma3(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE.replace("<image>", "<start>")
    text = {**LONG, "model_type": "gemma3_text", "head_dim": 16, "tie_word_embeddings": False}
    text |= {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32}
    ids = {"image_token_index": 150, "boi_token_index": 152, "eoi_token_index": 154}
    config = transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, **ids)
    images = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.Gemma3Processor(images, tokenizer, image_seq_length=4)
    return transformers.Gemma3ForConditionalGeneration(config), processor


def gemma4(tokenizer: Any) -> tuple[Any, Any]:
    """As the small ones: it hears, tokens add to each layer, and the last layers have the keys and values of others."""
    adding = {"vocab_size_per_layer_input": 160, "hidden_size_per_layer_input": 8}
    heads = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    sounds = {**heads, "output_proj_dims": 32, "subsampling_conv_channels": [16, 4]}
    return _gemma4(tokenizer, sounds, num_hidden_layers=4, num_kv_shared_layers=2, **adding)


def gemma4_ahead(tokenizer: Any) -> tuple[Any, Any]:
    """As the large ones: an image's tokens attend to all of it, in layers with a window."""
    alone = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
    return _gemma4(tokenizer, None, use_bidirectional_attention="vision", **alone)


def _gemma4(tokenizer: Any, sounds: dict[str, Any] | None, **more: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE
    heads = {"head_dim": 16, "global_head_dim": 32, "num_global_key_value_heads": 1, "sliding_window": 96}
    text = {**LONG, **heads, "layer_types": None, "tie_word_embeddings": False} | more
    text["layer_types"] = ["sliding_attention", "full_attention"] * (text["num_hidden_layers"] // 2)
    vision = {
        **VISION,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
    }
    vision["use_clipped_linears"] = True
    ids = {"image_token_id": 150, "boi_token_id": 152, "eoi_token_id": 154}
    ids |= {"audio_token_id": 153, "boa_token_id": 155, "eoa_token_index": 156}
    config = transformers.Gemma4Config(
        tie_word_embeddings=False, text_config=text, vision_config=vision, audio_config=sounds, **ids
    )
    model = transformers.Gemma4ForConditionalGeneration(config)
    for name, bound in model.named_buffers():
        if name.endswith(("put_min", "put_max")):
            bound.fill_(1.5 if name.endswith("max") else -1.5)
    images = transformers.Gemma4ImageProcessorPil(patch_size=8, pooling_kernel_size=2, max_soft_tokens=70)
    extractor = transformers.Gemma4AudioFeatureExtractor(feature_size=16)
    return model, transformers.Gemma4Processor(extractor, images, tokenizer, SimpleNamespace())


def paligemma(tokenizer: Any) -> tuple[Any, Any]:
    text = {**LONG, "model_type": "gemma", "head_dim": 16, "tie_word_embeddings": False}
    vision = {**VISION, "model_type": "siglip_vision_model", "projection_dim": 64}
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=vision, projection_dim=64, image_token_index=150
    )
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return transformers.PaliGemmaForConditionalGeneration(config), transformers.PaliGemmaProcessor(images, tokenizer)


def qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**MERGED, "window_size": 32, "fullatt_block_indexes": [1]}
    return in_3d(tokenizer, "Qwen2_5_VL", "qwen2_5_vl_text", vision)


def qwen3_vl(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**MERGED, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    return in_3d(tokenizer, "Qwen3VL", "qwen3_vl_text", vision)


def qwen3_5(tokenizer: Any) -> tuple[Any, Any]:
    heads = {"head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
    sizes = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    kinds = {"layer_types": ["linear_attention", "full_attention"]}
    return in_3d(
        tokenizer, "Qwen3_5", "qwen3_5_text", {**MERGED, "num_position_embeddings": 16}, **heads, **sizes, **kinds
    )


def paddleocr_vl(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {**LONG, "head_dim": 16, "rope_parameters": rope, "tie_word_embeddings": False}
    vision = {**VISION, "spatial_merge_size": 2}
    config = transformers.PaddleOCRVLConfig(text_config=text, vision_config=vision, **IDS, tie_word_embeddings=False)
    images = transformers.PaddleOCRVLImageProcessorPil(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 64)
    processor = transformers.PaddleOCRVLProcessor(images, tokenizer)
    return transformers.PaddleOCRVLForConditionalGeneration(config), processor


def glm4v(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**MERGED, "image_size": 32}
    images = transformers.Glm4vImageProcessorPil(patch_size=8, size={"shortest_edge": 2048, "longest_edge": 8192})
    model, _ = in_3d(tokenizer, "Glm4v", "glm4v_text", vision, tie_word_embeddings=False)
    return model, transformers.Glm4vProcessor(images, tokenizer, SimpleNamespace())


def qwen3_vl_moe(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**MERGED, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return in_3d(tokenizer, "Qwen3VLMoe", "qwen3_vl_moe_text", vision, **experts)


def glm_ocr(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**MERGED, "image_size": 32}
    images = transformers.Glm46VImageProcessorPil(patch_size=8, size={"shortest_edge": 2048, "longest_edge": 8192})
    model, _ = in_3d(tokenizer, "GlmOcr", "glm_ocr_text", vision, tie_word_embeddings=False)
    return model, transformers.Glm46VProcessor(images, tokenizer, SimpleNamespace())


def lighton_ocr(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE
    text = {**LONG, "model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False}
    vision = {**VISION, "model_type": "pixtral", "head_dim": 8}
    config = transformers.LightOnOcrConfig(
        text_config=text, vision_config=vision, spatial_merge_size=2, image_token_id=150, tie_word_embeddings=False
    )
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": 40}, patch_size=16)
    processor = transformers.LightOnOcrProcessor(images, tokenizer, patch_size=8, spatial_merge_size=2)
    return transformers.LightOnOcrForConditionalGeneration(config), processor


def deepseek_vl(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**VISION, "model_type": "siglip_vision_model"}
    config = transformers.DeepseekVLConfig(text_config=LONG, vision_config=vision, image_token_id=150)
    images = transformers.DeepseekVLImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.DeepseekVLProcessor(images, tokenizer, num_image_tokens=16)
    return transformers.DeepseekVLForConditionalGeneration(config), processor


def janus(tokenizer: Any) -> tuple[Any, Any]:
    vision = {**VISION, "model_type": "janus_vision_model", "projection_dim": 64, "mlp_ratio": 2}
    codes = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "num_patches": 4, "embed_dim": 8}
    codes |= {"num_embeddings": 16, "projection_dim": 64, "image_token_embed_dim": 64}
    config = transformers.JanusConfig(text_config=LONG, vision_config=vision, vq_config=codes, image_token_id=150)
    images = transformers.JanusImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.JanusProcessor(images, tokenizer, num_image_tokens=16)
    return transformers.JanusForConditionalGeneration(config), processor


def in_3d(tokenizer: Any, kind: str, words: str, vision: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    tokenizer.chat_template = TEMPLATE
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
    text = {**LONG, "model_type": words, "rope_parameters": rope, "tie_word_embeddings": False, "head_dim": 16} | more
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **IDS)
    images = transformers.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 64)
    processor = getattr(transformers, f"{kind}Processor", transformers.Qwen3VLProcessor)(images, tokenizer)
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


MAKERS = {
    maker.__name__: maker
    for maker in (
        llava,
        llava_next,
        idefics3,
        qwen2_vl,
        florence2,
        smolvlm,
        gemma3,
        gemma4,
        gemma4_ahead,
        paligemma,
        qwen2_5_vl,
        qwen3_vl,
        qwen3_5,
        paddleocr_vl,
        glm4v,
        glm_ocr,
        lighton_ocr,
        deepseek_vl,
        janus,
        qwen3_vl_moe,
    )
}
OFTEN = ("llava_next", "idefics3", "qwen2_vl")
READ_APART = (
    "llava",
    "llava_next",
    "idefics3",
    "qwen2_vl",
    "smolvlm",
    "gemma4",
    "qwen2_5_vl",
    "qwen3_vl",
    "paddleocr_vl",
    "glm_ocr",
    "lighton_ocr",
    "deepseek_vl",
    "janus",
)
"""Those whose prompts another graph may read: in the others tokens attend to later ones, or to an encoder."""
SWEPT = [pytest.param(name, marks=pytest.mark.sweep) for name in MAKERS if name not in OFTEN]


@pytest.fixture(scope="module", params=[*OFTEN, *SWEPT])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(int(request.param == "florence2"))  # whose tokens are ties without
    with without_videos():
        model, processor = MAKERS[request.param](words())
        processor.chat_template = processor.tokenizer.chat_template
        processor.save_pretrained(folder / "model")
    if request.param == "idefics3":  # as its processor was published
        template = folder / "model/chat_template.jinja"
        (folder / "model/chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
        template.unlink()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.15)
    model.eval().save_pretrained(folder / "model")
    Checkpoint(model, "image-text-to-text", {}, "", None, None)  # which lets any model be asked for features
    if request.param == "smolvlm":  # which its chats ask for numbers, images or not
        processor.video_processor = SimpleNamespace(num_frames=1, fps=1)
    random = np.random.default_rng(0)
    for name, size in (("wide", (24, 48, 3)), ("high", (48, 30, 3))):
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{name}.png")
    mark = "<image>" if request.param in ("llava", "llava_next", "deepseek_vl", "janus") else ""
    place = "<start>" if request.param == "gemma3" else "<image>"
    rows = ROWS[:2] if request.param == "paligemma" else ROWS
    told = [row | {"text": (mark if "image" in row else "") + row["text"]} for row in rows]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in told))
    small = "int8" if request.param == "florence2" else "int4"
    bundle = export(
        folder / "model",
        folder / "bundle",
        precision=["fp32", small],
        verify_data=data,
        calibration=data,
        fast_prefill=request.param in READ_APART,
    )
    return Seen(model, processor, mark, place, rows, folder, bundle)


def losses(seen: Seen, row: dict[str, str]) -> list[float]:
    """How unlikely the original finds each token of the row's label."""
    images = [Image.open(seen.folder / row["image"]).convert("RGB")] if "image" in row else None
    template = seen.processor.tokenizer.chat_template
    text = (seen.place if images and (template or seen.mark) else "") + row["text"]
    given = seen.processor(text=[f"user:{text}" if template else text], images=images, return_tensors="pt")
    answer = seen.processor.tokenizer(row["label"], return_tensors="pt").input_ids
    if seen.model.config.is_encoder_decoder:
        with torch.no_grad():
            logits = seen.model(**given, decoder_input_ids=torch.cat([torch.tensor([[2]]), answer[:, :-1]], 1)).logits
        return torch.nn.functional.cross_entropy(logits[0], answer[0], reduction="none").tolist()
    given["input_ids"] = torch.cat([given["input_ids"], answer], 1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    given.pop("labels", None)
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros_like(answer)], 1)
    if seen.model.config.model_type == "paligemma":  # whose answers do not see what follows
        given["token_type_ids"] = torch.cat([given["token_type_ids"], torch.ones_like(answer)], 1)
    with torch.no_grad():
        logits = seen.model(**given).logits[0, -answer.shape[1] - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, answer[0], reduction="none").tolist()


def test_perplexity_of_labels_is_that_of_transformers(seen):
    if seen.model.config.model_type == "qwen3_5":
        pytest.skip("transformers loads a tokenizer of this model's folder as its own class, which drops these spaces")
    found = json.loads((seen.bundle.folder / "wherry.json").read_text(encoding="utf-8"))["variants"]
    each = [losses(seen, row) for row in seen.rows]
    for precision, variant in found.items():
        data = variant["data"]
        assert (data["rows"], data["group_gap_of"]) == (len(seen.rows), "perplexity")
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


def test_a_graph_of_its_own_reads_a_prompt_but_for_its_last_token(seen):
    variant = seen.bundle.variants["int8" if seen.model.config.is_encoder_decoder else "int4"]
    if "prefill" not in variant.graphs:
        pytest.skip("it has none")
    pipe = pipeline(model=seen.bundle.folder, precision="int4", device="cpu")
    prompt = pipe.asking(str(seen.folder / "wide.png"), "What is this?")
    tokens, given = pipe.encode(prompt, pipe.defaults, truncation=False)
    row = np.array(tokens)
    batch = pipe.decoder.batch(1, len(row) + 1)
    batch.add(row[None], given)
    heads = {name: array[..., :-1] if name == "position_ids" else array[:, :-1] for name, array in given.items()}
    places = np.arange(len(row) - 1)[None]
    feeds = pipe.decoder.feeds(row[None, :-1], places, np.ones_like(places), heads)
    session = pipe.decoder.prefill
    empty = {port.name: np.zeros((1, port.shape[1], 0, port.shape[3]), np.float32) for port in pipe.decoder.past}
    feeds = {name: array for name, array in feeds.items() if name in session.inputs}
    expected = session.raw.run(pipe.decoder.present, feeds | empty)
    for found, each in zip(batch.read(0, len(row) - 1), expected, strict=True):
        assert np.array_equal(found, each[0])


def test_images_that_do_not_fit_are_refused_in_one_line(seen, tmp_path, capsys):
    text = "What is this?" if seen.mark else f"What is {seen.place}this, and what is {seen.place}this?"
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
    front = PromptFront(seen.bundle.folder, seen.model, 2)
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
    if seen.model.config.is_encoder_decoder:
        pytest.skip("the pipeline runs no encoder that reads words and images")
    with without_videos():
        return transformers.pipeline(
            "image-text-to-text",
            model=str(seen.folder / "model"),
            processor=seen.processor,
            tokenizer=seen.processor.tokenizer,
            device="cpu",
        )


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


def test_an_image_is_asked_about_from_the_command_line(seen, theirs, capsys):
    image = str(seen.folder / "wide.png")
    parts = [{"type": "image", "url": image}, {"type": "text", "text": "What is this?"}]
    chat = seen.processor.tokenizer.chat_template is not None
    prompt = (
        {"text": [{"role": "user", "content": parts}]} if chat else {"images": image, "text": "<image>What is this?"}
    )
    greedy = {"generate_kwargs": {"do_sample": False}, "return_full_text": False, "max_new_tokens": 8}
    expected = theirs(**prompt, **greedy)[0]["generated_text"]
    words = ["run", str(seen.bundle.folder), image, "--precision", "fp32", "--max-new-tokens", "8"]
    assert main([*words, "--question", "What is this?"]) == 0
    assert capsys.readouterr().out == f"{image}\n  {expected}\n"
    assert main([*words, "--question", "What is this?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["generated_text"] == expected
    assert main([*words, "--question", "What is this?", "--stream"]) == 0
    assert capsys.readouterr().out == f"{expected}\n"
    assert main(words) == 2
    assert (
        capsys.readouterr().err
        == "wherry: image-text-to-text needs --question, such as --question 'What is a wherry?'\n"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("wide.png", "no place"), "0 places for 1 images"),
        (("none.png", "{place}?"), "none.png"),
        (([["wide.png"]], ["a", "b"]), "2 texts and images for 1"),
        ((5,), "a prompt must be a str or a chat, not int"),
        (([{"role": "user", "content": [{"type": "image"}]}],), "a part of type image needs one of"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(seen, theirs, given, told):
    pipe = pipeline(model=seen.bundle.folder, device="cpu")
    filled = [str(seen.folder / each) if str(each).endswith(".png") else each for each in given]
    if isinstance(filled[-1], str):
        filled[-1] = filled[-1].replace("{place}", pipe.prompts.place)
    with pytest.raises(InputError, match=told):
        pipe(*filled)


@pytest.mark.parametrize("seen", [pytest.param("gemma4", marks=pytest.mark.sweep)], indirect=True)
def test_what_sees_may_hear_too(seen, tmp_path):
    """A bundle for images among words has the graph of sounds' features, and runs for those."""
    pipe = pipeline("audio-text-to-text", seen.bundle.folder, device="cpu")
    random = np.random.default_rng(0)
    sounds = [(random.standard_normal(count) * 0.1).astype(np.float32) for count in (9000, 21_001)]
    text = "A<fake_token_around_image> and <fake_token_around_image>?"
    given = seen.processor(text=[text], audio=sounds, return_tensors="pt")
    options: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    answer = seen.model.generate(**given, **options, output_logits=True, return_dict_in_generate=True)
    tokens = answer.sequences[0, given["input_ids"].shape[1] :]
    (found,), (other,) = (pipe(each, text, logprobs=True, **options) for each in (sounds, sounds[::-1]))
    for told, turned, token, logits in zip(found["logprobs"], other["logprobs"], tokens, answer.logits, strict=True):
        assert told.token == token
        assert told.logprob == pytest.approx(float(logits[0].log_softmax(-1)[token]), abs=1e-4)
        assert abs(told.logprob - turned.logprob) > 1e-3  # what is heard counts, and where
    with pytest.raises(InputError, match=r"sound 0 has 31.0 seconds, of which this model hears 30: cut it first"):
        pipe(np.zeros(31 * 16_000, np.float32), "<fake_token_around_image>")


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("kind", "merged", "rows"), [("Mistral3", 2, ((2, 3), (3, 2))), ("Llava", 1, ((3, 5), (5, 4)))]
)
def test_rows_of_features_are_told_apart(tmp_path, kind, merged, rows):
    """As the processor of Mistral 3 and of Pixtral does, which transformers does not make without torchvision."""
    text = {**LONG, "model_type": "mistral", "head_dim": 16, "tie_word_embeddings": False}
    vision = {**VISION, "model_type": "pixtral", "head_dim": 8}
    torch.manual_seed(0)
    settings: dict[str, Any] = {"text_config": text, "vision_config": vision, "image_token_id": 150}
    settings |= {"vision_feature_layer": -1, "spatial_merge_size": merged, "vision_feature_select_strategy": "full"}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.15)
    model.save_pretrained(tmp_path / "model")
    tokenizer = words()
    tokenizer.save_pretrained(tmp_path / "model")
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": 40}, patch_size=8 * merged)
    images.save_pretrained(tmp_path / "model")
    told = {"processor_class": "PixtralProcessor", "patch_size": 8, "spatial_merge_size": merged}
    told["image_token"] = "<image>"
    (tmp_path / "model/processor_config.json").write_text(json.dumps(told))
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)) for size in ((24, 48, 3), (48, 30, 3))]
    bundle = export(tmp_path / "model", tmp_path / "bundle", precision=["fp32"])

    given = images(pictures, return_tensors="pt")
    sizes = [[8 * merged * length for length in each] for each in rows]
    assert given["image_sizes"].tolist() == sizes  # 20 by 40 and 40 by 25, filled up to whole features
    row = "[IMG_BREAK]".join
    seen = [f"{row(['<image>' * wide] * high)}[IMG_END]" for high, wide in rows]
    ids = tokenizer(f"A{seen[0]} and {seen[1]}?", return_tensors="pt").input_ids
    expected = model.generate(ids, **given, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    pipe = pipeline(model=bundle.folder, device="cpu")
    asked = {"images": pictures, "text": "A<image> and <image>?", "return_full_text": False}
    (found,) = pipe(**asked, max_new_tokens=12, do_sample=False)
    assert len(expected) > 4
    assert found["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)
