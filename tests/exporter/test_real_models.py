"""Models of pictures and speech with real weights cross, and their graphs answer as torch does."""

import numpy as np
import torch
from onnxruntime import InferenceSession
from transformers import AutoModelForImageClassification, AutoModelForSpeechSeq2Seq

from wherry_exporter.samples import sample


def open_graph(bundle, precision, role):
    path = bundle.folder / bundle.variants[precision].graphs[role]
    return InferenceSession(path, providers=["CPUExecutionProvider"])


def test_efficientnet(bundle):
    """Float32 alone: there is nothing for dynamic int8 in a network of convolutions."""
    exported = bundle("efficientnet")
    assert exported.task == "image-classification"
    session = open_graph(exported, "fp32", "model")
    model = AutoModelForImageClassification.from_pretrained(sample("efficientnet"))
    pixels = np.random.default_rng(0).normal(size=(3, 3, 224, 224)).astype(np.float32)
    for batch in (pixels, pixels[:1]):
        with torch.no_grad():
            expected = model(torch.from_numpy(batch)).logits.numpy()
        np.testing.assert_allclose(session.run(None, {"pixel_values": batch})[0], expected, rtol=1e-3, atol=1e-4)


def test_whisper(bundle):
    """The tokens of torch for a chirp, step by step over the cache, in float32 and in int8."""
    exported = bundle("whisper")
    assert exported.task == "automatic-speech-recognition"
    assert exported.variants["int8"].bytes < 0.42 * exported.variants["fp32"].bytes
    model = AutoModelForSpeechSeq2Seq.from_pretrained(sample("whisper"), dtype=torch.float32)
    frames = np.arange(3000)
    chirp = np.sin(np.arange(80)[:, None] / 7 + frames / 40) * np.exp(-((frames % 300) / 150))
    features = chirp[None].astype(np.float32)
    prompt = [50258, 50259, 50359, 50363]  # start, English, transcribe, no timestamps
    ids = torch.tensor([prompt])
    with torch.no_grad():
        states = model.get_encoder()(torch.from_numpy(features))
        for _ in range(32):
            logits = model(encoder_outputs=states, decoder_input_ids=ids).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    for precision, same in (("fp32", 1.0), ("int8", 0.8)):
        encoder, decoder = (open_graph(exported, precision, role) for role in ("encoder_model", "decoder_model_merged"))
        found = forced(decoder, encoder.run(None, {"input_features": features})[0], ids.numpy()[:, :-1], len(prompt))
        agreement = (found == ids.numpy()[0, len(prompt) :]).mean()
        assert agreement >= same


def forced(decoder, states, ids, prefill):
    """The likeliest token at each step when the given ones are fed: first the prompt, then one at a time."""
    ports = {port.name: port.shape for port in decoder.get_inputs()}
    names = [port.name for port in decoder.get_outputs()]
    past = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in ports.items() if "past" in name}
    tokens = []
    for part in (ids[:, :prefill], *np.split(ids[:, prefill:], ids.shape[1] - prefill, 1)):
        feed = {
            "input_ids": part,
            "encoder_hidden_states": states,
            "use_cache_branch": np.array([bool(tokens)]),
            **past,
        }
        values = dict(zip(names, decoder.run(names, feed), strict=True))
        past |= {
            name.replace("present", "past_key_values"): values[name]
            for name in names
            if "present" in name and (not tokens or "encoder" not in name)
        }
        tokens.append(values["logits"][0, -1].argmax())
    return np.array(tokens)
