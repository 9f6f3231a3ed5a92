"""Sounds are read as they are, and become what transformers' feature extractors make of them."""

import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr
from transformers import (
    ASTFeatureExtractor,
    ClapFeatureExtractor,
    ParakeetFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from wherry.audio import load, open_sound
from wherry.audio.features import ClapFeatures, ParakeetFeatures, SpectrogramFeatures, WaveFeatures, WhisperFeatures
from wherry.errors import BundleError, InputError
from wherry.pipelines.sounds import over, parts


def noise(length, seed=0):
    swell = np.abs(np.sin(np.arange(length) / 9000))
    return (np.random.default_rng(seed).normal(size=length) * 0.1 * swell + 1e-4).astype(np.float32)


def encoded(samples, rate, kind):
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=kind)
    return target.getvalue()


def whole(sound):
    return np.concatenate(list(sound.blocks()))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_files_are_read_and_resampled(kind, tmp_path):
    """From two channels of 44.1 kHz to one of 16 kHz, out of a file and out of its bytes."""
    stereo = np.stack([np.sin(np.arange(44100) / 50), np.sin(np.arange(44100) / 90)], 1).astype(np.float32) / 2
    data = encoded(stereo, 44100, kind)
    path = tmp_path / f"sound.{kind.lower()}"
    path.write_bytes(data)
    kept, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    expected = soxr.resample(kept.mean(1), rate, 16000)
    for source in (path, str(path), data):
        found = whole(open_sound(source, 16000))
        assert found.dtype == np.float32
        assert len(found) == len(expected)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_arrays_and_mappings():
    samples = noise(8000)
    assert whole(open_sound(samples.astype(np.float64), 16000)).dtype == np.float32
    np.testing.assert_array_equal(whole(open_sound({"raw": samples, "sampling_rate": 16000}, 16000)), samples)
    both = np.stack([samples, -samples])
    assert not whole(open_sound({"array": both, "path": "x.wav", "sampling_rate": 16000}, 16000)).any()
    slow = whole(open_sound({"array": samples, "sampling_rate": 8000}, 16000))
    np.testing.assert_allclose(slow, soxr.resample(samples, 8000, 16000), atol=1e-4)


