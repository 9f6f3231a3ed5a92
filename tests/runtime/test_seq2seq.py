"""A decoder behind an encoder, by the same engine: real Whisper gives transformers' tokens, greedily and by beams."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSpeechSeq2Seq, GenerationMixin, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from wherry import pipeline
from wherry.errors import InputError
from wherry.generation import Decoder, Engine, GenerationConfig, search
from wherry.session import Session
from wherry_exporter import export
from wherry_exporter.samples import sample

START = [50258, 50259, 50359, 50363]  # start, English, transcribe, no timestamps
COUNT = 12


@pytest.fixture(scope="module")
def model():
    return AutoModelForSpeechSeq2Seq.from_pretrained(sample("whisper"), dtype=torch.float32)


@pytest.fixture(scope="module")
def graphs(bundle):
    folder = bundle("whisper").folder
    encoder, decoder = (
        Session(folder / f"onnx/{role}.onnx", device="cpu") for role in ("encoder_model", "decoder_model_merged")
    )
    return encoder, Decoder(decoder, "left")


@pytest.fixture(scope="module")
def states(graphs):
    """Of three sounds."""
    frames = np.arange(3000)
    chirps = [np.sin(np.arange(80)[:, None] / 7 + frames / speed) for speed in (40, 15, 90)]
    return graphs[0].run({"input_features": np.stack(chirps).astype(np.float32)})["last_hidden_state"]


def by_torch(model, states, **options):
    """Without Whisper's own loop, which is about what to suppress and about timestamps."""
    quiet = {"suppress_tokens": None, "begin_suppress_tokens": None, "forced_decoder_ids": None, "eos_token_id": None}
    found = GenerationMixin.generate(
        model,
        encoder_outputs=BaseModelOutput(last_hidden_state=torch.from_numpy(states)),
        decoder_input_ids=torch.tensor([START]),
        max_new_tokens=COUNT,
        max_length=None,
        do_sample=False,
        **quiet,
        **options,
    )
    return found[:, len(START) :].tolist()


def test_whisper_gives_the_tokens_of_transformers(graphs, model, states):
    """The second and third join while the first is running already."""
    engine = Engine(graphs[1])
    config = GenerationConfig(max_new_tokens=COUNT)
    requests = [engine.submit(START, config, {"encoder_hidden_states": states[:1]})]
    for _ in range(4):
        engine.step()
    requests += [engine.submit(START, config, {"encoder_hidden_states": states[at : at + 1]}) for at in (1, 2)]
    list(engine.run())
    found = [request.choosers[0].ids[len(START) :].tolist() for request in requests]
    assert found == [by_torch(model, states[at : at + 1])[0] for at in range(3)]
    assert len({tuple(row) for row in found}) > 1


def test_whisper_by_beams(graphs, model, states):
    config = GenerationConfig(max_new_tokens=COUNT, num_beams=3, num_return_sequences=2)
    given = [{"encoder_hidden_states": states[at : at + 1]} for at in (1, 2)]
    for at, found in zip((1, 2), search(graphs[1], [START] * 2, config, given), strict=True):
        assert [list(each.tokens) for each in found] == by_torch(
            model, states[at : at + 1], num_beams=3, num_return_sequences=2, pad_token_id=0
        )


# ------------------------------------------------------------------------------------------------- text to text

SENTENCE = "the river is wide and a light boat carries goods across it every day in summer"
TEXTS = ["the river is wide", "a light boat carries goods across it every day in summer and is light", "it is"]


