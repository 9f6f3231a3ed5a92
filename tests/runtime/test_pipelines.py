"""Pipelines give what transformers' pipelines give on the same weights and inputs."""

import re
import warnings
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from tokenization.corpus import MULTILINGUAL, real_lines
from wherry import pipeline
from wherry.errors import InputError, TaskError, TokenizerError
from wherry.generation import generate as continue_tokens
from wherry_exporter import export
from wherry_exporter.samples import sample

PERSONAL = (
    "My name is Maria Oliveira and I live at 14 Harbour Street, Bristol BS1 4XY.",
    "Write to jan.peeters@example.org or call +32 2 555 12 34 before Friday, 3 May 2024.",
    "Invoice for Dr. Anne-Sophie Müller-Łukasz, IBAN DE89 3704 0044 0532 0130 00, card 4111 1111 1111 1111",
    "The sea was calm and nobody said a word.",
    "ssn 078-05-1120; passport C01X00T47; ip 192.168.0.1; https://example.org/~ann?id=7",
    "李明住在上海市南京路123号。",
    "",
)

PROMPTS = (
    "The river Thames",
    "Once upon a time, in a small village by the sea,",
    "The three most important inventions of the nineteenth century are",
    "def fibonacci(n):",
    "Dear Sir or Madam,",
    "Photosynthesis is",
    "我是一个人工智能模型",
    "La capitale de la France est",
    "1, 2, 3, 4,",
    "Q: What is the boiling point of water?\nA:",
)


def sentences(count):
    """Sentences of prose, of four words or more."""
    found = re.findall(r"[A-Z][^.!?]{20,300}[.!?]", " ".join(real_lines()))
    return [sentence for sentence in found if len(sentence.split()) >= 4][:count]


def torch_embeddings(texts):
    """Mean-pooled and normalized, as the model's card says."""
    tokenizer, model = AutoTokenizer.from_pretrained(sample("minilm")), AutoModel.from_pretrained(sample("minilm"))
    vectors = []
    with torch.no_grad():
        for text in texts:
            encoded = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            pooled = model(**encoded).last_hidden_state.mean(1)
            vectors.append(torch.nn.functional.normalize(pooled)[0].numpy())
    return np.stack(vectors)


def test_sentence_embeddings(bundle):
    texts = sentences(200)
    assert len(texts) == 200
    expected = torch_embeddings(texts)
    for precision, mean, least in (("fp32", 0.9999, 0.9999), ("int8", 0.99, 0.97)):
        embed = pipeline("sentence-embeddings", bundle("minilm").folder, precision=precision)
        found = embed(texts)
        assert found.dtype == np.float32
        assert found.shape == (200, 384)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        cosines = (found * expected).sum(1)
        assert cosines.mean() >= mean
        assert cosines.min() >= least
        for place in (3, 77, 123):  # alone as in a batch, in 8 bits too
            np.testing.assert_allclose(embed(texts[place]) @ found[place], 1, atol=1e-5)
    assert embed([]).shape == (0, 384)


def test_feature_extraction(bundle):
    texts = ["A wherry is a light boat.", "ok", *MULTILINGUAL[:6]]
    theirs = transformers.pipeline("feature-extraction", model=str(sample("minilm")))
    ours = pipeline("feature-extraction", bundle("minilm").folder, precision="fp32")
    found = ours(texts)
    for text, vectors, expected in zip(texts, found, theirs(texts), strict=True):
        np.testing.assert_allclose(vectors, np.array(expected), atol=1e-5)
        np.testing.assert_allclose(ours(text), vectors, atol=1e-5)


@cache
def their_tagger():
    return transformers.pipeline("token-classification", model=str(sample("rampart")))


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification(bundle, strategy):
    ours = pipeline(model=bundle("rampart").folder, precision="fp32")
    expected = [their_tagger()(text, aggregation_strategy=strategy) if text else [] for text in PERSONAL]
    found = ours(PERSONAL, aggregation_strategy=strategy)
    assert sum(map(len, expected)) >= 10
    for ours_of_text, theirs_of_text in zip(found, expected, strict=True):
        assert_entities(ours_of_text, theirs_of_text, 1e-4)
    assert_entities(ours(PERSONAL[0], aggregation_strategy=strategy), expected[0], 1e-4)


def assert_entities(found, expected, tolerance):
    assert [dict(each, score=None) for each in found] == [dict(each, score=None) for each in expected]
    np.testing.assert_allclose([each["score"] for each in found], [each["score"] for each in expected], atol=tolerance)


