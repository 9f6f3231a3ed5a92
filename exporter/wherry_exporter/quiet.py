"""Keeps what the tools say to their own developers (logs, warnings, bars) off the terminal of a person who exports."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back log records below errors, Python warnings and transformers' progress bars while the block runs."""
    from transformers.utils import logging as transformers_logging

    before, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        with (
            warnings.catch_warnings(),
            patch("transformers.modeling_gguf_pytorch_utils.tqdm", lambda tensors, **_: tensors),  # it has no switch
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if bars:
            transformers_logging.enable_progress_bar()
