"""voice-activity-detection: where somebody speaks in a sound, by Silero's model, which listens 32 ms at a time."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wherry.audio import Sound
from wherry.bundle import Bundle
from wherry.errors import BundleError, InputError
from wherry.pipelines.base import Pipeline
from wherry.pipelines.sounds import over

Array = np.ndarray[Any, Any]

RATE, WINDOW, CONTEXT = 16000, 512, 64
MOST = 1e9  # samples; stands for no limit


class VoiceActivityDetectionPipeline(Pipeline):
    """`pipe("sound.wav")` is `[{"start", "end"}]`, in seconds; a list of sounds gives a list of such results.

    A sound is a file, its bytes, a float array (samples,) at 16 kHz or `{"array", "sampling_rate"}`, of any length.
    """

    task = "voice-activity-detection"

    def __init__(self, bundle: Bundle, *, threads: int | None = None, **options: Any) -> None:
        super().__init__(bundle, threads=threads or 1, **options)  # the graph is too small for more
        if not {"input", "state", "sr"} <= set(self.session.inputs) or "stateN" not in self.session.outputs:
            raise BundleError(f"{bundle.folder} is no model of Silero's: it takes {', '.join(self.session.inputs)}")

    def __call__(
        self,
        inputs: Any,
        *,
        threshold: float = 0.5,
        neg_threshold: float | None = None,
        min_speech_duration_ms: float = 250,
        min_silence_duration_ms: float = 100,
        max_speech_duration_s: float | None = None,
        speech_pad_ms: float = 30,
        batch_size: int = 1,
    ) -> Any:
        """Find speech in one sound, or in each of several; names, meaning and defaults are Silero's.

        Args:
            threshold: the probability from which on somebody speaks.
            neg_threshold: and below which nobody does any more; by default 0.15 less.
            min_speech_duration_ms: shorter speech is left out.
            min_silence_duration_ms: shorter silence is part of the speech around it.
            max_speech_duration_s: longer speech is cut at its longest pause; None for any length.
            speech_pad_ms: added at both ends.

        Raises:
            InputError: no sound, one that cannot be read, or an option out of range.
        """
        quiet = max(threshold - 0.15, 0.01) if neg_threshold is None else neg_threshold
        longest = MOST / RATE if max_speech_duration_s is None else max_speech_duration_s
        given = {
            "threshold": threshold,
            "neg_threshold": quiet,
            "min_speech_duration_ms": min_speech_duration_ms,
            "min_silence_duration_ms": min_silence_duration_ms,
            "max_speech_duration_s": longest,
            "speech_pad_ms": speech_pad_ms,
        }
        for name, value in given.items():
            top = 1.0 if name.endswith("threshold") else MOST
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
                raise InputError(f"{name} must be a number from 0 to {top:g}, not {value!r:.80}")
        pad = RATE * speech_pad_ms / 1000
        limits = (
            RATE * min_speech_duration_ms / 1000,
            RATE * min_silence_duration_ms / 1000,
            RATE * longest - WINDOW - 2 * pad,
        )

        def process(sounds: list[Sound]) -> list[list[dict[str, float]]]:
            found = []
            for sound in sounds:
                chances, length = self.chances(sound)
                spoken = padded(speech(chances, length, threshold, quiet, *limits), length, pad)
                found.append([{"start": start / RATE, "end": end / RATE} for start, end in spoken])
            return found

        return over(inputs, RATE, batch_size, process)

    def chances(self, sound: Sound) -> tuple[Array, int]:
        """The probability of speech in each window of 512 samples, float32 (windows,), and how many samples there are.

        Raises:
            InputError: the sound cannot be read, or is empty.
        """
        state = np.zeros((2, 1, 128), np.float32)
        given = np.zeros((1, CONTEXT + WINDOW), np.float32)
        rate = np.array(RATE)
        found, length = [], 0
        for window, count in _windows(sound):
            given[0, :CONTEXT], given[0, CONTEXT:] = given[0, -CONTEXT:], window
            values = self.session.run({"input": given, "state": state, "sr": rate}, ["output", "stateN"])
            state = values["stateN"]
            found.append(float(values["output"][0, 0]))
            length += count
        if not length:
            raise InputError(f"{sound.name} holds no samples")
        return np.array(found, np.float32), length


def _windows(sound: Sound) -> Iterator[tuple[Array, int]]:
    """Windows, the last filled up with zeros, and how many samples are real."""
    held = np.empty(0, np.float32)
    for block in sound.blocks():
        held = np.concatenate([held, block])
        whole = len(held) // WINDOW * WINDOW
        yield from ((window, WINDOW) for window in held[:whole].reshape(-1, WINDOW))
        held = held[whole:]
    if len(held):
        yield np.pad(held, (0, WINDOW - len(held))), len(held)


PAUSE = 98 * RATE // 1000
"""Samples of silence at which speech that is too long may be cut."""


def speech(
    chances: Array,
    length: int,
    threshold: float,
    quiet: float,
    min_speech: float,
    min_silence: float,
    max_speech: float,
) -> list[tuple[int, int]]:
    """Stretches of speech, in samples, of the probabilities of each window."""
    found: list[tuple[int, int]] = []
    start: int | None = None
    silent = 0  # where the present silence began
    pauses: list[tuple[int, int]] = []  # where silences within the present speech began, and how long they were
    for number, chance in enumerate(chances.tolist()):
        at = number * WINDOW
        if chance >= threshold and silent:
            if at - silent > PAUSE:
                pauses.append((silent, at - silent))
            silent = 0
        if start is None:
            start = at if chance >= threshold else None
            continue
        if at - start > max_speech:
            if not pauses:
                found.append((start, at))
                start, silent = None, 0
                continue
            end, pause = max(pauses, key=lambda each: each[1])
            found.append((start, end))
            start, silent, pauses = end + pause, 0, []
        if chance < quiet:
            silent = silent or at
            if at - silent >= min_silence:
                if silent - start > min_speech:
                    found.append((start, silent))
                start, silent, pauses = None, 0, []
    if start is not None and length - start > min_speech:
        found.append((start, length))
    return found


def padded(spoken: Sequence[tuple[int, int]], length: int, pad: float) -> list[tuple[int, int]]:
    """Stretches made longer at both ends, up to the middle between two."""
    starts, ends = [start for start, _ in spoken], [end for _, end in spoken]
    for at in range(len(starts)):
        if at == 0:
            starts[0] = int(max(0, starts[0] - pad))
        gap = starts[at + 1] - ends[at] if at + 1 < len(starts) else None
        if gap is not None and gap < 2 * pad:
            ends[at] += gap // 2
            starts[at + 1] -= gap // 2
        else:
            ends[at] = int(min(length, ends[at] + pad))
            if gap is not None:
                starts[at + 1] = int(max(0, starts[at + 1] - pad))
    return list(zip(starts, ends, strict=True))


PIPELINE = VoiceActivityDetectionPipeline
