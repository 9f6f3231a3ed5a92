"""The fast form of tokenizers that transformers has in Python only: of sentencepiece, bytes, characters and words.

Knows nothing of models. What it makes is compared with the original on sentences, and refused where they differ.
"""

from typing import TYPE_CHECKING, Any

from wherry_exporter.errors import ExportError
from wherry_exporter.pieces import of_pieces
from wherry_exporter.probe import SENTENCES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PLANES = (0, 1, 2, 3, 14)
"""Of Unicode, those in which characters are assigned or may be, 65,536 each; the others would be 18 MB of the file."""
SURROGATES = range(0xD800, 0xE000)
REPLACEMENT = "\ufffd"


def fast_form(tokenizer: Any) -> "PreTrainedTokenizerFast":
    """A tokenizer that gives the same ids as one of Marian's, M2M-100's, ByT5's, CANINE's, ESM's or ProphetNet's kind.

    It is another in three things: a text's language code (`>>fra<<`) counts wherever it stands; of several characters
    in a row that a sentencepiece model lacks, those count that the vocabulary has; and characters of the planes in
    which Unicode has none, and of the last two, for private use, are U+FFFD to a tokenizer of characters.

    Raises:
        ExportError: it is of another kind, has two vocabularies, gives other ids for a text, or knows the characters
            of no sentence.
    """
    from transformers import PreTrainedTokenizerFast

    refusal = ExportError(f"{type(tokenizer).__name__} has no fast form: it cannot be saved as tokenizer.json")
    pieces = of_pieces(tokenizer)
    rust = pieces or _of_bytes(tokenizer) or _of_characters(tokenizer) or _of_words(tokenizer) or _of_tokens(tokenizer)
    if rust is None:
        raise refusal
    for token in tokenizer.added_tokens_decoder.values():
        token.special = token.special or token.content in tokenizer.all_special_tokens
        rust.add_tokens([token])
    rust.post_processor = _frame(tokenizer, rust)
    made = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **tokenizer.special_tokens_map,
    )
    expected = {text: dict(tokenizer(text)) for text in SENTENCES}
    if pieces:  # which may have none of the target's characters
        expected = {text: read for text, read in expected.items() if tokenizer.unk_token_id not in read["input_ids"]}
    if not expected or any(dict(made(text)) != read for text, read in expected.items()):
        raise refusal
    return made


def _of_bytes(tokenizer: Any) -> Any:
    """As ByT5's and Perceiver's: a token for each byte of UTF-8, after the special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if not hasattr(tokenizer, "_utf_vocab_size"):
        return None
    special = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    signs = bytes_to_unicode()
    vocabulary = special | {sign: tokenizer.convert_tokens_to_ids(chr(byte)) for byte, sign in signs.items()}
    rust = Tokenizer(models.BPE(vocabulary, []))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.decoder = decoders.ByteLevel()
    return rust


def _of_characters(tokenizer: Any) -> Any:
    """As CANINE's: each character is its number in Unicode."""
    from tokenizers import Tokenizer, decoders, models

    if not hasattr(tokenizer, "_unicode_vocab_size"):
        return None
    numbers = (number for plane in PLANES for number in range(plane << 16, plane + 1 << 16))
    vocabulary = {chr(number): number for number in numbers if number not in SURROGATES}
    rust = Tokenizer(models.BPE(vocabulary, [], unk_token=REPLACEMENT))
    rust.decoder = decoders.Fuse()
    return rust


def _of_words(tokenizer: Any) -> Any:
    """As BERT's, of which ProphetNet has a copy."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    basic = getattr(tokenizer, "basic_tokenizer", None)
    if basic is None or not hasattr(tokenizer, "wordpiece_tokenizer"):
        return None
    longest = tokenizer.wordpiece_tokenizer.max_input_chars_per_word
    words = models.WordPiece(tokenizer.vocab, unk_token=str(tokenizer.unk_token), max_input_chars_per_word=longest)
    rust = Tokenizer(words)
    rust.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=basic.tokenize_chinese_chars,
        strip_accents=basic.strip_accents,
        lowercase=basic.do_lower_case,
    )
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    return rust


def _of_tokens(tokenizer: Any) -> Any:
    """As ESM's: the tokens of a short list wherever they stand, and what is between them unknown."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    if not hasattr(tokenizer, "unique_no_split_tokens"):
        return None
    rust = Tokenizer(models.WordLevel(tokenizer.get_vocab(), unk_token=str(tokenizer.unk_token)))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rust.add_tokens([AddedToken(token, normalized=False) for token in tokenizer.unique_no_split_tokens])
    return rust


def _frame(tokenizer: Any, rust: Any) -> Any:
    """The special tokens around a text and around a pair of texts."""
    from tokenizers.processors import TemplateProcessing

    single = tokenizer.build_inputs_with_special_tokens([-1])
    pair = tokenizer.build_inputs_with_special_tokens([-1], [-2])
    names = {token: rust.id_to_token(token) for token in {*single, *pair} - {-1, -2}}
    shown = {**names, -1: "$A", -2: "$B"}
    return TemplateProcessing(
        single=[shown[token] for token in single],
        pair=[shown[token] for token in pair],
        special_tokens=[(name, token) for token, name in names.items()],
    )
