"""The root of wherry's error tree, and what goes wrong between text and token ids.

The whole tree is drawn in `wherry.errors`; its root lives here because this is the lowest layer.
"""


class WherryError(Exception):
    """Something wherry refuses, in one line: what was wrong, where, what to do."""


class TokenizerError(WherryError):
    """No or damaged tokenizer, or text that cannot be encoded."""


class ChatTemplateError(TokenizerError):
    """No chat template, or one that fails or never ends."""
