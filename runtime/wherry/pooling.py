"""Token vectors to one vector a text, as sentence-transformers' own files in the model folder say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wherry.errors import BundleError
from wherry.files import read_json, read_json_list

Array = np.ndarray[Any, Any]

MODES = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}

FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older form, one flag a mode, and the newer form's name of that mode."""


@dataclass(frozen=True)
class Pooling:
    """How a sentence's vector is made of its tokens' vectors.

    Attributes:
        mode: `mean`, `cls`, `max` or `last`.
        normalize: whether vectors are scaled to length 1.
        max_length: tokens a text is cut to, where the folder says.
    """

    mode: str = "mean"
    normalize: bool = True
    max_length: int | None = None

    @classmethod
    def load(cls, folder: Path) -> "Pooling":
        """Read modules.json, the pooling's config.json and sentence_bert_config.json; mean and normalized without.

        Raises:
            BundleError: a module or mode that is not supported.
        """
        if not (folder / "modules.json").exists():
            return cls()
        modules = read_json_list(folder / "modules.json")
        mode, normalize = "mean", False
        for module in modules:
            kind = str(module.get("type")).rsplit(".", 1)[-1]
            if kind == "Pooling":
                mode = _mode(folder / str(module.get("path", "")) / "config.json")
            elif kind == "Normalize":
                normalize = True
            elif kind != "Transformer":
                raise BundleError(f"{folder / 'modules.json'} has a {kind} module, which wherry does not run")
        settings = folder / "sentence_bert_config.json"
        limit = read_json(settings).get("max_seq_length") if settings.exists() else None
        return cls(mode, normalize, limit)

    def apply(self, states: Array, attention_mask: Array) -> Array:
        """Pool token vectors.

        Args:
            states: (batch, sequence, size) float32.
            attention_mask: (batch, sequence), 1 for a token and 0 for padding.

        Returns:
            (batch, size) float32.
        """
        if self.mode == "cls":
            first = attention_mask.argmax(1)
            pooled = states[np.arange(len(states)), first]
        elif self.mode == "last":
            last = attention_mask.shape[1] - 1 - attention_mask[:, ::-1].argmax(1)
            pooled = states[np.arange(len(states)), last]
        elif self.mode == "max":
            pooled = np.where(attention_mask[..., None] > 0, states, -np.inf).max(1)
        else:
            weights = attention_mask[:, None, :].astype(states.dtype)
            counts = np.maximum(weights.sum(-1), 1)
            pooled = (weights @ states)[:, 0] / counts
        if self.normalize:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return np.asarray(pooled, dtype=np.float32)


def _mode(path: Path) -> str:
    settings = read_json(path)
    flagged = [mode for flag, mode in FLAGS.items() if settings.get(flag)]
    asked = settings.get("pooling_mode", flagged or "mean")
    modes = [str(mode) for mode in (asked if isinstance(asked, list) else [asked])]
    if len(modes) != 1 or modes[0] not in MODES:
        raise BundleError(f"{path} asks for pooling {' and '.join(modes)}, which wherry does not do")
    return MODES[modes[0]]
