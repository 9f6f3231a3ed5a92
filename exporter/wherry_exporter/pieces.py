"""The fast form of tokenizers that keep a sentencepiece model, and may have a vocab.json beside it, as Marian's."""

from typing import Any

from wherry_exporter.errors import ExportError

NEVER = -1e5
"""The score, per character, of tokens that the sentencepiece model does not have, such as those of the target's."""


def of_pieces(tokenizer: Any) -> Any:
    """What cuts a text into the pieces of Marian's, M2M-100's or a like model; None for tokenizers of another kind.

    Raises:
        ExportError: the vocabulary has gaps.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import import_protobuf

    model = getattr(tokenizer, "spm_source", None) or getattr(tokenizer, "sp_model", None)
    if model is None or getattr(tokenizer, "separate_vocabs", False):
        return None
    proto = import_protobuf().ModelProto.FromString(model.serialized_model_proto())
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
    rust.add_special_tokens(list(languages))
    codes = getattr(tokenizer, "supported_language_codes", ())
    rust.add_tokens([AddedToken(code, normalized=False) for code in codes])
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
