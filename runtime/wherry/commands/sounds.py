"""What `wherry run` does with models that hear or speak: options, tables, and speech as a file."""

import argparse
import json
import sys
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wherry.commands.common import table
from wherry.errors import InputError
from wherry.pipelines.audio_classification import AudioClassificationPipeline
from wherry.pipelines.automatic_speech_recognition import WhisperPipeline
from wherry.pipelines.base import Pipeline
from wherry.pipelines.ctc import CTCPipeline
from wherry.pipelines.piper import PiperPipeline
from wherry.pipelines.text_to_audio import VitsPipeline
from wherry.pipelines.voice_activity_detection import VoiceActivityDetectionPipeline

SPEAKING = (PiperPipeline, VitsPipeline)
HEARING = (WhisperPipeline, CTCPipeline, AudioClassificationPipeline, VoiceActivityDetectionPipeline)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of sounds."""
    group = parser.add_argument_group("sounds")
    group.add_argument("--timestamps", action="store_true", help="tell when each part of speech was said")
    group.add_argument("--language", metavar="L", help="of speech: en, german (default: found out)")
    group.add_argument("--translate", action="store_true", help="write speech down in English")
    group.add_argument("--chunk-length", type=float, metavar="S", help="cut long speech into parts of so many seconds")
    group.add_argument("--output", metavar="FILE.wav", help="where speech goes that is made of a text")


def run(pipe: Pipeline, inputs: Sequence[str], arguments: argparse.Namespace, options: dict[str, Any]) -> bool:
    """Run a model that hears or speaks, and print; False where it does neither, so that nothing was done.

    Raises:
        InputError: an option that the model does not take, or a sound or text that it cannot.
    """
    given = {
        "timestamps": arguments.timestamps,
        "language": arguments.language,
        "translate": arguments.translate,
        "chunk-length": arguments.chunk_length,
        "output": arguments.output,
    }
    taken = (
        {"timestamps", "language", "translate", "chunk-length"}
        if isinstance(pipe, WhisperPipeline)
        else {"timestamps", "chunk-length"}
        if isinstance(pipe, CTCPipeline)
        else {"output"}
        if isinstance(pipe, SPEAKING)
        else set()
    )
    for name, value in given.items():
        if value and name not in taken:
            raise InputError(f"--{name} is not for this model")
    if not isinstance(pipe, SPEAKING + HEARING):
        return False
    if options and not isinstance(pipe, WhisperPipeline):
        raise InputError(f"--{next(iter(options)).replace('_', '-')} is for models that write, which this one does not")
    if arguments.stream and not isinstance(pipe, WhisperPipeline):
        raise InputError("--stream is for models that write, which this one does not")
    if isinstance(pipe, SPEAKING):
        _speak(pipe, inputs, arguments)
    else:
        _hear(pipe, inputs, arguments, options)
    return True


def _speak(pipe: Any, texts: Sequence[str], arguments: argparse.Namespace) -> None:
    if not arguments.output:
        raise InputError("speech goes to a file: pass --output speech.wav")
    path = Path(arguments.output)
    if path.suffix.lower() != ".wav":
        raise InputError(f"--output must end in .wav, not be {path}")
    several = len(texts) > 1
    for number, (text, spoken) in enumerate(zip(texts, pipe(iter(texts)), strict=True), 1):
        file = path.with_stem(f"{path.stem}-{number}") if several else path
        _write(file, spoken)
        seconds = round(len(spoken["audio"]) / spoken["sampling_rate"], 2)
        if arguments.json:
            print(json.dumps({"output": str(file), "seconds": seconds, "sampling_rate": spoken["sampling_rate"]}))
        else:
            print(f"{text}\n  {file}: {seconds} seconds, {spoken['sampling_rate']} Hz", flush=True)


def _write(path: Path, spoken: Mapping[str, Any]) -> None:
    """One channel of 16 bits."""
    samples = np.round(np.clip(spoken["audio"], -1, 1) * 32767).astype("<i2")
    try:
        with path.open("wb") as target, wave.open(target, "wb") as file:
            file.setparams((1, 2, spoken["sampling_rate"], 0, "NONE", ""))
            file.writeframes(samples.tobytes())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _hear(pipe: Any, files: Sequence[str], arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    if arguments.language:
        options["language"] = arguments.language
    if arguments.translate:
        options["task"] = "translate"
    if arguments.stream:
        if arguments.timestamps or arguments.chunk_length:
            raise InputError("--stream goes without --timestamps and --chunk-length")
        for file in files:
            for piece in pipe.stream(file, **options):
                sys.stdout.write(piece)
                sys.stdout.flush()
            sys.stdout.write("\n")
        return
    if arguments.chunk_length is not None:
        options["chunk_length_s"] = arguments.chunk_length
    if arguments.timestamps:
        options["return_timestamps"] = True if isinstance(pipe, WhisperPipeline) else "word"
    for file, result in zip(files, pipe(iter(files), **options), strict=True):
        found = json.dumps(result, ensure_ascii=False) if arguments.json else _readable(file, result)
        print(found, flush=True)


def _readable(file: str, result: Any) -> str:
    """A result for people."""
    if isinstance(result, dict):
        if "chunks" not in result:
            return str(result["text"]).strip()
        times = [[_seconds(each) for each in chunk["timestamp"]] for chunk in result["chunks"]]
        head, line, *rows = table([["from", "to"], *times]).split("\n")
        said = [f"{row}  {chunk['text'].strip()}" for row, chunk in zip(rows, result["chunks"], strict=True)]
        return "\n".join([f"{head}  text", f"{line}  ----", *said])
    if not result:
        return f"{file}\n  no speech"
    if "label" in result[0]:
        lines = [
            f"  {each['label']:<20} {each['score']:.4f} {'#' * round(min(max(each['score'], 0), 1) * 20)}"
            for each in result
        ]
        return "\n".join([file, *lines])
    rows = [(each["start"], each["end"]) for each in result]
    return f"{file}\n" + table([["from", "to"], *([_seconds(start), _seconds(end)] for start, end in rows)])


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
