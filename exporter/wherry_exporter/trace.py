"""A checkpoint's torch module to one ONNX graph, with the names and axes that the ecosystem knows.

The fused trace (`lower.py`) is tried first; architectures that it cannot express are traced as they are.
Knows nothing of precisions or files.
"""

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.errors import ExportError
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import OPSET, Lowering, NotLowered, cache_shape, lowered
from wherry_exporter.quiet import quiet
from wherry_exporter.tasks import TASKS

BATCH, SEQUENCE, PAST, TOTAL = (
    "batch_size",
    "sequence_length",
    "past_sequence_length",
    "total_sequence_length",
)


def trace(checkpoint: Checkpoint) -> ir.Model:
    """Trace a checkpoint to a float32 graph.

    Inputs are `input_ids`, `attention_mask`, where the model has them `token_type_ids`, and for decoders
    `past_key_values.N.key|value` of shape (batch, kv_heads, past_sequence, head_size), all with dynamic batch and
    sequence. Outputs are the task's main output and, for decoders, `present.N.key|value`. A decoder's one graph
    is the prefill (empty past) and the decode step; rows of a batch are padded on the right.

    Raises:
        ExportError: the architecture cannot be traced; the message gathers the reasons.
    """
    decoder = TASKS[checkpoint.task].decoder
    reasons = []
    try:
        with quiet(), torch.no_grad():
            return _trace_decoder(checkpoint) if decoder else _trace_encoder(checkpoint)
    except NotLowered as error:
        reasons.append(f"fused: {error}")
    if not decoder:
        try:
            with quiet(), torch.no_grad():
                return _trace_plain_encoder(checkpoint)
        except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
            reasons.append(f"plain: {str(error).splitlines()[0]}")
    name = type(checkpoint.model).__name__
    raise ExportError(f"{name} cannot be traced for {checkpoint.task}: {'; '.join(reasons)}")


class _Encoder(nn.Module):
    def __init__(self, model: Any, output: str, lowering: Lowering | None) -> None:
        super().__init__()
        self.model, self.output, self.lowering = model, output, lowering

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.lowering:
            self.lowering.begin(inputs["attention_mask"])
        output: Tensor = self.model(**inputs)[self.output]
        return output


class _Decoder(nn.Module):
    def __init__(self, model: Any, lowering: Lowering) -> None:
        super().__init__()
        self.model, self.lowering = model, lowering

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: list[tuple[Tensor, Tensor]]) -> Any:
        self.lowering.begin(attention_mask, past)
        length = input_ids.shape[1]
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -length:]
        output = self.model(input_ids=input_ids, position_ids=positions, use_cache=False)
        if len(self.lowering.present) != len(past):
            raise NotLowered(
                f"{len(self.lowering.present)} of {len(past)} layers use transformers' attention interface"
            )
        return output.logits, self.lowering.present


def encoder_inputs(model: Any) -> list[str]:
    """The names of the graph inputs of an encoder."""
    types = getattr(model.config, "type_vocab_size", 0) or 0
    return ["input_ids", "attention_mask", *(["token_type_ids"] if types > 1 else [])]


def _sample(model: Any) -> dict[str, Tensor]:
    """Two padded rows: a mask of ones would be folded into the graph as a constant."""
    inputs = {name: torch.ones(2, 7, dtype=torch.int64) for name in encoder_inputs(model)}
    inputs["attention_mask"][1, 5:] = 0
    if "token_type_ids" in inputs:
        inputs["token_type_ids"][:] = 0
    return inputs


def _trace_encoder(checkpoint: Checkpoint) -> ir.Model:
    output = TASKS[checkpoint.task].output
    inputs = _sample(checkpoint.model)
    axes = {name: {0: Dim(BATCH), 1: Dim.DYNAMIC} for name in inputs}
    with lowered(checkpoint.model, decoder=False) as lowering:
        module = _Encoder(checkpoint.model, output, lowering)
        program = torch.export.export(module, (inputs,), dynamic_shapes={"inputs": axes}, strict=False)
        if not lowering.calls:
            raise NotLowered("no layer uses transformers' attention interface")
        model = _to_onnx(program, list(inputs), [output])
    return _named(model, {name: [BATCH, SEQUENCE] for name in inputs})