BAD = {
    "no such sound file: 'nowhere.wav'": "nowhere.wav",
    r"no such sound file: 'a\\x00b'": "a\0b",
    "no such sound file: 'long": "long" * 2000,
    "the sound is no sound that can be read: Format not recognised": b"no sound at all",
    "the sound holds no samples": np.empty(0, np.float32),
    "has samples of int16: make them float": np.zeros(9, np.int16),
    r"has the shape \(3, 9\)": np.zeros((3, 9), np.float32),
    "has samples that are no finite numbers": np.array([0.0, np.nan]),
    "no finite numbers": np.array([0.0, 1e300]),
    "the sound is a int: give a file": 3,
    "must have 'array' .* it has array": {"array": np.zeros(9)},
    "sampling_rate of the sound must be 1000 to 768000, not 5": {"array": np.zeros(9), "sampling_rate": 5},
    "sampling_rate of the sound must be a whole number, not '16000'": {"array": np.zeros(9), "sampling_rate": "16000"},
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_sound_is_refused_in_one_line(message):
    with pytest.raises(InputError, match=message) as caught:
        open_sound(BAD[message], 16000).beginning(10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_a_sound_that_is_cut_short_is_refused(kind):
    data = encoded(noise(48000), 16000, kind)
    with pytest.raises(InputError, match=r"cut short|no sound that can be read"):
        whole(open_sound(data[: len(data) * 2 // 3], 16000))


def test_samples_of_a_file_that_are_no_numbers():
    target = io.BytesIO()
    soundfile.write(target, np.array([0, np.inf], np.float32), 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(InputError, match="no finite numbers"):
        whole(open_sound(target.getvalue(), 16000))


def test_a_long_sound_is_read_block_by_block(tmp_path):
    """Twenty hours of silence, of which a model that takes a sound whole wants none."""
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(1200):
            file.write(np.zeros(8000 * 60, np.int16))
    sound = open_sound(path, 8000)
    assert max(len(block) for block in sound.blocks()) <= 2**20
    with pytest.raises(InputError, match="is longer than the 300 seconds that are taken at once: cut it"):
        sound.samples(300, ": cut it")


def test_without_the_extra_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['soundfile'] = None\nfrom wherry.audio import open_sound\n"
        "from wherry.errors import InputError\n"
        "try: open_sound(b'RIFF', 16000).beginning(1)\nexcept InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "reading sounds needs soundfile: pip install 'wherry[audio]'"


def test_windows_overlap_and_hold_everything():
    samples = np.arange(1000, dtype=np.float32)
    sound = open_sound(samples, 16000)
    found = list(sound.windows(300, 20, 30))
    assert [(len(part), left, right) for part, left, right in found] == [
        (300, 0, 30),
        (300, 20, 30),
        (300, 20, 30),
        (250, 20, 0),
    ]
    np.testing.assert_array_equal(
        np.concatenate([part[left : len(part) - right] for part, left, right in found]), samples
    )
    assert [len(part) for part, _, _ in open_sound(samples[:300], 16000).windows(300, 20, 30)] == [300]


def test_parts_that_make_no_sense():
    assert parts(None, 5, 16000) is None
    assert parts(30, None, 16000) == (480000, 80000, 80000)
    assert parts(1, (0.1, 0.2), 16000, 320) == (16000, 1600, 3200)
    for length, stride in ((1, 0.5), (1, (1, 2, 3)), ("a", 1), (-1, 0), (float("nan"), 0)):
        with pytest.raises(InputError, match="chunk_length_s must be"):
            parts(length, stride, 16000)


def test_one_sound_several_and_an_iterator():
    def process(sounds):
        seen.append(len(sounds))
        return [float(sound.beginning(1)[0]) for sound in sounds]

    sounds, seen = [np.full(3, value, np.float32) for value in range(5)], []
    assert over(sounds[3], 16000, 2, process) == 3
    assert over(sounds, 16000, 2, process) == [0, 1, 2, 3, 4]
    assert seen == [1, 2, 2, 1]
    lazily = over(iter(sounds), 16000, 2, process)
    assert len(seen) == 4
    assert next(lazily) == 0
    assert len(seen) == 5
    with pytest.raises(InputError, match=r"sound 1 is a str|no such sound file"):
        over([sounds[0], "nowhere"], 16000, 1, process)
    with pytest.raises(InputError, match="batch_size must be a whole number"):
        over(sounds, 16000, 0, process)


# ------------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("mels", [80, 128])
def test_whisper_features(mels):
    reference, own = WhisperFeatureExtractor(feature_size=mels), WhisperFeatures({"feature_size": mels})
    for length in (1, 159, 201, 16001, 480000, 481234):
        samples = noise(length)
        expected = reference(samples, sampling_rate=16000, return_tensors="np")["input_features"]
        found = own([samples])["input_features"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_whisper_features_of_a_long_sound_window_by_window():
    """In blocks of any length, and scaled by the loudest of all."""
    samples, own = noise(16000 * 70 + 77), WhisperFeatures({})
    expected = WhisperFeatureExtractor()(
        samples, sampling_rate=16000, return_tensors="np", truncation=False, padding="longest"
    )["input_features"][0]
    blocks = np.split(samples, [100, 150, 300, 9000, 9100, 480000])
    windows = own.windows(blocks, own.loudest(blocks))
    for place in (0, 0, 2400, 2500, 5500, expected.shape[1] - 1):
        found = windows.at(place)
        assert found.shape == expected[:, place : place + 3000].shape
        np.testing.assert_allclose(found, expected[:, place : place + 3000], atol=1e-4)


@pytest.mark.parametrize("normalized", [True, False])
def test_wave_features(normalized):
    reference = Wav2Vec2FeatureExtractor(do_normalize=normalized, return_attention_mask=True)
    sounds = [noise(length, length) for length in (500, 333, 1999)]
    expected = reference(sounds, sampling_rate=16000, return_tensors="np", padding=True)
    found = WaveFeatures({"do_normalize": normalized})(sounds)
    np.testing.assert_allclose(found["input_values"], expected["input_values"], atol=1e-4)
    np.testing.assert_array_equal(found["attention_mask"], expected["attention_mask"])


@pytest.mark.parametrize("mels", [80, 128])
def test_parakeet_features(mels):
    sounds = [noise(length, length) for length in (16000, 12345, 700)]
    expected = ParakeetFeatureExtractor(feature_size=mels)(sounds, sampling_rate=16000, return_tensors="np")
    found = ParakeetFeatures({"feature_size": mels})(sounds)
    for name in ("input_features", "attention_mask"):
        assert not expected[name][:, -1].any()
        np.testing.assert_allclose(found[name], expected[name][:, :-1], atol=2e-4)


@pytest.mark.parametrize("length", [240, 399, 400, 16000, 163840, 164400, 200000])
def test_spectrogram_features(length):
    samples = noise(length)
    expected = ASTFeatureExtractor()(samples, sampling_rate=16000, return_tensors="np")["input_values"]
    found = SpectrogramFeatures({})([samples])["input_values"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


CLAP_LENGTHS = (600, 48000, 200000, 480000, 480100, 481000, 600001, 1200000)


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_clap_features(truncation, padding, monkeypatch):
    """What transformers draws by chance is the beginning, or the middle of each third."""
    monkeypatch.setattr(np.random, "randint", lambda low, _high: low)
    monkeypatch.setattr(np.random, "choice", lambda places: places[len(places) // 2])
    settings = {"truncation": truncation, "padding": padding, "frequency_min": 50, "frequency_max": 14000}
    reference, own = ClapFeatureExtractor(**settings), ClapFeatures(settings)
    for length in CLAP_LENGTHS if padding == "repeatpad" else CLAP_LENGTHS[:3]:
        samples = noise(length, length)
        expected = reference([samples], sampling_rate=48000, return_tensors="np")
        found = own([samples])
        assert found["input_features"].dtype == np.float32
        np.testing.assert_allclose(found["input_features"], expected["input_features"], atol=1e-4)
        if truncation == "fusion":
            np.testing.assert_array_equal(found["is_longer"], expected["is_longer"])


def test_the_extractor_is_the_one_that_the_folder_names(tmp_path):
    WhisperFeatureExtractor(feature_size=128).save_pretrained(tmp_path)
    assert load(tmp_path).log_mel.filters.shape == (201, 128)
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "EncodecFeatureExtractor"}')
    with pytest.raises(BundleError, match="the feature extractor is EncodecFeatureExtractor, and wherry knows"):
        load(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": -1}'
    )
    with pytest.raises(BundleError, match="n_fft must be a whole number from 1 on, not -1"):
        load(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "ParakeetFeatureExtractor", "win_length": 600}'
    )
    with pytest.raises(BundleError, match="win_length is 600, more than the 512 of n_fft"):
        load(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "ClapFeatureExtractor", "truncation": "middle"}'
    )
    with pytest.raises(BundleError, match="truncation must be one of fusion, rand_trunc, not 'middle'"):
        load(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(BundleError, match=r"has no preprocessor_config\.json"):
        load(tmp_path)
