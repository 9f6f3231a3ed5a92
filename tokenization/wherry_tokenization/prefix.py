"""Cut a long text before it is tokenized, where what is cut off cannot change the tokens that are kept.

Knows nothing of special tokens, pairs or padding.
"""

from typing import Any

_CHARACTERS_PER_TOKEN = 16
_FEWEST_CHARACTERS, _MOST_CHARACTERS = 1_024, 262_144
_SETTLED_TOKENS = 128
"""This many tokens past the last kept one, inside one word, put the cut out of its reach. They are more than
the 100 characters up to which WordPiece splits a word, so a longer word is never taken for a shorter one."""


def deciding_prefix(rust: Any, text: str, token_limit: int) -> str:
    """The start of `text` that decides its first `token_limit` tokens; the text itself where it is short.

    A cut can fall into a word, and words or runs of spaces can be longer than the cut, so the cut grows until
    the last kept token lies in an earlier word than the cut, or until `_MOST_CHARACTERS` bound the work.
    """
    size = max(_CHARACTERS_PER_TOKEN * token_limit, _FEWEST_CHARACTERS)
    most = max(size, _MOST_CHARACTERS)
    while size < len(text):
        encoding = rust.encode(text[:size], add_special_tokens=False)
        if size == most or _is_decided(encoding, token_limit):
            return text[:size]
        size = min(4 * size, most)
    return text


def _is_decided(encoding: Any, token_limit: int) -> bool:
    if len(encoding) <= token_limit:
        return False
    last = len(encoding) - 1
    kept = max(token_limit - 1, 0)
    return bool(encoding.token_to_word(kept) != encoding.token_to_word(last) or last - kept >= _SETTLED_TOKENS)
