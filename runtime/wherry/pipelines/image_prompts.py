"""What stands for an image in the prompt of a model that sees images among its words; one row an architecture.

As transformers' processors write it. Knows nothing of graphs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.errors import BundleError, InputError
from wherry.vision.views import View
from wherry_tokenization import Tokenizer


@dataclass(frozen=True)
class Marks:
    """The tokens of a model that tell of images.

    Attributes:
        image: what stands for one feature.
        begin: what begins an image, where there is such a token.
        end: what ends it.
    """

    image: str
    begin: str = ""
    end: str = ""


Writer = Callable[[View, int, Marks], str]
"""(image, features of one part of it, tokens) to the text that stands for it."""


def _bare(_view: View, features: int, marks: Marks) -> str:
    return marks.image * features


def _gemma(_view: View, features: int, marks: Marks) -> str:
    return f"\n\n{marks.begin}{marks.image * features}{marks.end}\n\n"


def _between(_view: View, features: int, marks: Marks) -> str:
    return f"{marks.begin}{marks.image * features}{marks.end}"


def _idefics(view: View, features: int, marks: Marks) -> str:
    around, seen = "<fake_token_around_image>", marks.image * features
    rows = [
        "".join(f"{around}<row_{row + 1}_col_{column + 1}>{seen}" for column in range(view.columns)) + "\n"
        for row in range(view.rows)
    ]
    return "".join(rows) + "\n" * bool(rows) + f"{around}<global-img>{seen}{around}"


def _in_rows(view: View, features: int, marks: Marks) -> str:
    if not view.columns:
        return _bare(view, features, marks)
    rows = [marks.image * view.columns] * view.rows
    return "[IMG_BREAK]".join(rows) + "[IMG_END]"


WRITERS: Mapping[str, Writer] = {
    "deepseek_vl": _bare,
    "gemma3": _gemma,
    "gemma4": _between,
    "glm46v": _bare,
    "glm4v": _bare,
    "glm_ocr": _bare,
    "idefics3": _idefics,
    "janus": _between,
    "lighton_ocr": _bare,
    "llava": _in_rows,
    "llava_next": _bare,
    "mistral3": _in_rows,
    "paddleocr_vl": _bare,
    "paligemma": _bare,
    "qwen2_5_vl": _bare,
    "qwen2_vl": _bare,
    "qwen3_5": _bare,
    "qwen3_5_moe": _bare,
    "qwen3_vl": _bare,
    "qwen3_vl_moe": _bare,
    "smolvlm": _idefics,
}


class ImagePrompts:
    """Writes prompts of one model.

    Attributes:
        token: the id of what stands for a feature.
        place: what stands for an image in a text that is given.
        special: whether the tokenizer adds its special tokens.
    """

    def __init__(self, kind: str, config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        """Find the model's tokens.

        Args:
            kind: its `model_type`.
            config: config.json's.
            tokenizer: the model's.

        Raises:
            BundleError: an architecture whose prompts are not known, or a configuration without its tokens.
        """
        if kind not in WRITERS:
            raise BundleError(f"how {kind} takes images among words is not known: known are {', '.join(WRITERS)}")
        self._write, self._bos = WRITERS[kind], tokenizer.special_tokens.get("bos_token", "")
        self.token = int(config.get("image_token_id") or config.get("image_token_index") or -1)
        marks = (config.get(f"{name}_token_id", config.get(f"{name}_token_index")) for name in ("boi", "eoi"))
        found = [self.token, *(int(mark or -1) for mark in marks)]
        texts = [tokenizer.id_to_token(token) if token >= 0 else None for token in found]
        if texts[0] is None:
            raise BundleError(f"config.json's image_token_id is {self.token}, which the tokenizer does not have")
        begin, end = (tokenizer.special_tokens.get(f"{name}_token", "") for name in ("boi", "eoi"))
        self._marks = Marks(texts[0], texts[1] or begin, texts[2] or end)
        self.place = self._marks.begin if self._write is _gemma else self._marks.image
        self.special = kind != "paligemma"

    def __call__(self, text: str, views: Sequence[View], features: Sequence[int]) -> str:
        """A prompt with the tokens of its images written out.

        Args:
            text: with `place` for each image.
            views: the images.
            features: of one part of each.

        Raises:
            InputError: not as many images as places.
        """
        between = text.split(self.place)
        if len(between) != len(views) + 1:
            raise InputError(
                f"the prompt has {len(between) - 1} places for {len(views)} images: write {self.place} for each of them"
            )
        told = [self._write(view, count, self._marks) for view, count in zip(views, features, strict=True)]
        if not self.special:
            between[-1] = f"{self._bos}{between[-1]}\n"
        return "".join(part for pair in zip(between, [*told, ""], strict=True) for part in pair)
