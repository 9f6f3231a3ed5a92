"""The files of a tokenizer folder are read as transformers reads them; damage is named in one line."""

import json

import pytest
from transformers import AutoTokenizer

from wherry_tokenization import Tokenizer, TokenizerError

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
NO_MAP = {"special_tokens_map.json": "{}"}
TEXTS = [
    "Héllo WÖRLD, ÅNGSTRÖM straße naïve",
    "我是一个人工智能模型。今天天气很好",
    "leading  and trailing  ",
    "<ONE><one> Three <TWO> <two>",
    " <one><two> three<three>, A<FOUR> b <four>x <extra> [CLS] <|im_start|>user [MASK] <|endoftext|>",
    "<one>s<s> <pad></s>",
    "",
]


def assert_read_alike(folder):
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    for name in NAMED:
        assert getattr(ours, name) == getattr(theirs, name), name
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id"), name
    assert ours.vocab_size == len(theirs)
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    assert (ours.model_max_length or 10**30) == min(theirs.model_max_length, 10**30)
    for token, token_id in theirs.get_added_vocab().items():
        assert ours.token_to_id(token) == token_id
        assert ours.id_to_token(token_id) == token
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text).input_ids[0].tolist() == ids, text
        for skip_special_tokens in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip_special_tokens) == theirs.decode(
                ids, skip_special_tokens=skip_special_tokens
            ), text
    return ours


def test_samples_as_they_are(name, tokenizer_folder):
    assert_read_alike(tokenizer_folder(name))


def test_samples_as_transformers_saves_them(name, load_reference, tmp_path):
    load_reference(name).save_pretrained(tmp_path)
    assert_read_alike(tmp_path)


@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
)
def test_the_config_overrides_a_bert_normalizer(variant, options, tokenizer_class):
    assert_read_alike(variant("minilm", {**options, "tokenizer_class": tokenizer_class}))


@pytest.mark.parametrize("name", ["smollm2", "whisper-tokenizer"])
@pytest.mark.parametrize("tokenizer_class", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("add_prefix_space", [True, False])
def test_the_config_overrides_the_prefix_space(variant, name, add_prefix_space, tokenizer_class):
    config = {"add_prefix_space": add_prefix_space, "tokenizer_class": tokenizer_class}
    assert_read_alike(variant(name, config))


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_max_length": 128}, 128),
        ({"model_max_length": 128.0}, 128),
        ({"model_max_length": int(1e30)}, None),
        ({"model_max_length": 1e30}, None),
        ({"model_max_length": None}, None),
        ({"model_max_length": None, "max_len": 77}, 77),
        ({"model_max_length": 128, "max_len": 77}, 128),
    ],
)
def test_the_limit(variant, config, limit):
    assert assert_read_alike(variant("minilm", config)).model_max_length == limit


@pytest.mark.parametrize("padding_side", ["left", "right", None])
@pytest.mark.parametrize("truncation_side", ["left", None])
def test_sides(variant, padding_side, truncation_side):
    config = {"padding_side": padding_side, "truncation_side": truncation_side}
    tokenizer = assert_read_alike(variant("minilm", config))
    assert tokenizer.padding_side == (padding_side or "right")


