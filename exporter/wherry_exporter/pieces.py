"""The fast form of tokenizers that transformers has in Python only, as Marian's: sentencepiece beside a vocab.json.

Knows nothing of models. What it makes is compared with the original on sentences, and refused where they differ.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wherry_exporter.errors import ExportError
from wherry_exporter.probe import SENTENCES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NEVER = -1e5
"""The score, per character, of tokens that the sentencepiece model does not have, such as those of the target's."""


def fast_form(tokenizer: Any) -> "PreTrainedTokenizerFast":
    """A tokenizer that gives the same ids as Marian's, M2M-100's or a like one.

    It is another in two things: a text's language code (`>>fra<<`) counts wherever it stands, and of several characters
    in a row that the source's model lacks, those count that the vocabulary has.

    Raises:
        ExportError: there is no sentencepiece model, two vocabularies, other ids for a text, or no sentence whose
            characters it knows.
    """
    from transformers import PreTrainedTokenizerFast

    name = type(tokenizer).__name__
    model = getattr(tokenizer, "spm_source", None) or getattr(tokenizer, "sp_model", None)
    if model is None or getattr(tokenizer, "separate_vocabs", False):
        raise ExportError(f"{name} has no fast form: it cannot be saved as tokenizer.json")
    made = PreTrainedTokenizerFast(
        tokenizer_object=_rust(tokenizer, model.serialized_model_proto()),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )
    expected = {text: tokenizer(text)["input_ids"] for text in SENTENCES}
    known = {text: ids for text, ids in expected.items() if tokenizer.unk_token_id not in ids}
    if not known or any(made(text)["input_ids"] != ids for text, ids in known.items()):
        raise ExportError(f"{name} has no fast form: it cannot be saved as tokenizer.json")
    return made


def _rust(tokenizer: Any, model: bytes) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto.FromString(model)
    languages = getattr(tokenizer, "lang_token_to_id", {})
    vocabulary = tokenizer.get_vocab() | languages
    rust = Tokenizer(_segmenter(proto, vocabulary, tokenizer.unk_token))
    spec = proto.normalizer_spec
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    rust.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.add_dummy_prefix else "never"
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    rust.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    rust.add_tokens(list(tokenizer.added_tokens_decoder.values()))
    rust.add_special_tokens(list(languages))
    codes = getattr(tokenizer, "supported_language_codes", ())
    rust.add_tokens([AddedToken(code, normalized=False) for code in codes])
    rust.post_processor = _frame(tokenizer)
    return rust


def _segmenter(proto: Any, vocabulary: dict[str, int], unknown: str) -> Any:
    """The model that cuts words into pieces, with the vocabulary's ids."""
    from tokenizers import models
    from transformers.tokenization_utils_base import generate_merges

    spec, pieces = proto.trainer_spec, [piece for piece in proto.pieces if piece.type in (1, 6)]  # normal, byte
    if spec.model_type == spec.BPE:
        merges = generate_merges({piece.piece: rank for rank, piece in enumerate(pieces)})
        merges = [pair for pair in merges if {*pair, "".join(pair)} <= vocabulary.keys()]
        return models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=spec.byte_fallback)
    scores = {piece.piece: piece.score for piece in pieces}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise ExportError("the vocabulary has gaps: its ids do not go from 0 up; it cannot be saved as tokenizer.json")
    scored = [(token, scores.get(token, NEVER * len(token))) for token in tokens]
    return models.Unigram(scored, unk_id=vocabulary[unknown], byte_fallback=spec.byte_fallback)


def _frame(tokenizer: Any) -> Any:
    """The special tokens around a text and around a pair of texts."""
    from tokenizers.processors import TemplateProcessing

    def shown(ids: Sequence[int]) -> list[str]:
        return [{-1: "$A", -2: "$B"}.get(token) or tokenizer.convert_ids_to_tokens(token) for token in ids]

    single = tokenizer.build_inputs_with_special_tokens([-1])
    pair = tokenizer.build_inputs_with_special_tokens([-1], [-2])
    special = {*single, *pair} - {-1, -2}
    return TemplateProcessing(
        single=shown(single),
        pair=shown(pair),
        special_tokens=[(tokenizer.convert_ids_to_tokens(token), token) for token in special],
    )