def test_a_hub_folder_without_a_manifest(bundle):
    """rampart as its authors ship it: config.json, tokenizer.json and onnx/model_q4.onnx."""
    tag = pipeline(model=sample("rampart"))
    assert tag.variant.precision == "int4"
    for text in PERSONAL[:-1]:
        assert_entities(tag(text), their_tagger()(text), 1e-4)


@pytest.fixture(scope="module")
def classify(classifier_bundle):
    return pipeline(model=classifier_bundle.folder)


@pytest.fixture(scope="module")
def classifier_bundle(classifier, tmp_path_factory):
    return export(classifier, tmp_path_factory.mktemp("classifier") / "bundle", precision=["fp32"])


PAIR = {"text": "The sea is calm.", "text_pair": "A storm is near."}


@pytest.mark.parametrize(
    "arguments",
    [
        ("The sea is calm.", {}),
        (["The sea is calm.", "ok"], {}),
        ("The sea is calm.", {"top_k": None}),
        ("The sea is calm.", {"top_k": 1}),
        (["The sea is calm.", "ok"], {"top_k": 2}),
        (PAIR, {}),
        (PAIR, {"top_k": 2}),
        ([PAIR, PAIR], {}),
        ("ok", {"function_to_apply": "sigmoid", "top_k": None}),
        ("ok", {"function_to_apply": "none", "top_k": None}),
    ],
)
def test_text_classification(classify, classifier, arguments):
    inputs, options = arguments
    theirs = transformers.pipeline("text-classification", model=str(classifier))
    assert_alike(classify(inputs, **options), theirs(inputs, **options))


