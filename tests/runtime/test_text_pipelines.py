"""Fill-mask, zero-shot classification, ranking and question answering give what torch and transformers give."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from runtime.test_pipelines import PERSONAL, assert_entities, their_tagger
from tokenization.corpus import real_lines
from wherry import pipeline
from wherry.cli import main
from wherry.errors import BundleError, InputError, TaskError, TokenizerError
from wherry.pipelines import TASKS
from wherry_exporter import export
from wherry_exporter.samples import sample

PROSE = " ".join(" ".join(real_lines()).split())
DOCUMENTS = [PROSE[at : at + 90 * (1 + at % 5)] for at in range(0, 1500, 100)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny BERT with some head and MiniLM's tokenizer: (its folder, its bundle)."""

    def make(head, **settings):
        torch.manual_seed(3)
        config = transformers.BertConfig(
            vocab_size=30522,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=48,
            initializer_range=0.3,
            **settings,
        )
        folder = tmp_path_factory.mktemp(head)
        getattr(transformers, head)(config).save_pretrained(folder / "model")
        transformers.AutoTokenizer.from_pretrained(sample("minilm")).save_pretrained(folder / "model")
        return folder / "model", export(folder / "model", folder / "bundle", precision=["fp32"]).folder

    return make


def assert_alike(found, expected):
    """Equal, but for the last digits of floats."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert list(found) == list(expected)
        for name, value in found.items():
            assert_alike(value, expected[name])
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(found, float):
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def mask(made):
    folder, bundle = made("BertForMaskedLM")
    return transformers.pipeline("fill-mask", model=str(folder)), pipeline(model=bundle)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ("The [MASK] is calm.", {}),
        (["The [MASK] is calm.", "It is a light [MASK], and fast."], {"top_k": 3}),
        ("A [MASK] is a light [MASK].", {"top_k": 2}),
        (["A [MASK] is a light [MASK].", "The [MASK] is calm."], {"top_k": 1}),
        (["The [MASK] is calm."], {}),
        ("The [MASK] is calm.", {"targets": ["sea", "land", "river"]}),
        ("The [MASK] is calm.", {"targets": "sea"}),
        ("A [MASK] is a light [MASK].", {"targets": ["boat", "house"], "top_k": 1}),
    ],
)
def test_fill_mask(mask, inputs, options):
    theirs, ours = mask
    assert ours.task == "fill-mask"
    assert_alike(ours(inputs, **options), theirs(inputs, **options))


def test_fill_mask_with_a_target_that_the_vocabulary_lacks(mask):
    theirs, ours = mask
    with pytest.warns(UserWarning, match="the vocabulary has no token 'wherries': 'w' counts for it"):
        found = ours("The [MASK] is calm.", targets=["wherries", "sea"])
    assert_alike(found, theirs("The [MASK] is calm.", targets=["wherries", "sea"]))


def test_what_fill_mask_refuses(mask, made, bundle):
    with pytest.raises(InputError, match=r"text 1 has no \[MASK\]: write it where a word is missing"):
        mask[1](["The [MASK] is calm.", "The sea is calm."])
    with pytest.raises(InputError, match="targets must name at least one word"):
        mask[1]("The [MASK] is calm.", targets=[])


@pytest.fixture(scope="module")
def judge(made):
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    ids = {name: at for at, name in labels.items()}
    folder, bundle = made("BertForSequenceClassification", id2label=labels, label2id=ids, max_position_embeddings=96)
    task = "zero-shot-classification"
    return transformers.pipeline(task, model=str(folder)), pipeline(task, bundle)


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ("The sea is calm.", {"candidate_labels": ["sea", "law", "food"]}),
        ("The sea is calm.", {"candidate_labels": "sea, law,food"}),
        ("The sea is calm.", {"candidate_labels": ["sea"]}),
        (["The sea is calm.", DOCUMENTS[0]], {"candidate_labels": ["a boat", "law"]}),
        (["ok"], {"candidate_labels": ["a boat", "law"], "hypothesis_template": "It is all about {}, I think."}),
    ],
)
def test_zero_shot_classification(judge, inputs, options, multi_label):
    theirs, ours = judge
    assert_alike(ours(inputs, multi_label=multi_label, **options), theirs(inputs, multi_label=multi_label, **options))


def test_zero_shot_cuts_the_text_and_never_the_label(judge):
    theirs, ours = judge
    theirs.tokenizer.model_max_length = 96
    try:
        with pytest.warns(UserWarning, match="2 of 2 texts cut to the model's 96 tokens"):
            assert_alike(ours(PROSE[:2000], ["the sea", "law"]), theirs(PROSE[:2000], ["the sea", "law"]))
    finally:
        theirs.tokenizer.model_max_length = 512
    with pytest.raises(TokenizerError, match="truncation='only_first' cannot bring it down to 96"):
        ours("ok", [PROSE[:2000], "law"])


def test_what_zero_shot_refuses(judge, classifier, tmp_path):
    ours = judge[1]
    with pytest.raises(InputError, match="candidate_labels must name at least one label"):
        ours("ok", [])
    with pytest.raises(InputError, match=r"hypothesis_template has no \{\} where the label goes"):
        ours("ok", ["sea"], hypothesis_template="It is.")
    config = json.loads((ours.bundle.folder / "config.json").read_text())
    linked = tmp_path / "other"
    linked.mkdir()
    for path in ours.bundle.folder.iterdir():
        if path.name not in ("config.json", "wherry.json"):
            (linked / path.name).symlink_to(path)
    (linked / "config.json").write_text(json.dumps(config | {"label2id": {"a": 0, "b": 1, "c": 2}, "id2label": {}}))
    with pytest.raises(TaskError, match=r"none of the labels of .* is entailment"):
        pipeline("zero-shot-classification", linked)


@pytest.fixture(scope="module")
def ranker(made):
    return made("BertForSequenceClassification", num_labels=1)


def logits_of(folder, query, documents):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    encoded = tokenizer([query] * len(documents), documents, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**encoded).logits[:, 0]


@pytest.mark.parametrize(
    ("settings", "function"),
    [
        ({}, torch.sigmoid),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, lambda logits: logits),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, torch.tanh),
    ],
)
def test_text_ranking(ranker, tmp_path, settings, function):
    """As sentence-transformers' CrossEncoder.rank: activation of the logit, best first."""
    folder, bundle = ranker
    for path in bundle.iterdir():
        if path.name not in ("config.json", "wherry.json"):
            (tmp_path / path.name).symlink_to(path)
    config = json.loads((bundle / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | settings))
    query = "What do statements do?"
    scores = function(logits_of(folder, query, DOCUMENTS)).tolist()
    order = sorted(range(len(scores)), key=lambda at: -scores[at])
    rank = pipeline("rerank", tmp_path)
    expected = [{"corpus_id": at, "score": scores[at], "text": DOCUMENTS[at]} for at in order]
    assert_alike(rank(query, DOCUMENTS, return_documents=True), expected)
    best = [{"corpus_id": at, "score": scores[at]} for at in order[:3]]
    assert_alike(rank(query, DOCUMENTS, top_k=3, batch_size=2), best)
    assert rank(query, []) == []


