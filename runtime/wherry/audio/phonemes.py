"""Text as phonemes of the International Phonetic Alphabet, by the library of espeak-ng (extra `speech`).

Punctuation stays where it is: it is what a voice pauses at.
"""

import ctypes
import re
from ctypes.util import find_library
from functools import cache
from threading import Lock
from typing import Any

from wherry.errors import InputError

_PAUSES = re.compile(r"([.!?,;:—…\n]+)(?=\s|$)")
_RETRIEVAL, _NO_EXIT, _UTF8, _IPA = 1, 0x8000, 1, 2
_LOCK = Lock()  # the library has one voice at a time


def phonemes(text: str, voice: str) -> str:
    """What espeak-ng says for a text, in one line.

    Args:
        text: one sentence or several.
        voice: of espeak-ng: `en-us`, `de`.

    Raises:
        InputError: there is no espeak-ng, or it has no such voice.
    """
    library = _library()
    with _LOCK:
        if library.espeak_SetVoiceByName(voice.encode()):
            raise InputError(f"espeak-ng has no voice '{voice:.40}'")
        parts = _PAUSES.split(text)
        spoken = []
        for said, pause in zip(parts[::2], [*parts[1::2], ""], strict=True):
            spoken.append(_said(library, said) + pause.replace("\n", " ").strip())
    return " ".join(filter(None, spoken))


def _said(library: Any, text: str) -> str:
    if not text.strip():
        return ""
    buffer = ctypes.create_string_buffer(text.encode("utf-8", "replace"))
    rest = ctypes.c_void_p(ctypes.addressof(buffer))
    clauses = []
    while rest.value:
        clauses.append((library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA) or b"").decode())
    # Words of another language are marked so: (en)word(de).
    return re.sub(r"\([a-z-]+\)", "", " ".join(filter(None, map(str.strip, clauses))))


@cache
def _library() -> Any:
    try:
        import espeakng_loader

        path, data = espeakng_loader.get_library_path(), str(espeakng_loader.get_data_path()).encode()
    except ImportError as error:
        path, data = find_library("espeak-ng"), None
        if path is None:
            raise InputError(
                "this voice wants phonemes, which espeak-ng finds: pip install 'wherry[speech]', or give them as "
                '{"phonemes": "..."}'
            ) from error
    try:
        library: Any = ctypes.CDLL(str(path))
    except OSError as error:
        raise InputError(f"espeak-ng does not load: {error}") from error
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    if library.espeak_Initialize(_RETRIEVAL, 0, data, _NO_EXIT) < 0:
        raise InputError("espeak-ng does not start: its data cannot be found")
    return library