def assert_alike(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    else:
        assert found["label"] == expected["label"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


@cache
def smollm2():
    return AutoTokenizer.from_pretrained(sample("smollm2")), AutoModelForCausalLM.from_pretrained(sample("smollm2"))


@cache
def generated_by_torch(prompt, count):
    tokenizer, model = smollm2()
    encoded = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**encoded, max_new_tokens=count, do_sample=False, pad_token_id=0)[0]
    return ids[encoded["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def generate(bundle):
    return pipeline("text-generation", bundle("smollm2-gguf").folder, precision="fp32")


def tokens_of(pipe, prompts, count):
    """Token ids of a batch, up to each row's end."""
    config = pipe.defaults.updated(max_new_tokens=count, do_sample=False)
    rows = [pipe.tokenizer.encode(prompt).input_ids[0].tolist() for prompt in prompts]
    return continue_tokens(pipe.decoder, rows, config)


def test_greedy_tokens_are_those_of_transformers(generate):
    for prompt in PROMPTS:
        assert tokens_of(generate, [prompt], 64)[0] == generated_by_torch(prompt, 64), prompt


def test_a_batch_is_the_same_as_one_by_one(generate):
    for first in (0, 4):
        rows = tokens_of(generate, PROMPTS[first : first + 4], 64)
        assert rows == [generated_by_torch(prompt, 64) for prompt in PROMPTS[first : first + 4]]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_batches_are_the_same_as_one_by_one(bundle, precision, rows_alike):
    if precision == "int4" and not rows_alike:
        pytest.skip("onnxruntime rounds a row of 4-bit products otherwise in a batch on this processor")
    pipe = pipeline("text-generation", bundle("smollm2-gguf").folder, precision=precision)
    assert tokens_of(pipe, PROMPTS[:4], 24) == [tokens_of(pipe, [prompt], 24)[0] for prompt in PROMPTS[:4]]


def test_results_have_the_shapes_of_transformers(generate):
    tokenizer, model = smollm2()
    theirs = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    started = [*chat, {"role": "assistant", "content": "The capital of"}]
    for inputs in (PROMPTS[0], list(PROMPTS[:2]), chat, [chat, chat], started):
        options = {"max_new_tokens": 12, "do_sample": False}
        assert generate(inputs, **options) == theirs(inputs, **options)
    options["return_full_text"] = False
    assert generate(PROMPTS[0], **options) == theirs(PROMPTS[0], **options)


def test_a_stream_is_the_whole_text_in_pieces(generate):
    whole = generate(PROMPTS[6], max_new_tokens=30, do_sample=False, return_full_text=False)[0]["generated_text"]
    pieces = list(generate.stream(PROMPTS[6], max_new_tokens=30, do_sample=False))
    assert "".join(pieces) == whole
    assert len(pieces) > 5


def test_the_next_turn_of_a_chat_reads_only_what_is_new(generate, monkeypatch):
    options = {"max_new_tokens": 12, "do_sample": False}
    chat = [{"role": "user", "content": "What is the capital of France, and which river runs through it?"}]
    answer = "".join(generate.stream(chat, **options))
    turn = [*chat, {"role": "assistant", "content": answer}, {"role": "user", "content": "And of Spain?"}]
    expected = generate(turn, return_full_text=False, **options)[0]["generated_text"]
    read = []
    find = generate._turns.find
    monkeypatch.setattr(generate._turns, "find", lambda prompt: read.append((len(prompt), find(prompt))) or read[-1][1])
    assert "".join(generate.stream(turn, **options)) == expected
    ((length, known),) = read
    assert known[0].shape[1] > length - 25


def test_a_stop_text_ends_the_generation_and_never_shows(generate):
    whole = generate(PROMPTS[1], max_new_tokens=40, do_sample=False, return_full_text=False)[0]["generated_text"]
    for stop in (whole[10:13], whole[25:40], [whole[30:33], whole[12:20]]):
        stops = [stop] if isinstance(stop, str) else stop
        expected = whole[: min(whole.index(each) for each in stops)]
        options = {"max_new_tokens": 40, "do_sample": False, "stop_strings": stop}
        assert generate(PROMPTS[1], return_full_text=False, **options)[0]["generated_text"] == expected
        assert "".join(generate.stream(PROMPTS[1], **options)) == expected


def test_lengths(generate):
    ids = generate.tokenizer.encode(PROMPTS[0]).input_ids[0]
    for options, count in (({"max_new_tokens": 5}, 5), ({"max_length": len(ids) + 3}, 3)):
        text = generate(PROMPTS[0], do_sample=False, return_full_text=False, **options)[0]["generated_text"]
        assert text == generate.tokenizer.decode(generated_by_torch(PROMPTS[0], 64)[:count])


def test_sampling_is_repeatable_by_its_seed(generate):
    def draw(seed):
        return generate(PROMPTS[1], max_new_tokens=12, temperature=1.5, seed=seed)[0]["generated_text"]

    assert draw(3) == draw(3)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_prompts_that_are_refused(generate):
    long = "word " * 9000
    for prompt, message in (
        ("", "the prompt is empty"),
        (long, r"the prompt has 9\d+ tokens and \d+ are all there is room for"),
        (7, "a prompt must be a str, a chat or a list"),
        (["fine", None], "prompt 1 is a NoneType"),
    ):
        with pytest.raises(InputError, match=message):
            generate(prompt, max_new_tokens=2)
    with pytest.raises(InputError, match="max_length"):
        generate("The river", max_length=0)
    with pytest.raises(InputError, match="unknown generation option beams"):
        generate("The river", beams=3)


def test_a_long_prompt_is_cut_at_its_beginning_when_asked(generate):
    prompt = "The boat is small. " * 20 + PROMPTS[0]
    tokenizer, model = smollm2()
    kept = tokenizer(prompt, return_tensors="pt")["input_ids"][:, -9:]
    expected = model.generate(kept, max_new_tokens=1, do_sample=False, pad_token_id=0)[0, -1:]
    options = {"truncation": True, "max_length": 10, "do_sample": False, "return_full_text": False}
    with pytest.warns(UserWarning, match=r"the prompt's first \d+ of \d+ tokens were cut"):
        result = generate(prompt, **options)
    assert result == [{"generated_text": tokenizer.decode(expected)}]


def test_long_texts_are_cut_with_a_warning_or_refused(bundle):
    embed = pipeline(model=bundle("minilm").folder, precision="fp32")
    long = "The sea is calm. " * 200
    with pytest.warns(UserWarning, match="1 of 2 texts cut to the model's 256 tokens"):
        vectors = embed(["ok", long])
    np.testing.assert_allclose(vectors[1], torch_embeddings([long])[0], atol=1e-5)
    with pytest.raises(TokenizerError, match=r"row 1 has \d+ tokens, but the limit is 256"):
        embed(["ok", long], truncation=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(["ok", "fine"])


def test_tasks_that_do_not_fit(bundle):
    for task, message in (
        ("text-generation", "task text-generation does not fit: .* is for sentence-embeddings"),
        ("juggling", "unknown task 'juggling': choose one of"),
    ):
        with pytest.raises(TaskError, match=message):
            pipeline(task, bundle("minilm").folder)
    with pytest.raises(TaskError, match="no model given"):
        pipeline("text-generation")
    with pytest.raises(InputError, match="text 1 is a int, not a str"):
        pipeline("embeddings", bundle("minilm").folder)(["a", 1])
