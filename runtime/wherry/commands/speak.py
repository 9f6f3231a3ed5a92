"""Speech and music as a file. Knows nothing of pipelines."""

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wherry.errors import InputError


def save(spoken: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Write 16 bits a sample, and tell what there is: `{"output", "seconds", "sampling_rate"}`.

    Args:
        spoken: `{"audio": float32 (samples,) or (channels, samples), "sampling_rate"}`.

    Raises:
        InputError: the file cannot be written.
    """
    audio, rate = np.atleast_2d(spoken["audio"]).T, spoken["sampling_rate"]
    samples = np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")
    try:
        with path.open("wb") as target, wave.open(target, "wb") as file:
            file.setparams((audio.shape[1], 2, rate, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return {"output": str(path), "seconds": round(len(audio) / rate, 2), "sampling_rate": rate}
