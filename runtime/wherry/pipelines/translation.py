"""translation: text2text-generation under its own name, with the options that the model has for it."""

from wherry.pipelines.text2text_generation import Text2TextGenerationPipeline


class TranslationPipeline(Text2TextGenerationPipeline):
    """`pipe("text")` is `[{"translation_text": a translation}]`."""

    task = "translation"
    key = "translation_text"


PIPELINE = TranslationPipeline
