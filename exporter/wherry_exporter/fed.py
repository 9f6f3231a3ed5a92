"""Models that take images in every forward pass, such as BLIP-2, as the others: images first, then words alone.

Knows no architecture.
"""

import inspect
from typing import Any

from wherry_exporter.tasks import fed_first, has_encoder


def words_alone(model: Any) -> None:
    """Let a model that is fed with images first run on words alone too, and give what its language model gives."""
    if not fed_first(model) or has_encoder(model) or "forward" in vars(model):
        return
    whole, words = model.forward, model.language_model.forward

    def forward(**given: Any) -> Any:
        return words(**given) if given.get("pixel_values") is None else whole(**given).language_model_outputs

    pixels = inspect.Parameter("pixel_values", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [each for each in inspect.signature(words).parameters.values() if each.kind != each.VAR_KEYWORD]
    forward.__signature__ = inspect.Signature([*parameters, pixels])  # type: ignore[attr-defined]
    model.forward = forward
