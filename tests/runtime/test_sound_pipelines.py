"""Pipelines of sounds give what transformers.pipeline gives, on the same weights and sounds.

Voices and voice activity, which transformers does not have, are compared with what their authors' files say and do.
"""

import importlib.util
import json
import shutil
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import soxr
import torch
import transformers

from tiny_sounds import TINY, make, make_whisper
from wherry import pipeline
from wherry.audio.phonemes import phonemes
from wherry.cli import main
from wherry.errors import BundleError, InputError, TokenizerError
from wherry_exporter import export
from wherry_exporter.noise import still, stilled
from wherry_exporter.samples import sample

SAID = {
    "The ferryman waits at the landing until the tide has turned.": (
        "ðə fˈɛɹɪmən wˈeɪts æt ðə lˈændɪŋ ʌntˈɪl ðə tˈaɪd hɐz tˈɜːnd."
    ),
    "In the morning we walked along the quay and counted forty two barges.": (
        "ɪnðə mˈɔːɹnɪŋ wiː wˈɔːkt ɐlˈɔŋ ðə kˈiː ænd kˈaʊntᵻd fˈɔːɹɾi tˈuː bˈɑːɹdʒᵻz."
    ),
    "She asked for two loaves of bread, a bottle of milk and the evening paper.": (
        "ʃiː ˈæskt fɔːɹ tˈuː lˈoʊvz ʌv bɹˈɛd, ɐ bˈɑːɾəl ʌv mˈɪlk ænd ðɪ ˈiːvnɪŋ pˈeɪpɚ."
    ),
}
"""Sentences, and what espeak-ng makes of them."""

QUIET = {"noise_scale": 0, "noise_w": 0}


@pytest.fixture(scope="module")
def voice():
    return pipeline(model=sample("piper"), device="cpu")


@pytest.fixture(scope="module")
def speech(voice):
    """Real speech at 16 kHz: the sentences of SAID, and all of them twice with pauses, some half a minute and more."""
    said = [voice({"phonemes": each}, **QUIET) for each in SAID.values()]
    sounds = [soxr.resample(each["audio"], each["sampling_rate"], 16000) for each in said]
    pause = np.zeros(20000, np.float32)
    return [*sounds, np.concatenate([part for sound in sounds * 3 for part in (sound, pause)])]


