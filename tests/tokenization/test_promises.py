"""What importing the package costs and offers."""

import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer as Rust
from tokenizers import models

import wherry_tokenization

HEAVY = ("torch", "transformers", "optimum", "onnx", "onnxruntime", "wherry", "wherry_exporter")


def modules_after(code, *arguments):
    """The top-level modules that a fresh interpreter has loaded once it has run the code."""
    report = "import sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


@pytest.fixture
def folder(tmp_path):
    Rust(models.WordLevel({"Hi": 0, "<unk>": 1}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    return tmp_path


def test_importing_loads_nothing_heavy():
    loaded = modules_after("import wherry_tokenization")
    assert {"wherry_tokenization", "tokenizers", "numpy"} <= loaded
    assert not loaded & {*HEAVY, "jinja2"}


def test_jinja_is_loaded_for_chats_alone(folder):
    encode = (
        "import sys, wherry_tokenization\n"
        "tokenizer = wherry_tokenization.Tokenizer.load(sys.argv[1])\n"
        "assert tokenizer.decode(tokenizer.encode('Hi', offsets=True).input_ids[0]) == 'Hi'\n"
        "assert tokenizer.stream().step(0) == 'Hi'\n"
        "assert tokenizer.chat_template_names == ('default',)\n"
    )
    chat = "assert tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}]) == 'Hi'\n"
    assert not modules_after(encode, folder) & {*HEAVY, "jinja2"}
    loaded = modules_after(encode + chat, folder)
    assert "jinja2" in loaded
    assert not loaded & set(HEAVY)


def test_exported_names():
    assert wherry_tokenization.__all__ == [
        "ChatTemplateError",
        "Encoding",
        "TokenStream",
        "Tokenizer",
        "TokenizerError",
        "WherryError",
        "Windows",
    ]
    for name in wherry_tokenization.__all__:
        assert getattr(wherry_tokenization, name).__name__ == name
        assert getattr(wherry_tokenization, name).__doc__


def test_one_error_tree():
    assert issubclass(wherry_tokenization.ChatTemplateError, wherry_tokenization.TokenizerError)
    assert issubclass(wherry_tokenization.TokenizerError, wherry_tokenization.WherryError)
    assert wherry_tokenization.WherryError.exit_code == 1


def test_every_public_method_is_described():
    for kind in (
        wherry_tokenization.Tokenizer,
        wherry_tokenization.TokenStream,
        wherry_tokenization.Encoding,
        wherry_tokenization.Windows,
    ):
        for name, member in vars(kind).items():
            if not name.startswith("_") and callable(member):
                assert member.__doc__, f"{kind.__name__}.{name}"
