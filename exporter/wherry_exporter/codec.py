"""A codec to what makes codes of sounds and what makes sounds of codes, and how its convolutions are traced.

Knows no architecture, but what their modules are called.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic_multi_out

from wherry_exporter.convert import OPSET
from wherry_exporter.errors import ExportError


class Coder(nn.Module):
    """Sounds (batch, channels, samples) to codes (batch, codebooks, frames)."""

    main_input_name = "input_values"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_values: Tensor) -> dict[str, Tensor]:
        if not hasattr(self.config, "target_bandwidths"):
            return {"audio_codes": self.model.encode(input_values).audio_codes}
        if self.config.normalize or self.config.chunk_length is not None:  # EnCodec's, of music
            raise ExportError("it cuts a sound into chunks or scales it, which its codes do not tell")
        codes, _ = self.model._encode_frame(input_values, self.config.target_bandwidths[0])
        return {"audio_codes": codes}


class Sounder(nn.Module):
    """Codes (batch, codebooks, frames) to sounds (batch, channels, samples).

    Attributes:
        codes: how many codebooks there are, and codes in each.
    """

    main_input_name = "audio_codes"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        channels = int(getattr(model.config, "audio_channels", 1))
        with torch.no_grad():
            codes = Coder(model)(torch.zeros(1, channels, 4000))["audio_codes"]
        self.codes = codes.shape[1], int(model.config.codebook_size)

    def forward(self, audio_codes: Tensor) -> dict[str, Tensor]:
        if hasattr(self.config, "target_bandwidths"):  # EnCodec's are of chunks
            return {"audio_values": self.model.decode(audio_codes[None], [None]).audio_values}
        found: Tensor = self.model.decode(audio_codes=audio_codes).audio_values
        return {"audio_values": found if found.ndim == 3 else found[:, None]}


@contextmanager
def of_any_length(codec: nn.Module) -> Iterator[None]:
    """Let a codec's recurrences be operators, where they would be one step after another, and padding be numbers."""
    with ExitStack() as stack:
        for module in codec.modules():
            if isinstance(module, nn.LSTM):
                stack.enter_context(patch.object(module, "forward", _recurrence(module)))
            elif "padding_total" in module._buffers:
                stack.enter_context(patch.dict(module._buffers))
                numbers: dict[str, Any] = {
                    name: int(buffer)
                    for name in ("stride", "kernel_size", "padding_total")
                    if (buffer := module._buffers.pop(name, None)) is not None
                }
                if "kernel_size" in numbers:
                    numbers["_get_extra_padding_for_conv1d"] = partial(_lacking, **numbers)
                stack.enter_context(patch.dict(module.__dict__, numbers))
        yield


def _lacking(states: Tensor, *, stride: int, kernel_size: int, padding_total: int) -> Any:
    """How many frames a convolution needs behind the last, so that its strides come out even."""
    covered = states.shape[-1] - kernel_size + padding_total
    return -(-covered // stride) * stride - covered


def _recurrence(module: nn.LSTM) -> Callable[[Tensor], tuple[Tensor, None]]:
    """An LSTM of one direction, (sequence, batch, size) in and out, as https://onnx.ai/onnx/operators/onnx__LSTM.html."""
    layers = [
        (
            _gates(getattr(module, f"weight_ih_l{layer}"))[None],
            _gates(getattr(module, f"weight_hh_l{layer}"))[None],
            torch.cat([_gates(getattr(module, f"bias_{kind}_l{layer}")) for kind in ("ih", "hh")])[None],
        )
        for layer in range(module.num_layers)
    ]

    def forward(states: Tensor) -> tuple[Tensor, None]:
        for weights in layers:
            length, batch, size = *states.shape[:2], module.hidden_size
            states = symbolic_multi_out(
                "LSTM",
                [states, *weights],
                {"hidden_size": size},
                dtypes=[states.dtype] * 3,
                shapes=[[length, 1, batch, size], [1, batch, size], [1, batch, size]],
                version=OPSET,
            )[0][:, 0]
        return states, None

    return forward


def _gates(weights: Tensor) -> Tensor:
    """Input, forget, cell and output, as torch has them, in the order of ONNX: input, output, forget, cell."""
    given, forgotten, cell, told = weights.detach().chunk(4)
    return torch.cat([given, told, forgotten, cell])
