"""Text to int64 arrays and back, on the tokenizers library. Knows nothing of models."""

from wherry_tokenization.encoding import Encoding
from wherry_tokenization.errors import ChatTemplateError, TokenizerError, WherryError
from wherry_tokenization.stream import TokenStream
from wherry_tokenization.tokenizer import Tokenizer
from wherry_tokenization.windows import Windows

__all__ = ["ChatTemplateError", "Encoding", "TokenStream", "Tokenizer", "TokenizerError", "WherryError", "Windows"]
