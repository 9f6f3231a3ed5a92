"""Decoders that hear sounds among their words: their graphs beside torch, and the pipeline beside their processors."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from tiny_hearing import AUDIO, FAMILIES, hearing
from wherry import pipeline
from wherry.audio.features import WholeFeatures
from wherry.cli import main
from wherry.errors import BundleError, InputError, TaskError
from wherry.generation import Decoder, Engine, GenerationConfig
from wherry.session import Session
from wherry_exporter import export
from wherry_exporter.build import trace_verified
from wherry_exporter.load import Checkpoint
from wherry_exporter.sounds import features_heard, sound_inputs
from wherry_exporter.tasks import shape_of, task_of

LONG = ("FunAsrNano", "GraniteSpeech")
SWEPT = [pytest.param(name, marks=pytest.mark.sweep) if name in LONG else name for name in FAMILIES]


@pytest.mark.parametrize("family", SWEPT)
def test_tokens_are_torchs(family, letters, tmp_path):
    for path in letters.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "onnx").mkdir()
    model = hearing(family)
    task = task_of(type(model))
    assert task == "audio-text-to-text"
    proven = trace_verified(Checkpoint(model, task, {}, family, None, None), tmp_path)
    assert proven.parity.max_abs_diff < 1e-3
    sessions = {role: Session(tmp_path / f"onnx/{role}.onnx", device="cpu") for role in proven.traced.graphs}
    assert list(sessions) == ["audio_encoder", "embed_tokens", "decoder_model_merged"]
    assert list(sessions["audio_encoder"].inputs) == FAMILIES[family][0]
    kinds = [node.op_type for node in proven.traced.graphs["decoder_model_merged"].graph]
    assert kinds.count("GroupQueryAttention") == 2

    (sound,) = sound_inputs(model, rows=1, seed=5, scale=3)
    given = dict(zip(FAMILIES[family][0], (value.numpy() for value in sound.values()), strict=True))
    heard = sessions["audio_encoder"].run(given)["audio_features"]
    features = features_heard(model, sound).detach().numpy()
    heard = heard.reshape(features.shape)
    np.testing.assert_allclose(heard, features, atol=1e-4)
    ids = np.array([[7, *[AUDIO] * len(features), 9, 10]])
    tokens = torch.from_numpy(ids)
    expected = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        **sound,
        max_new_tokens=32,
        do_sample=False,
        eos_token_id=None,
    )
    assert len(set(expected[0, ids.shape[1] :].tolist())) > 2
    embeddings = sessions["embed_tokens"].run({"input_ids": ids})["inputs_embeds"]
    embeddings[ids == AUDIO] = heard
    decoder = Decoder(sessions["decoder_model_merged"], proven.traced.padding_side, embed=sessions["embed_tokens"])
    engine = Engine(decoder)
    request = engine.submit(ids[0].tolist(), GenerationConfig(max_new_tokens=32), {"inputs_embeds": embeddings})
    list(engine.run())
    assert request.choosers[0].ids[ids.shape[1] :].tolist() == expected[0, ids.shape[1] :].tolist()


def test_weights_that_change_with_what_is_heard_are_refused():
    model = SimpleNamespace(
        main_input_name="input_ids",
        get_audio_features=None,
        config=SimpleNamespace(is_encoder_decoder=False, audio_token_id=AUDIO, has_lora_adapter=True),
    )
    with pytest.raises(TaskError, match="an adapter changes its weights where it hears: merge that first"):
        shape_of("audio-text-to-text", model)
    del model.get_audio_features
    with pytest.raises(TaskError, match="it takes sounds among its words, and tells no features of them"):
        shape_of("audio-text-to-text", model)


TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<audio>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
RATE = 16000


def tokenizer() -> Any:
    """Letters are tokens, and so is `<audio>`."""
    letters = {letter: number + 2 for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz .,?!:")}
    vocabulary = letters | {"<pad>": 0, "<end>": 1, "<unk>": 40, "<audio>": AUDIO}
    vocabulary |= {f"[{number}]": number for number in range(128) if number not in vocabulary.values()}
    rust = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=rust,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        extra_special_tokens={
            "audio_token": "<audio>",
            "audio_bos_token": "[101]",
            "audio_eos_token": "[102]",
        },
        chat_template=TEMPLATE,
    )


RARE = (pytest.param(name, marks=pytest.mark.sweep) for name in ("AudioFlamingo3", "Qwen2Audio"))


@pytest.fixture(scope="module", params=["GlmAsr", "Voxtral", "Qwen3ASR", *RARE])
def heard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A checkpoint, its bundle, and sounds."""
    folder = tmp_path_factory.mktemp(request.param)
    audio = FAMILIES[request.param][1]["audio_config"]
    whole = request.param == "Qwen3ASR"
    audio = audio if whole else {**audio, "max_source_positions": 1500}
    model = hearing(request.param, spread=0.1, audio_config=audio)  # wider, 4 bits would lose too much
    model.save_pretrained(folder / "model")
    extractor = getattr(transformers, f"{'Qwen3ASR' if whole else 'Whisper'}FeatureExtractor")(feature_size=16)
    words = tokenizer()
    processor = None
    if request.param == "Voxtral":  # whose own processor takes mistral_common for its words
        extractor.save_pretrained(folder / "model")
        words.save_pretrained(folder / "model")
    else:
        kind = getattr(transformers, f"{request.param}Processor")
        more = {} if whole else {"audio_token": "<audio>"}
        processor = kind(extractor, words, chat_template=TEMPLATE, **more)
        processor.save_pretrained(folder / "model")
    bundle = export(folder / "model", folder / "bundle", precision=["fp32", "int8"])
    random = np.random.default_rng(0)
    loud = np.linspace(0.9, 0.1, 40 * RATE)
    longer = 29 if request.param == "Qwen2Audio" else 33  # seconds; it hears one window alone
    sounds = [
        (random.standard_normal(count) * loud[:count]).astype(np.float32) for count in (8 * RATE // 10, longer * RATE)
    ]
    return SimpleNamespace(
        model=model,
        extractor=extractor,
        words=words,
        processor=processor,
        folder=folder,
        bundle=bundle,
        sounds=sounds,
    )


def processed(heard: SimpleNamespace, text: str, sound: Any) -> dict[str, Any]:
    """What transformers' processor makes of a prompt."""
    if heard.processor is not None:
        return dict(heard.processor(text=[text], audio=[sound], return_tensors="pt"))
    padded = np.pad(sound, (0, -len(sound) % (30 * RATE)))  # as Voxtral's does
    found = heard.extractor(padded, sampling_rate=RATE, truncation=False, return_tensors="pt").input_features
    windows = found.reshape(16, -1, 3000).transpose(0, 1)
    ids = heard.words(text.replace("<audio>", "<audio>" * 375 * len(windows)), return_tensors="pt")
    return {"input_ids": ids.input_ids, "attention_mask": ids.attention_mask, "input_features": windows}


@pytest.mark.parametrize("number", [0, 1])
def test_the_pipeline_is_the_processor_and_generate(heard, number):
    pipe = pipeline(model=heard.bundle.folder, device="cpu")
    sound = heard.sounds[number]
    options = {"max_new_tokens": 12, "min_new_tokens": 12}
    more = {"return_full_text": False, "logprobs": True}
    given = processed(heard, "<audio>what is said?", sound)
    answer = heard.model.generate(**given, do_sample=False, output_logits=True, return_dict_in_generate=True, **options)
    tokens = answer.sequences[0, given["input_ids"].shape[1] :]
    (found,) = pipe(sound, "<audio>what is said?", **more, **options)
    assert found["generated_text"] == heard.words.decode(tokens, skip_special_tokens=True)
    for told, token, logits in zip(found["logprobs"], tokens, answer.logits, strict=True):
        assert told.logprob == pytest.approx(float(logits[0].log_softmax(-1)[token]), abs=1e-4)
    assert found["input_text"] == "<audio>what is said?"
    chat = [{"role": "user", "content": [{"type": "audio", "audio": sound}, {"type": "text", "text": "what is said?"}]}]
    (chatted,) = pipe(chat, return_full_text=False, **options)
    assert chatted["generated_text"] == found["generated_text"]
    assert "".join(pipe.stream(chat, **options)) == found["generated_text"]


def test_several_sounds_and_texts(heard):
    pipe = pipeline(model=heard.bundle.folder, device="cpu", precision="int8")
    short = heard.sounds[0]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "return_full_text": False}
    both = pipe([[short, short[::2]], []], ["<audio>a<audio>b", "words"], **options)
    alone = [pipe([short, short[::2]], "<audio>a<audio>b", **options), pipe("words", **options)]
    assert both == alone