@pytest.mark.parametrize("padding", ["left", "right"])
def test_what_tokenizer_json_says_counts_where_the_config_is_silent(variant, tokenizer_folder, padding):
    content = json.loads((tokenizer_folder("smollm2") / "tokenizer.json").read_text())
    content["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": padding.title(),
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    content["truncation"] = {
        "direction": "Left",
        "max_length": 9,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    folder = variant("smollm2", {"pad_token": None, "padding_side": None}, {"tokenizer.json": json.dumps(content)})
    tokenizer = assert_read_alike(folder)
    assert (tokenizer.padding_side, tokenizer.truncation_side) == (padding, "left")
    assert tokenizer.encode("word " * 30).lengths.tolist() == [31]


def token(content, **flags):
    usual = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **usual, **flags}


@pytest.mark.parametrize(
    "listed",
    [
        [token("<one>"), token("<two>")],
        [token("<one>", lstrip=True), token("<two>", rstrip=True), token("<three>", lstrip=True, rstrip=True)],
        [token("three", special=False, single_word=True), token("<four>", special=False, normalized=True)],
    ],
)
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_added_tokens(variant, load, name, listed):
    first = load(name).vocab_size
    known = {
        str(load(name).token_to_id(content)): token(content)
        for content in sorted({*load(name).special_tokens.values()})
    }
    new = {str(first + place): spec for place, spec in enumerate(listed)}
    tokenizer = assert_read_alike(variant(name, {"added_tokens_decoder": {**new, **known}}))
    assert tokenizer.vocab_size > first


@pytest.mark.parametrize("form", ["text", "object"])
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_named_tokens_of_the_config(variant, name, form):
    tokens = {"pad_token": "<pad>", "mask_token": "<ONE>", "sep_token": "<two>", "eos_token": "</s>"}
    if form == "object":
        tokens = {role: {"__type": "AddedToken", **token(content)} for role, content in tokens.items()}
    config = {**tokens, "tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": ["<extra>"]}
    tokenizer = assert_read_alike(variant(name, config, NO_MAP))
    assert (tokenizer.pad_token, tokenizer.mask_token) == ("<pad>", "<ONE>")


@pytest.mark.parametrize(
    "config",
    [
        {"extra_special_tokens": ["<ONE>", "<two>"]},
        {"extra_special_tokens": [{"__type": "AddedToken", **token("<ONE>", lstrip=True)}, "<two>"]},
        {"additional_special_tokens": ["<ONE>", "<two>"]},
        {"extra_special_tokens": {"image_token": "<ONE>", "boi_token": "<two>"}},
        {"image_token": "<ONE>", "boi_token": "<two>"},
        {"extra_special_tokens": [], "additional_special_tokens": ["<ONE>", "<two>"]},
    ],
)
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_further_special_tokens(variant, name, config):
    tokenizer = assert_read_alike(variant(name, {**config, "tokenizer_class": "PreTrainedTokenizerFast"}))
    assert {tokenizer.token_to_id("<ONE>"), tokenizer.token_to_id("<two>")} <= tokenizer.special_ids


def test_special_tokens_map(variant):
    roles = {"pad_token": "<pad>", "cls_token": token("[CLS]"), "mask_token": token("<one>", lstrip=True)}
    roles["mask_token"].pop("special")
    tokenizer = assert_read_alike(
        variant(
            "minilm",
            {"tokenizer_class": "PreTrainedTokenizerFast"},
            {"special_tokens_map.json": json.dumps(roles)},
        )
    )
    assert (tokenizer.pad_token, tokenizer.mask_token) == ("<pad>", "<one>")


def test_special_tokens_map_is_ignored_beside_added_tokens(variant, load):
    known = {str(load("minilm").token_to_id(content)): token(content) for content in ("[PAD]", "[UNK]", "[CLS]")}
    folder = variant(
        "minilm",
        {"added_tokens_decoder": known},
        {"special_tokens_map.json": json.dumps({"pad_token": "<pad>"})},
    )
    assert assert_read_alike(folder).pad_token == "[PAD]"


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_added_tokens_json(variant, load, name):
    first = load(name).vocab_size
    added = {"<two>": first + 1, "<one>": first, "<extra>": first + 2}
    folder = variant(
        name,
        {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "<extra>"},
        {"added_tokens.json": json.dumps(added), **NO_MAP},
    )
    tokenizer = assert_read_alike(folder)
    assert {content: tokenizer.token_to_id(content) for content in added} == added
    assert {tokenizer.token_to_id(content) in tokenizer.special_ids for content in ("<one>", "<two>")} == {False}
    assert tokenizer.mask_token_id in tokenizer.special_ids


def test_added_tokens_json_is_ignored_beside_added_tokens(variant, load):
    folder = variant(
        "minilm",
        {"added_tokens_decoder": {str(load("minilm").token_to_id("[PAD]")): token("[PAD]")}},
        {"added_tokens.json": json.dumps({"<one>": load("minilm").vocab_size})},
    )
    assert assert_read_alike(folder).token_to_id("<one>") is None


@pytest.mark.parametrize("name", ["minilm", "smollm2", "whisper-tokenizer"])
@pytest.mark.parametrize("split_special_tokens", [True, False])
def test_special_tokens_as_text(variant, name, split_special_tokens):
    config = {"split_special_tokens": split_special_tokens, "tokenizer_class": "PreTrainedTokenizerFast"}
    assert_read_alike(variant(name, config))


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
@pytest.mark.parametrize("clean_up", [True, False, None])
def test_tidying(variant, name, clean_up):
    folder = variant(name, {"clean_up_tokenization_spaces": clean_up})
    ours, theirs = assert_read_alike(folder), AutoTokenizer.from_pretrained(folder)
    ids = ours.encode("do n ' t , he 's ' here ' . we 've !").input_ids[0]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.fixture
def alone(variant):
    """A tokenizer loaded from a folder that holds tokenizer.json and nothing else."""

    def make(name):
        folder = variant(name)
        (folder / "tokenizer_config.json").unlink()
        (folder / "special_tokens_map.json").unlink(missing_ok=True)
        return Tokenizer.load(folder)

    return make


def test_tokenizer_json_alone_gives_the_usual_special_tokens(alone, load_reference):
    tokenizer, reference = alone("minilm"), load_reference("minilm")
    assert tokenizer.special_tokens == reference.special_tokens_map
    assert tokenizer.model_max_length is None
    padded = reference(["a", "a b c"], padding=True, padding_side="right", return_tensors="np")
    assert tokenizer.encode(["a", "a b c"]).input_ids.tolist() == padded["input_ids"].tolist()
    assert alone("smollm2").eos_token == "<|endoftext|>"


def test_the_order_of_keys_does_not_matter(variant, load):
    folder = variant("minilm")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(reversed(config.items())), indent=2))
    assert assert_read_alike(folder).special_tokens == load("minilm").special_tokens