@pytest.fixture(scope="module")
def noises():
    random = np.random.default_rng(0)
    return [np.cumsum(random.normal(size=size)).astype(np.float32) / 200 for size in (16000, 23456, 16000)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return cache(lambda name: make(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory):
    """Our pipeline on a tiny model's bundle."""

    @cache
    def opened(name):
        folder = tmp_path_factory.mktemp("bundles") / name
        export(folders(name), folder, precision=["fp32"])
        return pipeline(model=folder, device="cpu")

    return opened


@pytest.fixture(scope="module")
def theirs(folders):
    return cache(lambda name, task: transformers.pipeline(task, model=str(folders(name)), device="cpu"))


def same(found, expected):
    """Whole results: texts, labels and times equal, scores near."""
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        assert set(found) == set(expected)
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-3)
    else:
        assert found == expected


# -------------------------------------------------------------------------------------------------------- Whisper


@pytest.fixture(scope="module")
def whisper(bundle):
    return pipeline(model=bundle("whisper").folder, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def their_whisper():
    return transformers.pipeline(
        "automatic-speech-recognition", model=str(sample("whisper")), dtype=torch.float32, device="cpu"
    )


def of(reference, sounds, generate_kwargs=None, **options):
    """Theirs of a copy, for it changes what it is given; with what Whisper is told by default."""
    told = {"num_beams": 1, "task": "transcribe"} | (generate_kwargs or {})
    copies = [each.copy() for each in sounds] if isinstance(sounds, list) else sounds.copy()
    return reference(copies, generate_kwargs=told, **options)


def test_whisper(whisper, their_whisper, speech):
    """Real speech and weights: a list of sentences with timestamps, and a language that is told."""
    found = whisper(speech[:2], return_timestamps=True)
    same(found, of(their_whisper, speech[:2], return_timestamps=True))
    assert "waits at the landing until the tide has turned" in found[0]["text"]
    assert whisper(speech[0], return_language=True)["chunks"][0]["language"] == "english"
    assert "".join(whisper.stream(speech[0])) == whisper(speech[0])["text"]


def test_whisper_of_more_than_a_window(whisper, their_whisper, speech):
    same(whisper(speech[3], return_timestamps=True), of(their_whisper, speech[3], return_timestamps=True))
    assert "".join(whisper.stream(speech[3])) == whisper(speech[3])["text"]


def test_when_words_were_said(whisper, their_whisper, speech):
    """Real speech and weights; a tiny Whisper reads windows and parts that overlap."""
    found = whisper(speech[0], return_timestamps="word")
    same(found, of(their_whisper, speech[0], return_timestamps="word"))
    assert [word["text"] for word in found["chunks"]][-4:] == [" the", " tide", " has", " turned."]


@pytest.mark.sweep
def test_when_words_of_more_than_a_window_were_said(whisper, their_whisper, speech):
    """Real speech and weights, in parts that overlap."""
    found = whisper(speech[3], return_timestamps="word", chunk_length_s=20)
    same(found, of(their_whisper, speech[3], return_timestamps="word", chunk_length_s=20))
    assert found["chunks"][-1]["timestamp"][1] > 30


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny Whisper: ours and theirs."""
    folder = tmp_path_factory.mktemp("tiny")
    source = make_whisper(folder / "whisper")
    export(source, folder / "bundle", precision=["fp32"])
    return (
        pipeline(model=folder / "bundle", device="cpu"),
        transformers.pipeline("automatic-speech-recognition", model=str(source), dtype=torch.float32, device="cpu"),
    )


GUESSED = {
    "condition_on_prev_tokens": True,
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -20.0,
    "no_speech_threshold": 0.6,
    "temperature": (0.0,),
}
WAYS = {
    "plain": {},
    "timestamps": {"return_timestamps": True},
    "language": {"generate_kwargs": {"language": "german"}},
    "translate": {"generate_kwargs": {"language": "fr", "task": "translate"}, "return_timestamps": True},
    "beams": {"generate_kwargs": {"num_beams": 3}, "return_timestamps": True},
    "thresholds": {"generate_kwargs": GUESSED, "return_timestamps": True},
    "parts": {"chunk_length_s": 20},
    "parts with timestamps": {"chunk_length_s": 20, "stride_length_s": (3, 1), "return_timestamps": True},
    "words": {"return_timestamps": "word"},
    "words of beams": {"generate_kwargs": {"num_beams": 3}, "return_timestamps": "word"},
    "words in parts": {"chunk_length_s": 20, "stride_length_s": (3, 1), "return_timestamps": "word"},
    "penalties": {"generate_kwargs": {"no_repeat_ngram_size": 2}},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_whisper(tiny, speech, way):
    """Of a short sound and, where theirs takes it, of a long one. A tiny random model writes the same nonsense."""
    ours, reference = tiny
    options = dict(WAYS[way])
    told = {**options.pop("generate_kwargs", {}), "max_new_tokens": 12}
    for sound in (speech[0], speech[3]) if {"return_timestamps", "chunk_length_s"} & set(options) else (speech[0],):
        found = ours(sound, generate_kwargs=told, **options)
        assert found["text"].strip()
        same(found, of(reference, sound, told, **options))


def test_sounds_of_any_kind_for_whisper(tiny, speech, tmp_path):
    ours, _ = tiny
    expected = ours(speech[:2], batch_size=2, max_new_tokens=12)
    soundfile.write(tmp_path / "speech.wav", speech[0], 16000, subtype="FLOAT")
    same(ours(str(tmp_path / "speech.wav"), max_new_tokens=12), expected[0])
    same(ours({"raw": speech[1], "sampling_rate": 16000}, max_new_tokens=12), expected[1])
    same(list(ours(iter(speech[:2]), max_new_tokens=12)), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_timestamps": "char"}, "must be true, false or 'word' for Whisper, not 'char'"),
        ({"language": "klingon"}, "this model has no language 'klingon': it has af, am,"),
        ({"task": "sing"}, "task must be transcribe or translate, not 'sing'"),
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"logprob_threshold": "low"}, "logprob_threshold must be a number, not 'low'"),
        ({"no_speech_threshold": 0.6}, "no_speech_threshold needs logprob_threshold too"),
        ({"num_return_sequences": 2, "num_beams": 2}, "speech has one text"),
        ({"chunk_length_s": -1}, "chunk_length_s must be seconds"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_options_that_whisper_does_not_take(tiny, speech, options, message):
    with pytest.raises(InputError, match=message):
        tiny[0](speech[0], **options)


def test_words_need_the_cross_attention(tiny, speech, monkeypatch):
    model = tiny[0].whisper
    monkeypatch.setattr(model.decoder, "attends", frozenset())
    with pytest.raises(InputError, match="which its graph does not give: export the model anew with wherry export"):
        tiny[0](speech[0], return_timestamps="word")
    monkeypatch.setattr(model, "heads", ())
    with pytest.raises(InputError, match=r"generation_config.json has no alignment_heads"):
        tiny[0](speech[0], return_timestamps="word")


# ---------------------------------------------------------------------------------------- CTC and classification


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_timestamps": "char"},
        {"return_timestamps": "word"},
        {"chunk_length_s": 0.5},
        {"chunk_length_s": 0.6, "stride_length_s": (0.2, 0.1), "return_timestamps": "word", "batch_size": 2},
    ],
)
def test_ctc(exported, theirs, noises, options):
    found = exported("wav2vec2")(noises, **options)
    reference = theirs("wav2vec2", "automatic-speech-recognition")
    expected = [reference(each.copy(), **options) for each in noises]
    same(found, expected)
    assert all(each["text"] for each in found)


def test_parakeet(exported, folders, noises):
    """Pieces of words; transformers' pipeline asks Parakeet for strides that it does not have."""
    ours, folder = exported("parakeet"), folders("parakeet")
    model = transformers.ParakeetForCTC.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    features = transformers.AutoFeatureExtractor.from_pretrained(folder)
    expected = []
    for each in noises:
        given = features(each, sampling_rate=16000, return_tensors="pt")
        expected.append(tokenizer.decode(model.generate(**given)[0].tolist()).strip())
    assert ours(noises) == [{"text": text} for text in expected]
    assert min(map(len, expected)) > 3
    words = ours(noises[0], return_timestamps="word")["chunks"]
    assert [word["text"] for word in words] == expected[0].split()
    times = [time for word in words for time in word["timestamp"]]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 1 + 0.08
    assert all(time == pytest.approx(round(time / 0.08) * 0.08) for time in times)
    pieces = ours(noises[1], return_timestamps="char")["chunks"]
    assert "".join(piece["text"] for piece in pieces).strip() == expected[1]
    assert ours(np.concatenate(noises), chunk_length_s=1.0)["text"]
    assert len(ours(noises[0][:1000])["text"]) < 5
    assert set(ours(noises[0][:9])) == {"text"}


@pytest.mark.parametrize("name", ["parakeet-tdt", pytest.param("parakeet-rnnt", marks=pytest.mark.sweep)])
def test_transducers(exported, folders, noises, name):
    """What transformers' generate writes, and when its processor says that pieces were."""
    ours, folder = exported(name), folders(name)
    model = getattr(transformers, TINY[name][0]).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    features = transformers.AutoFeatureExtractor.from_pretrained(folder)
    kind = name.removeprefix("parakeet-")
    processor = transformers.ParakeetProcessor(features, tokenizer, blank_token="<pad>", decoder_type=kind)
    expected = []
    for each in noises:
        output = model.generate(**features(each, sampling_rate=16000, return_tensors="pt"), eos_token_id=None)
        text, ((*pieces,),) = processor.decode(output.sequences, durations=output.durations, skip_special_tokens=True)
        expected.append((text[0].strip(), pieces))
    found = ours(noises, return_timestamps="char")
    assert [each["text"] for each in found] == [text for text, _ in expected]
    assert min(len(text) for text, _ in expected) > 3
    for each, (_, pieces) in zip(found, expected, strict=True):
        times = [chunk["timestamp"] for chunk in each["chunks"] if chunk["text"].strip()]
        told = [(piece["start"], piece["end"]) for piece in pieces if piece["token"].strip()]
        np.testing.assert_allclose(times, told)
    words = ours(noises[0], return_timestamps="word")["chunks"]
    assert [word["text"] for word in words] == expected[0][0].split()
    assert ours(noises, batch_size=3) == [{"text": text} for text, _ in expected]
    assert ours(np.concatenate(noises), chunk_length_s=1.2)["text"]
    assert set(ours(noises[0][:9])) == {"text"}
    with pytest.raises(InputError, match="return_timestamps must be char or word for Parakeet, not True"):
        ours(noises[0], return_timestamps=True)


@pytest.mark.parametrize("told", [{"blank_token_id": None}, {"durations": [0.5]}, {"max_symbols_per_step": 0}])
def test_a_transducer_whose_configuration_does_not_tell(exported, tmp_path, told):
    folder = shutil.copytree(exported("parakeet-tdt").bundle.folder, tmp_path / "bundle")
    config = json.loads((folder / "config.json").read_text()) | told
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "wherry.json").read_text(encoding="utf-8"))
    del manifest["files"]["config.json"]
    (folder / "wherry.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match="must tell vocab_size, blank_token_id"):
        pipeline(model=folder, device="cpu")


def test_options_that_ctc_does_not_take(exported, noises):
    ours = exported("wav2vec2")
    with pytest.raises(InputError, match="return_timestamps must be char or word for CTC, not True"):
        ours(noises[0], return_timestamps=True)
    with pytest.raises(InputError, match=r"longer than the 300 seconds that are taken at once: pass chunk_length_s=30"):
        ours(np.zeros(16000 * 301, np.float32))


@pytest.mark.parametrize("name", ["hubert", "ast"])
def test_audio_classification(exported, theirs, noises, name):
    ours, reference = exported(name), theirs(name, "audio-classification")
    expected = [reference(each.copy()) for each in noises]
    same(ours(noises, batch_size=2), expected)
    assert len({each[0]["score"] for each in expected}) > 1
    options = {"top_k": 2, "function_to_apply": "sigmoid"}
    same(ours(noises[0], **options), reference(noises[0].copy(), **options))


# ------------------------------------------------------------------------------------------------- voice activity


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.9, "min_silence_duration_ms": 30, "speech_pad_ms": 100},
        {"max_speech_duration_s": 2.0},
        {"max_speech_duration_s": 1.0, "min_speech_duration_ms": 10},
    ],
)
def test_voice_activity(silero, speech, options):
    """What the authors' own loop over the graph finds."""
    ours, authors = silero
    model = authors.OnnxWrapper(str(sample("silero") / "silero_vad.onnx"))
    expected = authors.get_speech_timestamps(torch.from_numpy(speech[3].copy()), model, **options)
    assert ours(speech[3], **options) == [{name: at / 16000 for name, at in each.items()} for each in expected]
    assert len(expected) > 5


