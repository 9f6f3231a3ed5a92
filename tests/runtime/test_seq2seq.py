"""A decoder behind an encoder, by the same engine: real Whisper gives transformers' tokens, greedily and by beams."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from wherry.generation import Decoder, Engine, GenerationConfig, search
from wherry.session import Session
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
    found = search(graphs[1], START, config, {"encoder_hidden_states": states[1:2]})
    assert [list(each.tokens) for each in found] == by_torch(
        model, states[1:2], num_beams=3, num_return_sequences=2, pad_token_id=0
    )
