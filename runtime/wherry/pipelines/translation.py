"""translation: text2text-generation under its own name, with the options that the model has for it."""

from typing import Any

from wherry.pipelines.text2text_generation import Text2TextGenerationPipeline


class TranslationPipeline(Text2TextGenerationPipeline):
    """`pipe("text")` is `[{"translation_text": a translation}]`."""

    task = "translation"
    key = "translation_text"


def between(pipe: TranslationPipeline, source: str, target: str) -> dict[str, Any]:
    """Make a pipeline translate between two languages: T5 has settings for them, others options of every call.

    A model that has neither, such as Marian's of one pair, is left as it is.
    """
    name = f"translation_{source}_to_{target}"
    if name in (pipe.bundle.config.get("task_specific_params") or {}):
        pipe.prefix, pipe.defaults = pipe.settings(name)
        return {}
    known = [pipe.language(source), pipe.language(target)]
    return {"src_lang": source, "tgt_lang": target} if None not in known else {}


PIPELINE = TranslationPipeline