@pytest.fixture(scope="module")
def silero():
    spec = importlib.util.spec_from_file_location("utils_vad", sample("silero") / "utils_vad.py")
    authors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authors)
    return pipeline(model=sample("silero"), device="cpu"), authors


def test_silence_has_no_speech(silero):
    ours, _ = silero
    assert ours([np.zeros(16000, np.float32), np.zeros(3, np.float32)]) == [[], []]
    with pytest.raises(InputError, match="threshold must be a number from 0 to 1, not 2"):
        ours(np.zeros(16000, np.float32), threshold=2)


# --------------------------------------------------------------------------------------------------------- voices


def test_vits(exported, theirs):
    texts = ["A wherry is a light boat.", "it's 5 o'clock"]
    found = exported("vits")(texts)
    for one, text in zip(found, texts, strict=True):
        expected = theirs("vits", "text-to-audio")(text)
        assert one["sampling_rate"] == expected["sampling_rate"]
        assert one["audio"].shape == expected["audio"].shape
        np.testing.assert_allclose(one["audio"], expected["audio"], atol=1e-4)
    with pytest.raises(InputError, match="the text has nothing to say"):
        exported("vits")("1234")


@pytest.mark.parametrize("name", [pytest.param("musicgen", marks=pytest.mark.sweep), "musicgen-stereo"])
def test_music(name, exported, theirs):
    """Three codebooks wait for those before them; in stereo, left and right take turns."""
    ours, their = exported(name), theirs(name, "text-to-audio")
    for text, options in (
        ("a calm piano", {"max_new_tokens": 30}),
        ("drums and a bass", {"max_new_tokens": 41, "guidance_scale": 1.0}),
        ("rain", {"max_length": 26, "guidance_scale": 1.5}),
    ):
        expected = their(text, generate_kwargs={**options, "do_sample": False})
        found = ours(text, **options)
        assert found["sampling_rate"] == expected["sampling_rate"] == 800
        np.testing.assert_allclose(found["audio"], expected["audio"].squeeze(), atol=1e-5)
    first, again, other = (ours("rain", do_sample=True, max_new_tokens=30, seed=seed)["audio"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    shortest = ours("rain", max_new_tokens=100, max_time=1e-6)["audio"].shape[-1]
    assert shortest == 7 * 16  # as much as the codec takes


def test_music_refuses_what_it_cannot_do(exported):
    ours = exported("musicgen-stereo")
    for given, options, message in (
        ("rain", {"max_new_tokens": 5}, "music has at least 10 new tokens, about 50 a second, not 5"),
        ("rain", {"guidance_scale": 0}, "guidance_scale must be at least 1, not 0"),
        ("rain", {"num_beams": 2}, "music is written without beams"),
        ("rain", {"tempo": 90}, "unknown generation option tempo"),
        ("  ", {}, "the text has nothing to say"),
        (5, {}, "a text must be a str or a list of str, not int"),
    ):
        with pytest.raises(InputError, match=message):
            ours(given, **options)


@pytest.fixture(scope="module")
def vocoder(folders, tmp_path_factory):
    return export(folders("hifigan"), tmp_path_factory.mktemp("vocoder") / "hifigan", precision=["fp32"]).folder


@pytest.fixture(scope="module")
def still_speech(exported, tmp_path_factory):
    """SpeechT5's bundle laid out as others do, and its decoder without the dropout that stays on."""
    ours = exported("speecht5")
    folder = tmp_path_factory.mktemp("speech") / "still"
    shutil.copytree(ours.bundle.folder, folder)
    (folder / "wherry.json").unlink()
    path = folder / "onnx/decoder_model_merged.onnx"
    with stilled(path) as still_path:
        onnx.save(onnx.load(still_path), path)
    return folder


def test_speecht5(vocoder, folders, still_speech):
    model = transformers.SpeechT5ForTextToSpeech.from_pretrained(folders("speecht5"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders("speecht5"))
    theirs = transformers.SpeechT5HifiGan.from_pretrained(folders("hifigan"))
    voices = np.random.default_rng(5).normal(size=(2, 12)).astype(np.float32)
    ours = pipeline("text-to-speech", still_speech, device="cpu", vocoder=vocoder)
    sums = []
    model.speech_decoder_postnet.prob_out.register_forward_hook(
        lambda _module, _inputs, output: sums.append(float(torch.sigmoid(output).sum()))
    )

    def both(text, voice, **options):
        """How many frames are said."""
        sums.clear()
        ids = tokenizer(text, return_tensors="pt").input_ids
        with still(), torch.no_grad():
            expected = model.generate_speech(ids, torch.from_numpy(voice)[None], vocoder=theirs, **options).numpy()
        found = ours(text, speaker_embeddings=voice, **options)
        assert found["sampling_rate"] == 800
        np.testing.assert_allclose(found["audio"], expected, atol=1e-3)
        assert np.ptp(expected) > 0.1
        return len(expected) // 4

    ends = set()
    for text, voice in (("over the lazy dog", voices[0]), ("the fox jumps over a dog", voices[1])):
        assert both(text, voice, threshold=10.0, maxlenratio=3.0) == 2 * len(sums)
        end = int(np.argmax(sums))
        ends.add(end)
        assert both(text, voice, threshold=sums[end] - 1e-4) == 2 * (end + 1)
    assert max(ends) > 0
    assert both("a dog", voices[0], minlenratio=2.0, maxlenratio=2.5) == 2 * 7
    assert both("a", voices[0], threshold=10.0, maxlenratio=0.1) == 2
    listed = ours(["a", "a dog"], speaker_embeddings=voices[:1], vocoder=str(vocoder), maxlenratio=2, threshold=10)
    assert [len(each["audio"]) for each in listed] == [4 * 2 * 3, 4 * 2 * 7]
    with pytest.warns(UserWarning, match="speech was cut after 160 frames, all that the model can say"):
        assert len(ours("the fox jumps", speaker_embeddings=voices[0], threshold=10)["audio"]) == 160 * 4


def test_what_speecht5_cannot_say(exported, vocoder, still_speech, tmp_path):
    ours, voice = pipeline("text-to-speech", still_speech, device="cpu"), np.ones(12)
    (tmp_path / "voice.npy").write_bytes(b"voice")
    for given, options, message in (
        ("the fox", {}, "pass vocoder=, a bundle of its SpeechT5HifiGan"),
        ("the fox", {"speaker_embeddings": np.ones(7)}, r"must be 12 finite floats, not of shape \(7,\)"),
        ("the fox", {"speaker_embeddings": np.full(12, np.nan)}, "must be 12 finite floats"),
        ("the fox", {"speaker_embeddings": "nowhere.npy"}, "nowhere.npy is no .npy file of a voice"),
        ("the fox", {"speaker_embeddings": tmp_path / "voice.npy"}, "is no .npy file of a voice that can be read"),
        ("the fox", {"speaker_embeddings": {}}, "speaker_embeddings must be floats, not dict"),
        ("the fox", {"threshold": "high"}, "threshold, minlenratio and maxlenratio must be numbers"),
        ("the fox", {"minlenratio": 3.0, "maxlenratio": 2.0}, "minlenratio 3.0 and maxlenratio 2.0 must be in order"),
        ("  ", {}, "the text has nothing to say"),
        (["the fox", 5], {}, "text 1 is a int, not a str"),
        ("the fox " * 9, {}, "a text has 73 tokens, the model takes 60: cut it up"),
    ):
        chosen = {} if message.startswith("pass vocoder") else {"vocoder": vocoder}
        with pytest.raises(InputError, match=message):
            ours(given, **{"speaker_embeddings": voice, **chosen, **options})
    with pytest.raises(
        BundleError, match="hifigan is a speecht5_hifigan: of models that speak wherry runs VITS, Piper's"
    ):
        pipeline(model=vocoder, device="cpu")
    with pytest.raises(BundleError, match="is no vocoder of spectrograms of 8 bins"):
        ours("the fox", speaker_embeddings=voice, vocoder=exported("vits").bundle.folder)
    config = json.loads((still_speech / "config.json").read_text()) | {"reduction_factor": None}
    folder = shutil.copytree(still_speech, tmp_path / "speech")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="must tell num_mel_bins, reduction_factor"):
        pipeline("text-to-speech", folder, device="cpu")


def test_piper(voice):
    """The ids that the voice's JSON gives for phonemes, through its graph."""
    config = json.loads((sample("piper") / "en_US-joe-medium.onnx.json").read_text())
    ids, spoken = config["phoneme_id_map"], "həlˈoʊ."
    given = [ids["^"], ids["_"], *(part for mark in spoken for part in (ids[mark], ids["_"])), ids["$"]]
    given = np.array([[number for part in given for number in part]])
    session = onnxruntime.InferenceSession(sample("piper") / "en_US-joe-medium.onnx")
    scales = np.array([0, 1.5, 0], np.float32)
    feeds = {"input": given, "input_lengths": np.array([given.size]), "scales": scales}
    expected = session.run(None, feeds)[0].reshape(-1)
    found = voice({"phonemes": spoken}, length_scale=1.5, **QUIET)
    assert found["sampling_rate"] == config["audio"]["sample_rate"]
    np.testing.assert_allclose(found["audio"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"phonemes": "həlˈoʊ"}, {"speaker": 3}, "the voice has no speaker 3"),
        ({"phonemes": "həlˈoʊ"}, {"length_scale": -1}, "length_scale must be a number from 0 to 100, not -1"),
        ({"phonemes": "həlˈoʊ"}, {"pitch": 2}, "unknown option pitch: there are speaker, noise_scale"),
        ({"phonemes": "我"}, {}, "the text has nothing to say"),
        ({"text": "hello"}, {}, "a mapping must have 'phonemes', a str, it has text"),
        ([3], {}, "text 0 is a int, not a str"),
    ],
)
def test_what_piper_does_not_take(voice, given, options, message):
    with pytest.raises(InputError, match=message):
        voice(given, **options)


