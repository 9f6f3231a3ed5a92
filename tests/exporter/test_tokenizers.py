"""Whatever form a checkpoint's tokenizer has, the bundle's tokenizer.json gives transformers' ids and texts."""

import base64
import io
import json
import random

import pytest
import sentencepiece
from tokenizers import Tokenizer as Rust
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer

from tokenization.corpus import MULTILINGUAL, corpus
from wherry_exporter import ExportError
from wherry_exporter.load import carried
from wherry_tokenization import Tokenizer

PROSE = [line for line in corpus() if line.isascii()][:400]
LINES = [line for line in corpus() if not any(line.count(sign * 4) for sign in line)][::12]  # runs of a sign are ties
LINES += [*MULTILINGUAL, "  two  spaces ", "tab\there\n", "", " ", "a </s> b <pad> c [MASK] <mask>", "<extra_id_0> x"]
ASSIGNED = [line for line in LINES if "unassigned" not in line]

FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
LLAMA = {**FAIRSEQ, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
DEBERTA = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
DEBERTA |= {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]"]}
ALBERT |= {"user_defined_symbols": ["[MASK]"]}

SPEECHT5 = {"model_type": "char", "bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "vocab_size": 120}

ALONE = {
    "t5": ("spiece.model", T5, {"extra_ids": 10}),
    "mt5": ("spiece.model", {**T5, "byte_fallback": True}, {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}),
    "llama": ("tokenizer.model", LLAMA, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": True}),
    "xlm-roberta": ("sentencepiece.bpe.model", FAIRSEQ, {}),
    "mbart": ("sentencepiece.bpe.model", FAIRSEQ, {"src_lang": "de_DE", "tgt_lang": "en_XX"}),
    "m2m_100": (
        "sentencepiece.bpe.model",
        {**FAIRSEQ, "model_type": "bpe"},
        {"tokenizer_class": "NllbTokenizer", "src_lang": "fra_Latn"},
    ),
    "pegasus": ("spiece.model", T5, {}),
    "deberta-v2": ("spm.model", DEBERTA, {"do_lower_case": True}),
    "albert": ("spiece.model", ALBERT, {"do_lower_case": False, "keep_accents": True}),
}
"""Families whose vocabulary is a sentencepiece model alone: its name, how it is trained, and the configuration."""


def train(path, lines=PROSE, **options):
    """Write a sentencepiece model; its pieces."""
    made = io.BytesIO()
    options = {"vocab_size": 400, "hard_vocab_limit": False, "minloglevel": 2, **options}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=made, **options)
    path.write_bytes(made.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    return [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]


def write(folder, name, content):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def bundled(folder, task="fill-mask"):
    """wherry's tokenizer of what a bundle has of a checkpoint's folder."""
    for name, content in carried(folder, task, AutoConfig.from_pretrained(folder)).items():
        (folder / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "bundle" / name).write_bytes(content)
    return Tokenizer.load(folder / "bundle")


def assert_alike(ours, theirs, lines=LINES, *, decode=(True, False)):
    assert (ours.vocab_size, ours.padding_side) == (len(theirs), theirs.padding_side)
    assert (ours.model_max_length or 10**30) == min(theirs.model_max_length, 10**30)
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id"), role
    for line in lines:
        ids = theirs(line)["input_ids"]
        assert ours.encode(line).input_ids[0].tolist() == ids, line
        for skip in decode:
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip), line
    pair = theirs(lines[0], lines[1])["input_ids"]
    assert ours.encode(lines[0], lines[1]).input_ids[0].tolist() == pair


@pytest.mark.parametrize("family", ALONE)
def test_a_sentencepiece_model_alone(family, tmp_path):
    name, options, config = ALONE[family]
    train(tmp_path / name, **options)
    write(tmp_path, "config.json", {"model_type": family})
    write(tmp_path, "tokenizer_config.json", config)
    assert_alike(bundled(tmp_path), AutoTokenizer.from_pretrained(tmp_path))


def test_letters_of_speecht5(tmp_path):
    """Another is only a space before `<mask>`, and how characters are written that the model does not know."""
    letters = train(tmp_path / "spm_char.model", **SPEECHT5)
    write(tmp_path, "config.json", {"model_type": "speecht5"})
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "SpeechT5Tokenizer"})
    write(tmp_path, "added_tokens.json", {"<mask>": len(letters), "<ctc_blank>": len(letters) + 1})
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    known = [line for line in LINES if "<mask>" not in line and theirs.unk_token_id not in theirs(line)["input_ids"]]
    assert len(known) > 20
    assert_alike(bundled(tmp_path, "text-to-audio"), theirs, known)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A folder as Helsinki's: two sentencepiece models, and a vocabulary of the pieces of both in another order."""
    folder = tmp_path_factory.mktemp("marian")
    options = {"unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1}
    pieces = train(folder / "source.spm", **options) + train(
        folder / "target.spm", [*PROSE[::3], "Straße"], character_coverage=1.0, **options
    )
    pieces = [piece for piece in dict.fromkeys(pieces) if piece != "<unk>"]
    random.Random(0).shuffle(pieces)
    words = ["</s>", "<unk>", *pieces, ">>fra<<", ">>deu<<", "<pad>"]
    write(folder, "vocab.json", {word: number for number, word in enumerate(words)})
    write(folder, "tokenizer_config.json", {"source_lang": "eng", "target_lang": "deu"})
    write(folder, "config.json", {"model_type": "marian"})
    return folder


def known(folder, lines):
    """The lines that the source's model has all characters of."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    return [line for line in lines if pieces.unk_id() not in pieces.encode(line)]


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian(marian):
    ours, theirs = bundled(marian, "text2text-generation"), AutoTokenizer.from_pretrained(marian)
    coded = [">>fra<< How are you?", ">>deu<<How are you?", "Straße"]
    lines = known(marian, LINES) + coded
    assert len(lines) > 100
    assert_alike(ours, theirs, lines, decode=[True])
    assert ours.encode(">>fra<< a").input_ids[0, 0] == theirs.encoder[">>fra<<"]
    assert ours.decode(ours.encode("Straße").input_ids[0]) == "Straße"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_m2m_100(kind, tmp_path):
    pieces = train(tmp_path / "sentencepiece.bpe.model", **FAIRSEQ, model_type=kind)[3:]
    words = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
    write(tmp_path, "vocab.json", {word: number for number, word in enumerate(words)})
    write(tmp_path, "config.json", {"model_type": "m2m_100"})
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "M2M100Tokenizer", "src_lang": "de"})
    ours, theirs = bundled(tmp_path, "text2text-generation"), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(words) + len(theirs.lang_token_to_id)
    for language, token in theirs.lang_token_to_id.items():
        assert ours.token_to_id(language) == token
        assert token in ours.special_ids
    for line in LINES[::3]:
        ids = theirs(line)["input_ids"]
        assert ours.encode(line).input_ids[0].tolist() == ids, line
        if theirs.unk_token_id not in ids:
            assert ours.decode(ids) == theirs.decode(ids[1:], skip_special_tokens=True), line


BYTES = {
    "byt5": ({"model_type": "t5"}, {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 5}),
    "perceiver": ({"model_type": "perceiver"}, {}),
}


@pytest.mark.parametrize("family", BYTES)
def test_bytes_need_no_vocabulary(family, tmp_path):
    for name, content in zip(("config.json", "tokenizer_config.json"), BYTES[family], strict=True):
        write(tmp_path, name, content)
    assert_alike(bundled(tmp_path), AutoTokenizer.from_pretrained(tmp_path))


def test_characters_need_no_vocabulary(tmp_path):
    write(tmp_path, "config.json", {"model_type": "canine"})
    ours, theirs = bundled(tmp_path, "text-classification"), AutoTokenizer.from_pretrained(tmp_path)
    for line in [*ASSIGNED, "\U0001fae8 \U000323af \U000e0041"]:  # of Unicode 15 and later, and a tag
        ids = theirs(line)["input_ids"]
        assert ours.encode(line).input_ids[0].tolist() == ids, line
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), line
    pair = theirs("a", "b")
    found = ours.encode("a", "b")
    assert found.input_ids[0].tolist() == pair["input_ids"]
    assert found.token_type_ids[0].tolist() == pair["token_type_ids"]
    assert ours.encode("\U00050000").input_ids[0, 1] == 0xFFFD
    assert (ours.cls_token_id, ours.sep_token_id, ours.pad_token_id) == (0xE000, 0xE001, 0)


def test_a_list_of_residues(tmp_path):
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO", ".", "-", "<null_1>", "<mask>"]
    write(tmp_path, "vocab.txt", "\n".join(words))
    write(tmp_path, "config.json", {"model_type": "esm"})
    write(tmp_path, "tokenizer_config.json", {"model_max_length": 1026})
    proteins = ["MKTAYIAKQRQISFVKSHFSRQ", "MK<mask>AYI A-K.", "mkt", "", "  A  L"]
    assert_alike(bundled(tmp_path), AutoTokenizer.from_pretrained(tmp_path), [*proteins, *PROSE[:50]])


@pytest.mark.parametrize("lower", [True, False])
def test_word_pieces_of_prophetnet(lower, tmp_path):
    write(tmp_path, "prophetnet.tokenizer", "\n".join(word_pieces(["[X_SEP]"])) + "\n")
    write(tmp_path, "config.json", {"model_type": "prophetnet"})
    write(tmp_path, "tokenizer_config.json", {"do_lower_case": lower, "model_max_length": 512})
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    lines = [*ASSIGNED, "a [X_SEP] b", "Ünïcödé"]
    assert_alike(bundled(tmp_path, "text2text-generation"), theirs, lines)


def test_what_does_more_than_its_pieces_has_no_fast_form(tmp_path):
    train(tmp_path / "spiece.model", unk_id=2, eos_id=1, bos_id=0, pad_id=-1)
    write(tmp_path, "config.json", {"model_type": "t5"})
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "SiglipTokenizer"})  # drops punctuation
    with pytest.raises(ExportError, match="SiglipTokenizer has no fast form"):
        bundled(tmp_path)


def test_a_vocabulary_that_transformers_does_not_read_is_refused(tmp_path):
    """transformers 5 makes an empty XGLM of this folder."""
    train(tmp_path / "sentencepiece.bpe.model", **FAIRSEQ)
    write(tmp_path, "config.json", {"model_type": "xglm"})
    with pytest.raises(ExportError, match=r"XGLMTokenizer does not read sentencepiece\.bpe\.model"):
        bundled(tmp_path, "text-generation")


def word_pieces(more=()):
    """The words of a BERT's vocabulary, in the order of their ids."""
    rust = Rust(models.WordPiece(unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *more]
    rust.train_from_iterator(PROSE, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    return sorted(rust.get_vocab(), key=rust.token_to_id)


def test_vocab_txt_alone(tmp_path):
    write(tmp_path, "vocab.txt", "\n".join(word_pieces()) + "\n")
    write(tmp_path, "config.json", {"model_type": "bert"})
    write(tmp_path, "tokenizer_config.json", {"do_lower_case": False, "model_max_length": 64})
    short = [line for line in LINES if len(line) < 60]
    assert_alike(bundled(tmp_path), AutoTokenizer.from_pretrained(tmp_path), short)


@pytest.fixture(scope="module")
def byte_level():
    """Words and merges of a byte-level tokenizer."""
    rust = Rust(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special)
    rust.train_from_iterator(PROSE, trainer)
    return json.loads(rust.to_str())["model"]


@pytest.mark.parametrize("family", ["gpt2", "roberta", "qwen2"])
def test_vocab_json_and_merges_txt(family, byte_level, tmp_path):
    write(tmp_path, "vocab.json", byte_level["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in byte_level["merges"]]
    write(tmp_path, "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    write(tmp_path, "config.json", {"model_type": family})
    added = {"content": "<wave>", "lstrip": True, "rstrip": False, "single_word": False, "special": False}
    config = {"added_tokens_decoder": {str(len(byte_level["vocab"])): {**added, "normalized": False}}}
    write(tmp_path, "tokenizer_config.json", {**config, "extra_special_tokens": ["<more>"]})
    assert_alike(bundled(tmp_path), AutoTokenizer.from_pretrained(tmp_path), [*LINES, "a  <wave> b<more>c"])


def test_a_tiktoken_file(byte_level, tmp_path):
    """As Llama 3's own `tokenizer.model` is: bytes in base64, and a rank."""
    shown = {sign: byte for byte, sign in _signs().items()}
    words = [word for word in byte_level["vocab"] if not word.startswith("<") or len(word) == 1]
    ranks = [bytes(shown[sign] for sign in word) for word in words]
    lines = [f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(ranks)]
    write(tmp_path, "tokenizer.model", "\n".join(lines) + "\n")
    write(tmp_path, "config.json", {"model_type": "llama"})
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": ["<|begin|>", "<|end|>"]}
    write(tmp_path, "tokenizer_config.json", {**config, "eos_token": "<|end|>"})
    ours = bundled(tmp_path, "text-generation")
    assert_alike(ours, AutoTokenizer.from_pretrained(tmp_path), [*LINES, "a<|begin|>b <|end|>"])


def test_a_tekken_file(byte_level, tmp_path):
    """As Mistral's repositories have it, some of them alone."""
    shown = {sign: byte for byte, sign in _signs().items()}
    merged = [bytes(shown[sign] for sign in word) for word in byte_level["vocab"] if not word.startswith("<")]
    words = [bytes([byte]) for byte in range(256)] + [word for word in merged if len(word) > 1]
    entries = [
        {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
        for rank, word in enumerate(words)
    ]
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    config = {"pattern": r"\s*\S+|\s+", "default_vocab_size": len(words) + 8, "default_num_special_tokens": 8}
    specials = [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(special)]
    write(tmp_path, "tekken.json", {"config": config, "vocab": entries, "special_tokens": specials})
    write(tmp_path, "config.json", {"model_type": "mistral"})
    write(tmp_path, "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs("the river")["input_ids"]) < 9
    assert_alike(bundled(tmp_path, "text-generation"), theirs, [*LINES, "[INST]the river[/INST] </s>"])


def _signs():
    """Byte to the sign that stands for it, as GPT-2 has them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


@pytest.mark.parametrize("saved", [False, True])
def test_named_chat_templates_travel(saved, gpt2, tmp_path):
    """From the folder as they are, and out of transformers' hands where it writes tokenizer.json."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((gpt2 / name).read_bytes())
    write(tmp_path, "chat_template.jinja", "usual {{ messages[0].content }}")
    write(tmp_path, "additional_chat_templates/tool_use.jinja", "tools {{ tools | length }}")
    write(tmp_path, "additional_chat_templates/rag.jinja", "documents {{ documents[0].text }}")
    write(tmp_path, "config.json", {"model_type": "gpt2"})
    if saved:
        model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
        (tmp_path / "tokenizer.json").unlink()
        write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
        write(tmp_path, "vocab.json", model["vocab"])
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        write(tmp_path, "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    ours, theirs = bundled(tmp_path, "text-generation"), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.chat_template_names == ("default", "rag", "tool_use")
    chat = [{"role": "user", "content": "Hi"}]
    for options in ({}, {"tools": [{"name": "tide"}]}, {"documents": [{"text": "It floats."}]}):
        expected = theirs.apply_chat_template(chat, tokenize=False, **options)
        assert ours.apply_chat_template(chat, **options) == expected
    rag = theirs.apply_chat_template(chat, tokenize=False, chat_template="rag", documents=[{"text": "It floats."}])
    assert ours.apply_chat_template(chat, template="rag", documents=[{"text": "It floats."}]) == rag