def refusal(folder):
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert str(folder) in message
    return message


def test_no_folder(tmp_path):
    assert "is not a folder; give the folder of an exported model" in refusal(tmp_path / "missing")
    (tmp_path / "file").write_text("{}")
    assert "is not a folder" in refusal(tmp_path / "file")


def test_no_tokenizer_json(tmp_path):
    assert "has no tokenizer.json; export the model again" in refusal(tmp_path)
    (tmp_path / "tokenizer.json").mkdir()
    assert "has no tokenizer.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"model": {"type": "Unknown"}}',
        b'{"version": "1.0", "model": {"type": "WordPiece", "vocab": 3}}',
        b"\xff\xfe\x00binary",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 2\n",
        b"[" * 100_000,
    ],
)
def test_damaged_tokenizer_json(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json is damaged: " in refusal(tmp_path)


def test_cut_off_tokenizer_json(variant, tokenizer_folder):
    whole = (tokenizer_folder("minilm") / "tokenizer.json").read_text()
    for length in (10, len(whole) // 2, len(whole) - 2):
        folder = variant("minilm", files={"tokenizer.json": whole[:length]})
        assert "tokenizer.json is damaged: " in refusal(folder)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: "),
        (b'{"a": ', "is damaged: "),
        (b"\xff\xfe\x00\x00binary", "is damaged: "),
        (b'{"a": "\xff"}', "is damaged: "),
        (b"[" * 100_000, "is damaged: "),
        (b"[]", "holds a list, not an object"),
        (b"null", "holds a NoneType, not an object"),
        (b'"text"', "holds a str, not an object"),
    ],
)
def test_damaged_files(variant, file, content, message):
    folder = variant("minilm")
    (folder / file).unlink(missing_ok=True)
    (folder / file).write_bytes(content)
    assert f"{file} {message}" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_max_length": "512"}, "model_max_length is '512', not a positive number"),
        ({"model_max_length": 0}, "model_max_length is 0, not a positive number"),
        ({"model_max_length": -1}, "model_max_length is -1, not a positive number"),
        ({"model_max_length": float("nan")}, "model_max_length is nan, not a positive number"),
        ({"model_max_length": [512]}, "model_max_length is [512], not a positive number"),
        ({"padding_side": "up"}, "padding_side is 'up', not 'left' or 'right'"),
        ({"truncation_side": 1}, "truncation_side is 1, not 'left' or 'right'"),
        ({"pad_token": {"text": "x"}}, "pad_token is not a token, but {'text': 'x'}"),
        ({"extra_special_tokens": [3]}, "extra_special_tokens is not a token, but 3"),
        ({"extra_special_tokens": 3}, "extra_special_tokens is 3, not a list of tokens"),
        ({"extra_special_tokens": {"image_token": 3}}, "image_token is not a token, but 3"),
        ({"additional_special_tokens": True}, "extra_special_tokens is True, not a list of tokens"),
        ({"added_tokens_decoder": []}, "the added tokens are damaged"),
        ({"added_tokens_decoder": [1]}, "the added tokens are damaged"),
        ({"added_tokens_decoder": {"x": token("x")}}, "the added tokens are damaged"),
        ({"added_tokens_decoder": {"1": 5}}, "added_tokens_decoder is not a token, but 5"),
        ({"added_tokens_decoder": "text"}, "the added tokens are damaged"),
        ({"chat_template": 3}, "chat_template is damaged"),
        ({"chat_template": ["x"]}, "chat_template is damaged"),
        ({"chat_template": [{"name": "x"}]}, "chat_template is damaged"),
        ({"chat_template": [{"name": "x", "template": 3}]}, "chat_template holds something other than text"),
        ({"chat_template": {"default": ["x"]}}, "chat_template holds something other than text"),
        ({"add_prefix_space": "yes"}, "add_prefix_space is 'yes', not true or false"),
        ({"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class is ['BertTokenizer'], not text"),
    ],
)
def test_damaged_settings(variant, config, message):
    folder = variant("minilm", {"tokenizer_class": "GPT2Tokenizer", **config}, NO_MAP)
    assert message in refusal(folder)


def test_damaged_added_tokens_json(variant):
    for content in ('{"<one>": "x"}', '{"<one>": null}', '{"<one>": [1]}'):
        folder = variant("minilm", files={"added_tokens.json": content})
        assert "the added tokens are damaged" in refusal(folder)


def test_a_template_that_is_not_text(variant):
    folder = variant("minilm", files={"chat_template.jinja": ""})
    (folder / "chat_template.jinja").write_bytes(b"{{ '\xff' }}")
    assert "a chat template is not UTF-8" in refusal(folder)