def _trace_plain_encoder(checkpoint: Checkpoint) -> ir.Model:
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    output = TASKS[checkpoint.task].output
    inputs = _sample(checkpoint.model)
    axes = {name: {0: Dim(BATCH), 1: Dim.DYNAMIC} for name in inputs}
    exported = OnnxExporter().export(
        checkpoint.model, dict(inputs), OnnxConfig(dynamic=True, dynamic_shapes=axes, opset_version=OPSET)
    )
    model: ir.Model = exported.program
    kept = [value for value in model.graph.outputs if value.name == output]
    if not kept:
        names = ", ".join(str(value.name) for value in model.graph.outputs)
        raise ValueError(f"the graph has outputs {names}, but no {output}")
    model.graph.outputs[:] = kept
    return _named(model, {name: [BATCH, SEQUENCE] for name in inputs})


def _trace_decoder(checkpoint: Checkpoint) -> ir.Model:
    count, kv_heads, size = cache_shape(checkpoint.model)
    layers = range(count)
    ids = torch.ones(2, 3, dtype=torch.int64)
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, -1] = 0
    past = [(torch.zeros(2, kv_heads, 4, size), torch.zeros(2, kv_heads, 4, size)) for _ in layers]
    batch, cached = Dim(BATCH), {0: Dim(BATCH), 2: Dim(PAST)}
    shapes = {
        "input_ids": {0: batch, 1: Dim.DYNAMIC},
        "attention_mask": {0: batch, 1: Dim.DYNAMIC},
        "past": [(cached, cached) for _ in layers],
    }
    with lowered(checkpoint.model, decoder=True) as lowering:
        module = _Decoder(checkpoint.model, lowering)
        inputs = {"input_ids": ids, "attention_mask": mask, "past": past}
        program = torch.export.export(module, (), inputs, dynamic_shapes=shapes, strict=False)
        cache = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        model = _to_onnx(
            program,
            ["input_ids", "attention_mask", *(f"past_key_values.{name}" for name in cache)],
            ["logits", *(f"present.{name}" for name in cache)],
        )
    dims: dict[str, list[str | int]] = {"input_ids": [BATCH, SEQUENCE], "attention_mask": [BATCH, TOTAL]}
    dims |= {f"past_key_values.{name}": [BATCH, kv_heads, PAST, size] for name in cache}
    dims |= {f"present.{name}": [BATCH, kv_heads, TOTAL, size] for name in cache}
    return _named(model, dims)


def _to_onnx(program: Any, inputs: list[str], outputs: list[str]) -> ir.Model:
    converted = torch.onnx.export(
        program,
        (),
        input_names=inputs,
        output_names=outputs,
        opset_version=OPSET,
        optimize=True,
        verbose=False,
    )
    assert converted is not None
    model: ir.Model = converted.model
    return model


def _named(model: ir.Model, dims: dict[str, Any]) -> ir.Model:
    """Give inputs and outputs speaking axis names, after checking that none was folded away."""
    graph = model.graph
    present = {str(value.name) for value in graph.inputs}
    lost = sorted(name for name in dims if name not in present and not name.startswith("present."))
    if lost:
        raise ExportError(f"the trace folded the input {', '.join(lost)} away")
    symbols: dict[str, str] = {}
    for value in [*graph.inputs, *graph.outputs]:
        wanted = dims.get(str(value.name))
        if wanted and value.shape is not None:
            symbols |= {str(old): new for old, new in zip(value.shape, wanted, strict=True) if isinstance(new, str)}
    for node in graph:
        for value in node.outputs:
            _rename(value, symbols)
    for value in graph.inputs:
        _rename(value, symbols)
    graph.name = "wherry"
    return model


def _rename(value: ir.Value, symbols: dict[str, str]) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([symbols.get(str(dim), dim) for dim in value.shape])
