"""Token ids in, token ids out: how they are chosen, and the loop over a graph and its cache. Knows nothing of text."""

from wherry.generation.beams import Hypothesis
from wherry.generation.config import GenerationConfig
from wherry.generation.decoder import Decoder
from wherry.generation.engine import Engine, Event, Request, generate, search
from wherry.generation.prefix import PrefixCache
from wherry.generation.speculation import Assistant

__all__ = [
    "Assistant",
    "Decoder",
    "Engine",
    "Event",
    "GenerationConfig",
    "Hypothesis",
    "PrefixCache",
    "Request",
    "generate",
    "search",
]