def checkpoint(folder, name, settings, special):
    """A tiny random model with a tokenizer of whole words, `</s>` behind each text and a language before it."""
    vocabulary = {token: number for number, token in enumerate([*special, *dict.fromkeys(SENTENCE.split())])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(special))
    first = "__en__ $A </s>" if "__en__" in special else "$A </s>"
    tokens = [(token, vocabulary[token]) for token in ("__en__", "</s>") if token in vocabulary]
    backend.post_processor = processors.TemplateProcessing(single=first, special_tokens=tokens)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=40
    )
    torch.manual_seed(1)
    config = getattr(transformers, name.replace("ForConditionalGeneration", "Config"))
    model = getattr(transformers, name)(config(vocab_size=len(vocabulary), **settings)).eval()
    for parameter in model.parameters():
        parameter.data *= 3  # so that tokens differ
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def written_by_torch(model, tokenizer, text, **options):
    ids = tokenizer(text, return_tensors="pt")
    found = model.generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], **options)
    return tokenizer.batch_decode(found, skip_special_tokens=True)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    settings = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
        "task_specific_params": {
            "summarization": {"prefix": "summer ", "num_beams": 3, "max_length": 9},
            "translation_en_to_fr": {"prefix": "cold ", "max_length": 11},
        },
    }
    model, tokenizer = checkpoint(folder / "model", "T5ForConditionalGeneration", settings, ("<pad>", "</s>", "<unk>"))
    return model, tokenizer, export(folder / "model", folder / "bundle", precision=["fp32"]).folder


def test_texts_from_texts(t5):
    model, tokenizer, folder = t5
    pipe = pipeline(model=folder)
    assert pipe.task == "text2text-generation"
    options = {"max_new_tokens": 12}
    expected = [written_by_torch(model, tokenizer, text, do_sample=False, **options)[0] for text in TEXTS]
    assert len(set(expected)) > 1
    assert pipe(TEXTS, **options) == [[{"generated_text": text}] for text in expected]
    assert pipe(TEXTS[1], **options) == [{"generated_text": expected[1]}]
    assert "".join(pipe.stream(TEXTS[1], **options)) == expected[1]
    beams = {"num_beams": 4, "num_return_sequences": 2, **options}
    assert [each["generated_text"] for each in pipe(TEXTS[0], **beams)] == written_by_torch(
        model, tokenizer, TEXTS[0], **beams
    )


def test_a_summary_is_made_as_the_model_says(t5):
    model, tokenizer, folder = t5
    expected = written_by_torch(model, tokenizer, "summer " + TEXTS[0], num_beams=3, max_length=9)
    assert pipeline("summarization", folder)(TEXTS[0]) == [{"summary_text": expected[0]}]


def test_a_task_that_names_languages(t5):
    model, tokenizer, folder = t5
    expected = written_by_torch(model, tokenizer, "cold " + TEXTS[0], max_length=11)
    assert pipeline("translation_en_to_fr", folder)(TEXTS[0]) == [{"translation_text": expected[0]}]


def test_texts_that_are_refused(t5):
    pipe = pipeline(model=t5[2])
    with pytest.raises(InputError, match="text 1 is empty"):
        pipe(["the river", ""])
    with pytest.raises(InputError, match="the model has no language 'fr'"):
        pipe("the river", tgt_lang="fr")
    with pytest.raises(InputError, match="a stream is of one str, not of a list"):
        pipe.stream(["the river"])
    with pytest.raises(InputError, match="a stream is of one text"):
        pipe.stream("the river", num_beams=2)
    with pytest.warns(UserWarning, match="1 of 1 texts cut to the model's 40 tokens"):
        pipe("river " * 60, max_new_tokens=2)


def test_translation_into_a_language(tmp_path):
    settings = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 3,
        "decoder_start_token_id": 1,
    }
    special = ("<pad>", "</s>", "<unk>", "<s>", "__en__", "__fr__", "__de__")
    model, tokenizer = checkpoint(tmp_path / "model", "M2M100ForConditionalGeneration", settings, special)
    folder = export(tmp_path / "model", tmp_path / "bundle", precision=["fp32"]).folder
    translate = pipeline("translation", folder)
    options = {"max_new_tokens": 10, "num_beams": 1}
    for language, token in (("fr", 5), ("__de__", 6)):
        expected = written_by_torch(model, tokenizer, TEXTS[0], forced_bos_token_id=token, **options)
        assert translate(TEXTS[0], tgt_lang=language, **options) == [{"translation_text": expected[0]}]
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    ids[0, 0] = 6  # from German
    expected = model.generate(input_ids=ids, forced_bos_token_id=5, **options)
    text = tokenizer.decode(expected[0], skip_special_tokens=True)
    assert translate(TEXTS[0], src_lang="de", tgt_lang="fr", **options) == [{"translation_text": text}]
    assert pipeline("translation_de_to_fr", folder, **options)(TEXTS[0]) == [{"translation_text": text}]
