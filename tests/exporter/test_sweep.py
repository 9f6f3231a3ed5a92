"""Architectures that are not in `test_families.py`, one after another: each crosses.

Their configurations are transformers' own, made tiny by the names of their settings alone.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from onnxruntime import InferenceSession
from transformers import PreTrainedConfig

from wherry_exporter.export import export

pytestmark = pytest.mark.sweep

WIDTHS = "hidden_size d_model n_embd dim emb_dim embed_dim word_embed_proj_dim"
LAYERS = (
    "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers num_encoder_layers"
)
HEADS = "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads"
INNER = "intermediate_size ffn_dim d_ff dff d_inner n_inner encoder_ffn_dim decoder_ffn_dim ffn_hidden_size hidden_dim"
POSITIONS = "max_position_embeddings n_positions"
EXPERTS = "num_experts num_local_experts n_routed_experts moe_num_experts"
SIZES: dict[str, Any] = {
    **dict.fromkeys(WIDTHS.split(), 64),
    **dict.fromkeys(LAYERS.split(), 2),
    **dict.fromkeys(HEADS.split(), 4),
    **dict.fromkeys(INNER.split(), 96),
    **dict.fromkeys(POSITIONS.split(), 128),
    **dict.fromkeys(EXPERTS.split(), 4),
    "vocab_size": 120,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    "head_dim": 16,
    "d_kv": 16,
    "projection_dim": 32,
    "embedding_size": 32,
    "sliding_window": 6,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.15,
    "init_std": 0.15,
}
"""Names of settings to what is small."""

OFTEN_NONE = ("num_key_value_heads", "head_dim")
"""Settings that are none where others tell them, which are small then."""

NAMES = """
GPTBigCodeForCausalLM FalconForCausalLM MptForCausalLM PhiForCausalLM PhimoeForCausalLM Qwen2MoeForCausalLM
Qwen3MoeForCausalLM GemmaForCausalLM GraniteForCausalLM GraniteMoeForCausalLM OlmoForCausalLM Olmo2ForCausalLM
Olmo3ForCausalLM OlmoeForCausalLM CohereForCausalLM Cohere2ForCausalLM StableLmForCausalLM Starcoder2ForCausalLM
MixtralForCausalLM PersimmonForCausalLM XGLMForCausalLM BioGptForCausalLM CTRLLMHeadModel
ModernBertDecoderForCausalLM BlenderbotForConditionalGeneration BlenderbotSmallForConditionalGeneration
PLBartForConditionalGeneration BigBirdPegasusForConditionalGeneration MvpForConditionalGeneration
MobileBertForMaskedLM ConvBertForMaskedLM CamembertForMaskedLM XLMWithLMHeadModel XLNetModel FlaubertModel
NystromformerForMaskedLM BigBirdForMaskedLM RoFormerForMaskedLM MegatronBertForMaskedLM RemBertForMaskedLM DebertaModel
IBertModel Data2VecTextForMaskedLM NomicBertModel EuroBertForMaskedLM GteModel JinaEmbeddingsV3Model
BertGenerationEncoder SplinterModel DPRQuestionEncoder YosoModel MraModel ErnieModel T5EncoderModel UMT5EncoderModel
FNetModel XLMRobertaXLModel RobertaPreLayerNormModel VisualBertModel BeitForImageClassification
Data2VecVisionForImageClassification DeiTForImageClassification Dinov2ForImageClassification DINOv3ViTModel
MobileNetV1ForImageClassification MobileNetV2ForImageClassification MobileViTForImageClassification
GlmForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM HeliumForCausalLM Ernie4_5ForCausalLM Exaone4ForCausalLM
GptOssForCausalLM
NemotronForCausalLM GraniteMoeSharedForCausalLM FalconMambaForCausalLM FalconH1ForCausalLM ArceeForCausalLM
ApertusForCausalLM SeedOssForCausalLM BitNetForCausalLM DiffLlamaForCausalLM JetMoeForCausalLM VaultGemmaForCausalLM
OlmoHybridForCausalLM NanoChatForCausalLM DogeForCausalLM FlexOlmoForCausalLM HunYuanDenseV1ForCausalLM
HunYuanMoEV1ForCausalLM MinistralForCausalLM CwmForCausalLM AfmoeForCausalLM MiniMaxM2ForCausalLM
GPTNeoXJapaneseForCausalLM
OpenAIPrivacyFilterForTokenClassification BridgeTowerModel ParakeetForCTC MoonshineForConditionalGeneration
GraniteSWAForCausalLM GraniteMoeSWAForCausalLM HyperCLOVAXForCausalLM Lfm3ForCausalLM BeamForCausalLM
FlintForCausalLM Kolibri1ForCausalLM MiMoV2FlashForCausalLM UltrabertForMaskedLM Aimv2VisionModel PixioModel
MLCDVisionModel
MarianForCausalLM PegasusForCausalLM MBartForCausalLM BlenderbotForCausalLM TrOCRForCausalLM
PLBartForCausalLM MvpForCausalLM BertForNextSentencePrediction
FunnelModel FunnelForSequenceClassification TapasModel TapasForQuestionAnswering MarkupLMForTokenClassification
LayoutLMForTokenClassification BrosModel CvtForImageClassification CohereAsrForConditionalGeneration
CanaryForConditionalGeneration MllamaForCausalLM GroupViTModel
AriaTextForCausalLM Cohere2MoeForCausalLM Emu3ForCausalLM ExaoneMoeForCausalLM HrmTextForCausalLM HYV3ForCausalLM
HYV4ForCausalLM InklingForCausalLM Inkling2ForCausalLM Jais2ForCausalLM LagunaForCausalLM MellumForCausalLM
MoshiForCausalLM SolarOpenForCausalLM LasrForCTC PPLCNetForImageClassification
"""

SERIES = {
    "num_input_channels": 3,
    "context_length": 32,
    "prediction_length": 8,
    "patch_length": 8,
    "patch_stride": 8,
}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
SWIN = {
    "embed_dim": 12,
    "depths": [1] * 4,
    "num_heads": [2] * 4,
    "window_size": 4,
    "image_size": 64,
}
HGNET = {
    "model_type": "hgnet_v2",
    "embedding_size": 8,
    "depths": [1] * 4,
    "hidden_sizes": [8, 16, 24, 32],
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 16, 24],
    "stage_mid_channels": [8] * 4,
    "stage_out_channels": [16, 16, 24, 32],
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [2] * 4,
    "out_features": ["stage2", "stage3", "stage4"],
}
DETECTOR = {
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "num_queries": 10,
    "num_labels": 5,
}
HYBRID = {
    **DETECTOR,
    "backbone_config": HGNET,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 24, 32],
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "decoder_in_channels": [32] * 3,
    "decoder_attention_heads": 4,
    "num_denoising": 0,
    "head_dim": 8,
}
WINDOWED = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
    "out_features": ["stage2", "stage4"],
}
QUERIES = {
    **DETECTOR,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "group_detr": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "RfDetrForObjectDetection": {
        **QUERIES,
        "backbone_config": {
            **WINDOWED,
            "model_type": "rf_detr_dinov2",
            "num_windows": 2,
            "window_block_indexes": [0, 2],
        },
    },
    "LwDetrForObjectDetection": {
        **QUERIES,
        "backbone_config": {
            **WINDOWED,
            "model_type": "lw_detr_vit",
            "pretrain_image_size": 64,
            "num_windows": 4,
            "num_windows_side": 2,
            "window_block_indices": [0, 2],
        },
        "projector_scale_factors": [1.0],
        "projector_out_channels": 32,
    },
    "Deimv2ForObjectDetection": HYBRID,
    "DFineForObjectDetection": HYBRID,
    "Gemma4ForCausalLM": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "head_dim": 16,
        "global_head_dim": 32,
        "vocab_size_per_layer_input": 120,
        "hidden_size_per_layer_input": 16,
    },
    "DeepseekV3ForCausalLM": MLA,
    "Glm4MoeLiteForCausalLM": MLA,
    "BambaForCausalLM": {
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
    "MgpstrForSceneTextRecognition": {"image_size": [32, 128], "patch_size": 4, "max_token_length": 9},
    "PatchTSTForPrediction": SERIES,
    "PatchTSMixerForPrediction": SERIES,
    "PatchTSTForClassification": SERIES,
    "PatchTSTForRegression": SERIES,
    "PatchTSMixerForTimeSeriesClassification": SERIES,
    "PatchTSMixerForRegression": SERIES,
    "LiltForTokenClassification": {"hidden_size": 96},
    "XmodForMaskedLM": {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
    "LayoutLMv3ForSequenceClassification": {"coordinate_size": 8, "shape_size": 16, "input_size": 32},
    "DepthAnythingForDepthEstimation": {
        "backbone_config": transformers.Dinov2Config(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            out_features=["stage1", "stage2", "stage3", "stage4"],
            reshape_hidden_states=False,
        ),
        "reassemble_hidden_size": 32,
        "neck_hidden_sizes": [16] * 4,
        "fusion_hidden_size": 16,
        "head_hidden_size": 8,
        "patch_size": 14,
    },
    "UperNetForSemanticSegmentation": {
        "backbone_config": transformers.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
        "hidden_size": 16,
        "pool_scales": [1, 2],
        "auxiliary_in_channels": 48,
    },
    "GroundingDinoForObjectDetection": {
        "backbone_config": transformers.SwinConfig(
            **SWIN | {"image_size": 128}, out_features=["stage2", "stage3", "stage4"]
        ),
        "text_config": {
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "vocab_size": 120,
        },
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "decoder_bbox_embed_share": False,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_queries": 5,
    },
    "AlignModel": {
        "vision_config": {"image_size": 64, "hidden_dim": 32, "depth_coefficient": 0.3, "width_coefficient": 0.3},
        "projection_dim": 96,
    },
    "XCLIPModel": {
        "vision_config": {
            **{"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48},
            **{"mit_hidden_size": 32, "mit_num_attention_heads": 4, "mit_num_hidden_layers": 1},
            **{"mit_intermediate_size": 48, "num_frames": 4, "image_size": 32, "patch_size": 8},
        },
        "prompt_layers": 1,
        "prompt_num_attention_heads": 4,
    },
    "FlavaModel": {"hidden_size": 64},
    "BlipForImageTextRetrieval": {"image_text_hidden_size": 16},
    "ViltForImageAndTextRetrieval": {},
    "BridgeTowerForImageAndTextRetrieval": {},
    "GPTJForCausalLM": {"rotary_dim": 8},
    "CodeGenForCausalLM": {"rotary_dim": 8},
    "Mamba2ForCausalLM": {"num_heads": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8},
    "Qwen3NextForCausalLM": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "PvtForImageClassification": {
        "hidden_sizes": [8, 16, 16, 32],
        "depths": [1] * 4,
        "num_attention_heads": [1, 2, 2, 4],
    },
    "PoolFormerForImageClassification": {"hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4},
    "RegNetForImageClassification": {"hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4, "groups_width": 8},
}
"""What names alone do not make small."""


GIVEN = {
    "XCLIPModel": {"text_embeds", "video_embeds", "logits_per_video"},
    "FlavaModel": {"image_embeddings", "text_embeddings", "multimodal_embeddings"},
    "BlipForImageTextRetrieval": {"last_hidden_state", "itm_score"},
    "ViltForImageAndTextRetrieval": {"logits"},
    "BridgeTowerForImageAndTextRetrieval": {"logits"},
}
"""What has no pipeline gives."""


def tiny(config_class: type[PreTrainedConfig], **settings: Any) -> dict[str, Any]:
    own = config_class()
    made: dict[str, Any] = {}
    for name, value in own.to_dict().items():
        inner = getattr(own, name, None) if isinstance(value, dict) else None
        if isinstance(inner, PreTrainedConfig):
            made[name] = {**tiny(type(inner)), "model_type": inner.model_type}
        elif name in SIZES and not isinstance(value, bool) and (isinstance(value, int | float) or name in OFTEN_NONE):
            made[name] = SIZES[name]
        elif name == "layer_types" and value:
            made[name] = [*dict.fromkeys(value), *value][:2]
        elif name.endswith("token_id") and isinstance(value, int) and value >= SIZES["vocab_size"]:
            made[name] = 2
    return made | settings


@pytest.mark.parametrize("name", [*NAMES.split(), *SETTINGS])
def test_crosses(name: str, letters: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**tiny(model_class.config_class, **SETTINGS.get(name, {})))).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # random biases and norms too, so that none can go missing unseen
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path / "model")
    for path in letters.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    bundle = export(tmp_path / "model", tmp_path / "bundle", precision=["fp32"])
    parity = bundle.variants["fp32"].parity or {}
    assert parity["max_abs_diff"] < 1e-3
    assert parity["cosine_min"] > 0.9999
    if name in GIVEN:
        session = InferenceSession(tmp_path / "bundle/onnx/model.onnx", providers=["CPUExecutionProvider"])
        assert {port.name for port in session.get_outputs()} == GIVEN[name]
