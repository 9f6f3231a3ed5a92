"""summarization: text2text-generation under its own name, with the options that the model has for it."""

from wherry.pipelines.text2text_generation import Text2TextGenerationPipeline


class SummarizationPipeline(Text2TextGenerationPipeline):
    """`pipe("text")` is `[{"summary_text": a summary}]`."""

    task = "summarization"
    key = "summary_text"


PIPELINE = SummarizationPipeline
