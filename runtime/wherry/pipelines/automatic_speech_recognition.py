"""automatic-speech-recognition: speech in, text out, by Whisper; CTC's models are in `ctc`, others in `transducer`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wherry.audio import Sound, load, open_sound
from wherry.audio.features import WhisperFeatures
from wherry.bundle import Bundle
from wherry.errors import BundleError, InputError
from wherry.files import read_json
from wherry.generation import Engine
from wherry.pipelines.base import Pipeline, TextPipeline
from wherry.pipelines.ctc import CTCPipeline
from wherry.pipelines.generated import decoder_roles, defaults, open_decoder
from wherry.pipelines.languages import LANGUAGES
from wherry.pipelines.sounds import batches, over, parts
from wherry.pipelines.transcript import Piece, Transcript
from wherry.pipelines.transducer import TransducerPipeline
from wherry.pipelines.whisper import OPTIONS, Manner, Reading, Whisper


class WhisperPipeline(TextPipeline):
    """`pipe("speech.wav")` is `{"text"}`; a list of sounds gives a list, an iterator of sounds an iterator.

    A sound is a file, its bytes, a float array (samples,) at the model's rate or `{"array", "sampling_rate"}`. One
    longer than 30 seconds is read window by window. `pipe.stream(sound)` yields pieces of the text as they come.
    """

    task = "automatic-speech-recognition"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        features = load(self.bundle.folder)
        config, path = self.bundle.config, self.bundle.folder / "generation_config.json"
        if not isinstance(features, WhisperFeatures) or config.get("model_type") != "whisper":
            raise BundleError(
                f"{self.bundle.folder} is a {config.get('model_type')}: of models with an encoder and a decoder wherry "
                "runs Whisper"
            )
        self.features, self.defaults = features, defaults(self.bundle)
        decoder = open_decoder(self.sessions, "left", self.bundle.config)
        generation = read_json(path) if path.exists() else {}
        if features.frames != 2 * int(config["max_source_positions"]):
            raise BundleError(
                f"{self.bundle.folder}: preprocessor_config.json makes {features.frames} frames, and config.json wants "
                f"{2 * int(config['max_source_positions'])}"
            )
        self.whisper = Whisper(self.sessions["encoder_model"], decoder, features, config, generation)

    def needed(self) -> Sequence[str]:
        """An encoder of sounds and a decoder, in one graph or in two."""
        return ("encoder_model", *decoder_roles(self.variant.graphs))

    def __call__(
        self,
        inputs: Any,
        *,
        return_timestamps: bool | str | None = None,
        return_language: bool = False,
        chunk_length_s: float | None = None,
        stride_length_s: float | Sequence[float] | None = None,
        batch_size: int = 1,
        language: str | None = None,
        task: str | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Write down one sound, or each of several.

        Args:
            return_timestamps: also give `chunks`, a list of `{"timestamp": (start, end), "text"}`, in seconds: of
                segments, or with `word` of words.
            return_language: also give `chunks` with the `language` of each.
            chunk_length_s: cut a long sound into overlapping parts of so many seconds that are written down apart,
                `batch_size` at a time, instead of one after another as the timestamps of each say.
            stride_length_s: seconds that neighbouring parts share, or a pair; a sixth of the part by default.
            batch_size: how many sounds, or parts of one, are written down together.
            language: a name or a code, such as `german` or `de`; found out by default.
            task: `transcribe` or `translate`, which writes English.
            generate_kwargs, options: the same two, fields of `GenerationConfig`, and `prompt_ids`, `temperature`
                (several are tried in turn), `condition_on_prev_tokens`, `compression_ratio_threshold`,
                `logprob_threshold` and `no_speech_threshold`, as in transformers' generate for Whisper.

        Returns:
            `{"text"}`, with `chunks` where they are asked for.

        Raises:
            InputError: no sound, one that cannot be read, or an option that is unknown or out of range.
        """
        given = {"language": language, "task": task, **(generate_kwargs or {}), **options}
        manner = self._manner(return_timestamps, given)
        cut = parts(chunk_length_s, stride_length_s, self.features.rate)

        def process(sounds: list[Sound]) -> list[dict[str, Any]]:
            if cut is not None:
                found = [self._in_parts(sound, cut, manner, batch_size, return_language) for sound in sounds]
            else:
                found = self._in_turn(sounds, manner, return_language)
            return [each.result(languages=return_language) for each in found]

        return over(inputs, self.features.rate, batch_size, process)

    def stream(
        self, sound: Any, *, language: str | None = None, task: str | None = None, **options: Any
    ) -> Iterator[str]:
        """Write down one sound and yield the text piece by piece: tokens of a short one, windows of a long one.

        Takes the options of generation that a call takes, and raises what it does.
        """
        manner = self._manner(None, {"language": language, "task": task, **options})
        return self._streamed(open_sound(sound, self.features.rate), manner)

    def _streamed(self, sound: Sound, manner: Manner) -> Iterator[str]:
        reading, manner = self._reading(sound, manner)
        if manner.timestamps or manner.config.num_beams > 1 or len(manner.temperatures) > 1:
            for _, piece in self.whisper.write([reading], manner):
                written = Transcript(self.tokenizer, self.whisper.first, True)
                written.add([piece])
                written.finish()
                yield from (chunk.text for chunk in written.chunks)
            return
        given = self.whisper.encode(reading)
        engine, text = Engine(self.whisper.decoder), self.tokenizer.stream()
        engine.submit(self.whisper.prompt(reading, given, manner), manner.config, given)
        for event in engine.run():
            if event.token is not None and event.token < self.whisper.first and (new := text.step(event.token)):
                yield new
        if new := text.finish():
            yield new

    def _manner(self, return_timestamps: bool | str | None, options: dict[str, Any]) -> Manner:
        if return_timestamps not in (True, False, None, "word"):
            raise InputError(
                f"return_timestamps must be true, false or 'word' for Whisper, not {return_timestamps!r:.80}"
            )
        own = {name: options.pop(name, None) for name in OPTIONS}
        temperature = options.pop("temperature", None)
        config = self.defaults.updated(**options)
        if config.num_return_sequences > 1 or config.stop_strings:
            raise InputError(
                "speech has one text, and it ends with the sound: no num_return_sequences, no stop_strings"
            )
        if config.decoder_start_token_id is None or not config.eos_token_ids:
            raise BundleError(f"{self.bundle.folder} does not tell decoder_start_token_id and eos_token_id")
        # A max_length counts what is written alone, as in transformers' generate for Whisper.
        new = config.max_new_tokens if "max_new_tokens" in options or not config.max_length else config.max_length
        config = config.updated(max_new_tokens=new, max_length=self.whisper.positions)
        told = self.whisper.generation.get("return_timestamps", False)
        timestamps = bool(told if return_timestamps is None else return_timestamps)
        words = return_timestamps == "word"
        return self.whisper.manner(config, timestamps=timestamps, words=words, temperature=temperature, **own)

    def _reading(self, sound: Sound, manner: Manner) -> tuple[Reading, Manner]:
        """A sound to be read, with timestamps where it has more than one window: they tell where the next begins."""
        begin = sound.beginning(self.features.length + 1)
        if len(begin) <= self.features.length:
            return self.whisper.whole(begin), manner
        return self.whisper.long(sound.blocks), self.whisper.stamped(manner)

    def _in_turn(self, sounds: Sequence[Sound], manner: Manner, languages: bool) -> list[Transcript]:
        """Each window begins where the one before says."""
        opened = [self._reading(sound, manner) for sound in sounds]
        pieces: dict[Reading, list[Piece]] = {reading: [] for reading, _ in opened}
        for same in dict.fromkeys(each for _, each in opened):
            readings = [reading for reading, each in opened if each == same]
            for reading, piece in self.whisper.write(readings, same):
                pieces[reading].append(piece)
        found = []
        for reading, written in pieces.items():
            found.append(Transcript(self.tokenizer, self.whisper.first, manner.timestamps, manner.words))
            found[-1].add(written, language=self._language(reading) if languages or manner.words else None)
        return found

    def _in_parts(
        self, sound: Sound, cut: tuple[int, int, int], manner: Manner, batch_size: int, languages: bool
    ) -> Transcript:
        """All parts by themselves; what they share is joined where they agree."""
        rate, passed = self.features.rate, 0
        found = Transcript(self.tokenizer, self.whisper.first, manner.timestamps, manner.words)
        for batch in batches(sound.windows(*cut), batch_size):
            readings = [self.whisper.whole(samples) for samples, _, _ in batch]
            pieces: dict[Reading, list[Piece]] = {reading: [] for reading in readings}
            for reading, piece in self.whisper.write(readings, manner):
                pieces[reading].append(piece)
            for reading, (samples, left, right) in zip(readings, batch, strict=True):
                begin = (passed - left) / rate
                passed += len(samples) - left - right
                found.add(
                    [replace(piece, begin=begin + piece.begin) for piece in pieces[reading]],
                    left / rate,
                    (len(samples) - right) / rate if right else None,
                    self._language(reading) if languages or manner.words else None,
                )
        return found

    def _language(self, reading: Reading) -> str | None:
        token = "" if reading.language is None else self.tokenizer.id_to_token(reading.language) or ""
        return LANGUAGES.get(token[2:-2])


def open_pipeline(bundle: Bundle, **options: Any) -> Pipeline:
    """The pipeline that fits: Whisper's and a transducer's have two graphs, CTC's has one."""
    graphs = bundle.variant(options.get("precision")).graphs
    if "decoder_joint" in graphs:
        return TransducerPipeline(bundle, **options)
    return (WhisperPipeline if "encoder_model" in graphs else CTCPipeline)(bundle, **options)


PIPELINE = open_pipeline