def test_phonemes():
    """By espeak-ng: punctuation stays, and a voice that is not there is told."""
    pytest.importorskip("espeakng_loader")
    for text, expected in SAID.items():
        assert phonemes(text, "en-us") == expected
    with pytest.raises(InputError, match="espeak-ng has no voice 'xx-nowhere'"):
        phonemes("text", "xx-nowhere")


@pytest.mark.parametrize("name", ["clap", pytest.param("clap-fused", marks=pytest.mark.sweep)])
def test_zero_shot_audio_classification(exported, theirs, noises, name, monkeypatch):
    """Short sounds, and one that is cut where transformers draws by chance."""
    monkeypatch.setattr(np.random, "randint", lambda low, _high: low)
    monkeypatch.setattr(np.random, "choice", lambda places: places[len(places) // 2])
    ours, reference = exported(name), theirs(name, "zero-shot-audio-classification")
    tone = np.sin(np.arange(30000) / 5).astype(np.float32)
    sounds, labels = [*noises[:2], tone, np.concatenate(noises * 3)], ["cat", "a small boat", "house"]
    found = ours(sounds, candidate_labels=labels)
    same(found, reference(sounds, candidate_labels=labels))
    assert np.ptp([each[0]["score"] for each in found]) > 0.01
    options = {"candidate_labels": labels[:2], "hypothesis_template": "A {} there"}
    same(ours(sounds[3], **options), reference(sounds[3], **options))
    same(ours(sounds, candidate_labels=labels, batch_size=3), found)
    with pytest.raises(TokenizerError, match="40"):
        ours(sounds[0], candidate_labels=["a boat " * 9])


# ----------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def wav(speech, tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.stack([speech[0], speech[0]], 1), 16000)
    return str(path)


def test_speech_on_the_command_line(tiny, wav, capsys):
    (ours, _), short = tiny, {"max_new_tokens": 12}
    folder = str(ours.bundle.folder)
    for told, asked in (("segment", True), ("word", "word")):
        result = ours(wav, return_timestamps=asked, language="de", task="translate", **short)
        words = ["--timestamps", told, "--language", "de", "--translate", "--max-new-tokens", "12"]
        assert main(["run", folder, wav, "--json", *words]) == 0
        same(json.loads(capsys.readouterr().out), json.loads(json.dumps(result)))
        assert main(["run", folder, wav, *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["from", "to", "text"]
        assert len(lines) == 2 + len(result["chunks"])
        assert lines[2].endswith(result["chunks"][0]["text"].strip())
    assert main(["run", folder, wav, "--stream", *words[-2:]]) == 0
    assert capsys.readouterr().out.strip() == ours(wav, **short)["text"].strip()


def test_other_sounds_on_the_command_line(exported, silero, wav, capsys):
    assert main(["run", str(sample("silero")), wav, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == silero[0](wav)
    assert main(["run", str(sample("silero")), wav]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["from", "to"]
    assert main(["run", str(exported("ast").bundle.folder), wav]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] in [each["label"] for each in exported("ast")(wav)]
    assert main(["run", str(exported("clap").bundle.folder), wav, "--labels", "boat,cat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == exported("clap")(wav, candidate_labels="boat,cat")


def test_music_into_a_file(exported, tmp_path, capsys):
    ours, path = exported("musicgen-stereo"), tmp_path / "music.wav"
    options = ["--max-new-tokens", "30", "--output", str(path)]
    assert main(["run", str(ours.bundle.folder), "a calm piano", *options]) == 0
    found, rate = soundfile.read(path, dtype="float32")
    assert rate == 800
    expected = np.clip(ours("a calm piano", max_new_tokens=30)["audio"], -1, 1)
    np.testing.assert_allclose(found.T, expected, atol=1e-4)
    assert str(path) in capsys.readouterr().out


def test_speech_into_a_file(exported, tmp_path, capsys):
    folder, path = str(exported("vits").bundle.folder), tmp_path / "speech.wav"
    expected = exported("vits")("a light boat")
    assert main(["run", folder, "a light boat", "--output", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"output": str(path), "seconds": round(len(expected["audio"]) / 16000, 2), "sampling_rate": 16000}
    found, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000
    np.testing.assert_allclose(found, np.clip(expected["audio"], -1, 1), atol=1e-4)


def test_speecht5_into_a_file(exported, vocoder, tmp_path, capsys):
    path, voice = tmp_path / "speech.wav", tmp_path / "voice.npy"
    np.save(voice, np.ones((1, 12), np.float32))
    words = ["run", str(exported("speecht5").bundle.folder), "the fox", "--output", str(path), "--threshold", "10"]
    assert main([*words, "--voice", str(voice)]) == 2
    assert "pass vocoder=, a bundle of its SpeechT5HifiGan" in capsys.readouterr().err
    words += ["--vocoder", str(vocoder)]
    assert main(words) == 2
    assert capsys.readouterr().err == "wherry: text-to-audio needs --voice, such as --voice 'voice.npy'\n"
    assert main([*words, "--voice", str(voice), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampling_rate"] == 800
    assert len(soundfile.read(path)[0]) == 2 * 80 * 4


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("vits", ["text"], "speech goes to a file: pass --output speech.wav"),
        ("vits", ["text", "--output", "x.mp3"], "--output must end in .wav, not be x.mp3"),
        ("vits", ["text", "--output", "/nowhere/x.wav"], "cannot write /nowhere/x.wav: No such file or directory"),
        ("vits", ["one", "two", "--output", "x.wav"], "--output is one file: give one input, not 2"),
        ("vits", ["text", "--output", "x.wav", "--top-k", "3"], "--top-k is for text-generation"),
        ("ast", ["nowhere.wav"], "no such sound file: 'nowhere.wav'"),
        ("ast", ["nowhere.wav", "--stream"], "--stream is for text-generation"),
        ("wav2vec2", ["x.wav", "--language", "de"], "--language is not for this model's automatic-speech-recognition"),
        ("wav2vec2", ["x.wav", "--output", "x.txt"], "--output is for object-detection"),
    ],
)
def test_misuse_is_one_line(exported, model, words, message, capsys):
    folder = str(exported(model).bundle.folder)
    capsys.readouterr()  # what an export told
    assert main(["run", folder, *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