def test_what_ranking_refuses(ranker, judge):
    rank = pipeline("text-ranking", ranker[1])
    with pytest.raises(InputError, match="documents must be a list of str, not a str"):
        rank("a", "b")
    with pytest.raises(InputError, match="query must be a str, not list"):
        rank(["a"], ["b"])
    with pytest.raises(TaskError, match="gives 3 labels, a cross-encoder that ranks one"):
        pipeline("text-ranking", judge[1].bundle.folder)


@pytest.fixture(scope="module")
def reader(made):
    folder, bundle = made("BertForQuestionAnswering")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder), model, pipeline(model=bundle)


def answers_by_torch(tokenizer, model, question, context, top_k=1, doc_stride=128, max_seq_len=384, **options):
    """The rules of transformers 4's pipeline, which version 5 dropped, span by span on the model's own outputs."""
    longest, align = options.get("max_answer_len", 15), options.get("align_to_words", True)
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_seq_len,
        stride=doc_stride,
        return_overflowing_tokens=True,
    )
    answers, nothing = {}, 1_000_000
    for window in encoded.encodings:
        given = {"input_ids": window.ids, "attention_mask": window.attention_mask, "token_type_ids": window.type_ids}
        with torch.no_grad():
            output = model(**{name: torch.tensor([row]) for name, row in given.items()})
        inside = [owner == 1 for owner in window.sequence_ids]
        able = torch.tensor([mine or at == 0 for at, mine in enumerate(inside)])
        start = output.start_logits[0].where(able, torch.tensor(-10000.0)).softmax(0).tolist()
        end = output.end_logits[0].where(able, torch.tensor(-10000.0)).softmax(0).tolist()
        nothing = min(nothing, start[0] * end[0])
        spans = [
            (start[first] * end[last], first, last)
            for first in range(len(inside))
            for last in range(first, min(first + longest, len(inside)))
            if inside[first] and inside[last]
        ]
        for score, first, last in sorted(spans, key=lambda span: -span[0])[: 2 * top_k + 10 if align else top_k]:
            if align:
                begin = window.word_to_chars(window.token_to_word(first), 1)[0]
                stop = window.word_to_chars(window.token_to_word(last), 1)[1]
            else:
                begin, stop = window.offsets[first][0], window.offsets[last][1]
            text = context[begin:stop]
            entry = answers.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": text})
            entry["score"] += score
    found = list(answers.values())
    if options.get("handle_impossible_answer"):
        found.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
    found = sorted(found, key=lambda each: each["score"], reverse=True)[:top_k]
    return found[0] if len(found) == 1 else found


