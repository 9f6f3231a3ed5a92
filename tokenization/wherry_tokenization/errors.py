"""The root of wherry's error tree, and what goes wrong between text and token ids.

The whole tree is drawn in `wherry.errors`; its root lives here because this is the lowest layer.
"""

from typing import ClassVar


class WherryError(Exception):
    """Something wherry refuses, in one line: what was wrong, where, what to do.

    Attributes:
        exit_code: of the command line: 2 for misuse, 1 for failure.
    """

    exit_code: ClassVar[int] = 1


class TokenizerError(WherryError):
    """No or damaged tokenizer, or text that cannot be encoded."""


class ChatTemplateError(TokenizerError):
    """No chat template, or one that fails or never ends."""