def test_what_does_not_fit_is_refused(heard, tmp_path, capsys):
    pipe = pipeline(model=heard.bundle.folder, device="cpu")
    for given, told in (
        ((heard.sounds[0], "no place"), "0 places for 1 sounds: write <audio>"),
        (("none.wav", "<audio>"), "no such sound file: 'none.wav'"),
        (([[heard.sounds[0]]], ["a", "b"]), "2 texts and sounds for 1"),
        (([{"role": "user", "content": [{"type": "audio"}]}],), "a part of type audio needs one of audio, path, url"),
        (
            (np.zeros(6 * 30 * RATE, np.float32), "<audio>"),
            "180.0 seconds, of which this model hears 30: cut it" if pipe.alone else "all there is room for",
        ),
    ):
        with pytest.raises(InputError, match=told):
            pipe(*given)
    if isinstance(pipe.extractor, WholeFeatures):
        with pytest.raises(InputError, match="sound 0 is longer than the 300 seconds that are taken at once"):
            pipe(np.zeros(301 * RATE, np.float32), "<audio>")
    soundfile.write(tmp_path / "short.wav", heard.sounds[0], RATE)
    command = ["run", str(heard.bundle.folder), str(tmp_path / "short.wav")]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("wherry: audio-text-to-text needs --question")
    assert main([*command, "--question", "what?", "--max-new-tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["input_text"][0]["role"] == "user"


def test_perplexity_of_labels_by_group(heard, tmp_path, capsys):
    rows = [
        ("what is said?", 0, "a boat", "short"),
        ("who is it?", 1, "nobody", "long"),
        ("words", None, "are", "none"),
    ]
    told = []
    for number, sound in enumerate(heard.sounds):
        soundfile.write(tmp_path / f"{number}.wav", sound, RATE, "FLOAT")
    for text, number, label, group in rows:
        sound = {} if number is None else {"audio": f"{number}.wav"}
        told.append({"text": text, "label": label, "group": group} | sound)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in told))
    options = ["--precision", "fp32,int4", "--verify-data", str(data), "--calibration", str(data), "--json"]
    code = main(["export", str(heard.folder / "model"), "-o", str(tmp_path / "out"), *options])
    printed = capsys.readouterr()
    if heard.processor is None:
        assert code == 2
        assert "line 1: the checkpoint's processor fails on it" in printed.err
        assert printed.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return
    assert code == 0, printed.err
    for variant, near in (("fp32", 1e-4), ("int4", 0.1)):
        groups = json.loads(printed.out)["variants"][variant]["data"]["groups"]
        for text, number, label, group in rows:
            sound = None if number is None else heard.sounds[number]
            given = (
                processed(heard, f"<audio>{text}", sound)
                if number is not None
                else dict(heard.words(text, return_tensors="pt"))
            )
            given.pop("token_type_ids", None)
            answer = heard.words(label, return_tensors="pt").input_ids
            given["input_ids"] = torch.cat([given["input_ids"], answer], 1)
            given["attention_mask"] = torch.ones_like(given["input_ids"])
            with torch.no_grad():
                logits = heard.model(**given).logits[0, -answer.shape[1] - 1 : -1]
            expected = float(torch.nn.functional.cross_entropy(logits, answer[0]))
            assert math.log(groups[group]["perplexity_torch"]) == pytest.approx(expected, rel=1e-4)
            assert math.log(groups[group]["perplexity"]) == pytest.approx(expected, rel=near)


def test_folders_of_others_are_run_if_their_prompts_are_known(heard, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in heard.bundle.folder.iterdir():
        if path.name not in ("wherry.json", "config.json"):
            (folder / path.name).symlink_to(path)
    config = json.loads((heard.bundle.folder / "config.json").read_text())
    for kind in ("granite_speech", config["model_type"]):
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        if kind == "granite_speech":
            with pytest.raises(BundleError, match="how granite_speech takes sounds among words is not known"):
                pipeline(model=folder, device="cpu")
        else:
            pipe = pipeline(model=folder, device="cpu", precision="fp32")
            assert pipe.task == "audio-text-to-text"