@pytest.mark.parametrize(
    ("context", "options"),
    [
        (PROSE[:400], {}),
        (PROSE[:400], {"top_k": 5}),
        (PROSE[:400], {"top_k": 4, "align_to_words": False}),
        (PROSE[:400], {"top_k": 3, "max_answer_len": 2}),
        (PROSE[:9000], {"top_k": 3}),
        (PROSE[:3000], {"top_k": 6, "doc_stride": 20, "max_seq_len": 64}),
        (PROSE[:3000], {"top_k": 20, "doc_stride": 0, "max_seq_len": 64, "handle_impossible_answer": True}),
        ("Ünïcode 北京 and naïveté", {"top_k": 3, "handle_impossible_answer": True}),
    ],
)
def test_question_answering(reader, context, options):
    tokenizer, model, ours = reader
    question = "What do the statements do?"
    assert_alike(
        ours(question=question, context=context, **options),
        answers_by_torch(tokenizer, model, question, context, **options),
    )


def test_shapes_of_questions(reader):
    ours = reader[2]
    first = ours(question="What is it?", context=PROSE[:300])
    second = ours(question="Where is it?", context=PROSE[:300])
    asked = [{"question": question, "context": PROSE[:300]} for question in ("What is it?", "Where is it?")]
    assert ours(asked) == [first, second]
    assert ours(question=["What is it?", "Where is it?"], context=PROSE[:300]) == [first, second]
    assert ours(asked[0]) == ours(asked[:1]) == first
    assert list(ours(iter(asked[:1]))) == [first]
    assert ours([]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"question": "What?"}, "a question and a context are needed"),
        ({"question": ["a", "b"], "context": ["c"]}, "2 questions but 1 contexts: give one for each"),
        ({"question": " ", "context": "c"}, "question 0 is empty"),
        ({"inputs": [{"question": "a"}]}, "inputs must be a {'question', 'context'} mapping or a list of those"),
        ({"question": "a", "context": "b", "top_k": 0}, "top_k must be at least 1, not 0"),
        ({"question": "a", "context": "b", "max_answer_len": 0}, "max_answer_len must be at least 1, not 0"),
        ({"question": "a", "context": "b", "doc_stride": -1}, "doc_stride must be at least 0, not -1"),
        ({"question": "a", "context": "b", "batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_what_question_answering_refuses(reader, given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        reader[2](**given)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_entities_of_a_long_text_in_windows(bundle, strategy):
    text = " ".join([*PERSONAL, PROSE[:1500]] * 3)
    theirs = their_tagger()
    ours = pipeline(model=bundle("rampart").folder, precision="fp32", aggregation_strategy=strategy)
    before, theirs.tokenizer.model_max_length = theirs.tokenizer.model_max_length, 64
    try:
        expected = theirs(text, stride=16, aggregation_strategy=strategy)
    finally:
        theirs.tokenizer.model_max_length = before
    assert len(expected) > 20
    assert_entities(ours(text, stride=16, max_length=64), expected, 1e-4)
    with pytest.raises(InputError, match="stride must be at least 0, and needs an aggregation_strategy"):
        ours(text, stride=16, aggregation_strategy="none")


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize(("task", "name"), [("sentence-embeddings", "minilm"), ("token-classification", "rampart")])
def test_an_iterator_is_read_as_its_results_are(bundle, task, name, batch_size):
    texts = DOCUMENTS[:7]
    pipe = pipeline(task, bundle(name).folder, precision="fp32")
    read = []
    results = pipe((read.append(text) or text for text in texts), batch_size=batch_size)
    assert read == []
    first = next(results)
    assert len(read) == (batch_size or len(texts))
    found = [first, *results]
    expected = pipe(texts)
    assert len(found) == 7
    if name == "minilm":
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        for one, other in zip(found, expected, strict=True):
            assert_entities(one, other, 1e-5)


def test_iterators_where_a_list_of_one_is_unpacked(mask):
    texts = ["The [MASK] is calm.", "A [MASK] is a light boat."]
    assert list(mask[1](iter(texts), batch_size=1)) == [mask[1](text) for text in texts]


def test_options_of_every_call(mask):
    folder = mask[1].bundle.folder
    pipe = pipeline("fill-mask", folder, top_k=2)
    assert_alike(pipe("The [MASK] is calm."), mask[1]("The [MASK] is calm.", top_k=2))
    assert_alike(pipe("The [MASK] is calm.", top_k=3), mask[1]("The [MASK] is calm.", top_k=3))
    with pytest.raises(InputError, match="fill-mask has no option 'tok_k': it has inputs, top_k, targets"):
        pipeline("fill-mask", folder, tok_k=2)


def test_one_graph_beside_its_configuration(mask, tmp_path):
    folder, text = mask[1].bundle.folder, "The [MASK] is calm."
    assert_alike(pipeline(model=folder / "onnx" / "model.onnx")(text), mask[1](text))
    for path in (*folder.glob("*.json"), *folder.glob("onnx/*")):
        if path.name != "wherry.json":
            shutil.copy(path, tmp_path)
    (tmp_path / "model.onnx").rename(tmp_path / "optimized.onnx")
    pipe = pipeline(model=str(tmp_path / "optimized.onnx"))
    assert (pipe.task, pipe.variant.precision) == ("fill-mask", "optimized")
    assert_alike(pipe(text), mask[1](text))
    (tmp_path / "config.json").unlink()
    with pytest.raises(BundleError, match=r"has no config\.json beside it or in the folder above"):
        pipeline(model=tmp_path / "optimized.onnx")


def test_a_checkpoint_is_exported_once(classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("WHERRY_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match="has no ONNX graph: exporting it, once, to "):
        classify = pipeline("sentiment-analysis", classifier)
    assert_alike(classify("ok"), transformers.pipeline("text-classification", model=str(classifier))("ok"))
    monkeypatch.setattr("wherry_exporter.export", None)
    assert pipeline("text-classification", str(classifier)).bundle.folder == classify.bundle.folder


def test_a_checkpoint_where_nothing_can_export_it(classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("WHERRY_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "wherry_exporter", None)
    with (
        pytest.warns(UserWarning, match="has no ONNX graph"),
        pytest.raises(BundleError, match=r"has no ONNX graph, and exporting it needs wherry_exporter: pip install"),
    ):
        pipeline(model=classifier)
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_page_has_the_table_of_tasks():
    page = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")
    told = {}
    for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE):
        name, *aliases = re.findall(r"`([^`]+)`", row)
        if name in TASKS:
            told[name] = tuple(aliases)
    assert told == {name: task.aliases for name, task in TASKS.items()}


@pytest.mark.parametrize(
    ("kind", "words", "printed"),
    [
        ("mask", ["The [MASK] is calm."], "The [MASK] is calm.\n  "),
        ("judge", ["ok", "--task", "zero-shot-classification", "--labels", "sea,law"], "ok\n  "),
        ("ranker", ["ok", "no", "--task", "rerank", "--query", "What?"], ""),
        ("reader", ["The sea is calm.", "--question", "What is calm?"], "The sea is calm.\n  "),
    ],
)
def test_the_command_line(request, capsys, kind, words, printed):
    given = request.getfixturevalue(kind)
    folder = given[-1] if kind == "ranker" else given[-1].bundle.folder
    assert main(["run", str(folder), *words]) == 0
    assert capsys.readouterr().out.startswith(printed)
    assert main(["run", str(folder), *words, "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if kind == "ranker":
        assert results == pipeline("rerank", folder)("What?", ["ok", "no"])
    elif kind == "reader":
        assert results == [given[-1](question="What is calm?", context="The sea is calm.")]
        assert main(["run", str(folder), words[0]]) == 2
        assert "question-answering needs --question, such as" in capsys.readouterr().err
    else:
        extra = {"candidate_labels": ["sea", "law"]} if kind == "judge" else {}
        assert results == [given[-1](words[0], **extra)]
