"""A float32 graph whose weights are kept in few bits; activations mostly stay as they are. Does not judge the result.

Projections become MatMulNBits (or MatMulBnb4), embeddings GatherBlockQuantized; where output weights are the embeddings
and have as many bits, both read one tensor.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from wherry_exporter.activations import Feed, Watch
from wherry_exporter.blocks import BY_NAME, Blocks, on_grid, packed, rtn
from wherry_exporter.plan import Settings
from wherry_exporter.rowwise import compute_in_integers
from wherry_exporter.unpack import gemms_to_matmuls, graph_of, initializer, once, unpack_attention

Array = np.ndarray[Any, Any]
Tables = dict[str, tuple[ir.Value, ir.Value]]
MICROSOFT = "com.microsoft"
TRANSPOSED = ".transposed"
ENCODED = "encoder_hidden_states"
SMALLEST_TABLE = 1024
"""Rows of an embedding table that is worth quantizing."""


class WeightOnly:
    """The variants of one graph. Each weight is quantized once for each number of bits.

    Attributes:
        kept: names of the products whose weights had 4 bits already, and stay as they were.
    """

    def __init__(self, model: ir.Model, feeds: Callable[[], Sequence[Feed]], settings: Settings) -> None:
        """Prepare.

        Args:
            model: a float32 graph; it is not changed.
            feeds: gives inputs that show what activations are like; asked where they decide.
            settings: how to quantize.
        """
        self.model, self.feeds, self.settings = model.clone(), feeds, settings
        unpack_attention(self.model.graph)
        gemms_to_matmuls(self.model.graph)
        _fold_transposes(self.model.graph)
        self.tables = _tables(self.model)
        self.found: dict[tuple[str, int], Blocks] = {}
        self.kept: set[str] = set()

    def names(self) -> list[str]:
        """Names of the products with constant weights, in the order of the graph, but for those tied to embeddings."""
        return [str(node.name) for node in _products(self.model) if _tied(node) not in self.tables]

    def graph(self, bits: int, keep: Collection[str] = ()) -> ir.Model:
        """Every projection with `bits` (4 or 8) bits a weight; those named in `keep` and embeddings with 8.

        In 8 bits what an encoder has read is projected row by row in integers: it is many rows, once a request.
        """
        model = self.model.clone()
        if bits == 8:
            read = [node for node in _products(model) if node.inputs[0] is not None and node.inputs[0].name == ENCODED]
            compute_in_integers(model, {str(node.name) for node in read})
        self._prepare(bits, keep)
        tables = _quantize_embeddings(model)
        for node in _products(model):
            each = 8 if node.name in keep else bits
            if _tied(node) in tables:
                _to_table(node, *tables[_tied(node)])
            else:
                _to_nbits(model.graph, node, self.found[str(node.name), each], each)
        model.opset_imports[MICROSOFT] = 1
        _drop_unused(model.graph)
        return model

    def bnb4(self) -> ir.Model:
        """Every projection in 4-bit NormalFloat (Dettmers et al., https://arxiv.org/abs/2305.14314)."""
        from onnxruntime.capi._pybind_state import quantize_matmul_bnb4

        model, size = self.model.clone(), 64
        for node in _products(model):
            weight = _weight(node)
            inputs, outputs = weight.shape
            levels = np.zeros((weight.size + 1) // 2, np.uint8)
            largest = np.zeros(-(-weight.size // size), np.float32)
            quantize_matmul_bnb4(levels, np.ascontiguousarray(weight.T), largest, size, 1, outputs, inputs)
            data = initializer(model.graph, f"{_base(node)}.nf4", levels)
            scales = initializer(model.graph, f"{_base(node)}.nf4.largest", largest)
            attributes = {"K": inputs, "N": outputs, "block_size": size, "quant_type": 1}
            _replace(node, "MatMulBnb4", [node.inputs[0], data, scales], attributes)
        _quantize_embeddings(model)
        model.opset_imports[MICROSOFT] = 1
        _drop_unused(model.graph)
        return model

    def _prepare(self, bits: int, keep: Collection[str]) -> None:
        """Quantize what is not quantized yet."""
        wanted: dict[str, list[ir.Node]] = {}
        for node in _products(self.model):
            name, each = str(node.name), 8 if node.name in keep else bits
            if (name, each) in self.found or _tied(node) in self.tables:
                continue
            if each == 8:
                size = self.settings.size(8)
                self.found[name, 8] = rtn(_weight(node), 8, size, symmetric=True, moments=None)
            elif same := on_grid(_weight(node), bits, self.settings.size(bits)):
                self.found[name, bits] = same
                self.kept.add(name)
            else:
                wanted.setdefault(str(node.inputs[0].name) if node.inputs[0] else "", []).append(node)
        if not wanted:
            return
        algorithm = BY_NAME[self.settings.algorithm]
        if self.settings.algorithm in ("imatrix", "gptq"):
            watch = Watch(self.model, self.feeds(), list(wanted))
            seen = watch.products() if self.settings.algorithm == "gptq" else watch.squares().items()
            del watch  # the graph that was looked at, where all has been seen
            for source, moments in seen:
                for node in wanted.pop(source):
                    self.found[str(node.name), bits] = algorithm(
                        _weight(node),
                        bits,
                        self.settings.size(bits),
                        symmetric=self.settings.symmetric,
                        moments=moments,
                    )
            algorithm = rtn  # for what is inside a branch, whose activations are not seen
        for node in (node for nodes in wanted.values() for node in nodes):
            self.found[str(node.name), bits] = algorithm(
                _weight(node), bits, self.settings.size(bits), symmetric=self.settings.symmetric, moments=None
            )


def _products(model: ir.Model) -> list[ir.Node]:
    """Products with a constant matrix, those in branches included."""
    return [
        node
        for node in model.graph.all_nodes()
        if node.op_type == "MatMul"
        and node.domain == ""
        and node.inputs[1] is not None
        and node.inputs[1].const_value is not None
        and len(node.inputs[1].const_value.shape) == 2
        and node.inputs[1].const_value.dtype == ir.DataType.FLOAT
    ]


def _weight(node: ir.Node) -> Array:
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _base(node: ir.Node) -> str:
    value = node.inputs[1]
    assert value is not None
    return str(value.name)


def _tied(node: ir.Node) -> str:
    """The name of the table that a product's weight would be the transpose of."""
    return _base(node).removesuffix(TRANSPOSED)


def _to_table(node: ir.Node, levels: ir.Value, scales: ir.Value) -> None:
    """Output weights that are the embeddings, (vocabulary, blocks, block size), read the embeddings' own levels."""
    inputs, outputs = _weight(node).shape
    size = _block_size(inputs)
    attributes = {"K": inputs, "N": outputs, "bits": 8, "block_size": size, "accuracy_level": 4}
    _replace(node, "MatMulNBits", [node.inputs[0], levels, scales], attributes)


def _to_nbits(graph: ir.Graph, node: ir.Node, blocks: Blocks, bits: int) -> None:
    base = _base(node)
    inputs, outputs = _weight(node).shape
    given: list[ir.Value | None] = [
        node.inputs[0],
        once(graph, f"{base}.{bits}bit", packed(blocks.levels, bits)),
        once(graph, f"{base}.{bits}bit.scales", blocks.scales),
    ]
    if blocks.zero_points is not None:
        points = blocks.zero_points
        points = packed(points, bits) if points.dtype == np.uint8 else points
        given.append(once(graph, f"{base}.{bits}bit.zero_points", points))
    size = blocks.levels.shape[-1]
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": size, "accuracy_level": 4}
    _replace(node, "MatMulNBits", given, attributes)


def _replace(node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, int]) -> None:
    graph = graph_of(node)
    made = ir.node(op_type, inputs, attributes, domain=MICROSOFT, name=node.name)
    old, new = node.outputs[0], made.outputs[0]
    graph.insert_before(node, made)
    new.shape, new.type, new.name = old.shape, old.type, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _fold_transposes(graph: ir.Graph) -> None:
    """Make a transposed constant (a language model's output weights tied to its embeddings) a constant of its own."""
    for node in list(graph.all_nodes()):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is not None and source.const_value is not None:
            axes = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
            array = np.ascontiguousarray(source.const_value.numpy().transpose(axes))
            value = once(graph, f"{source.name}{TRANSPOSED}", array)
            node.outputs[0].replace_all_uses_with(value)
            graph_of(node).remove(node, safe=True)


def quantize_embeddings(model: ir.Model) -> None:
    """Embedding tables to 8 bits in blocks along each row, where rows divide into blocks."""
    _quantize_embeddings(model)
    model.opset_imports[MICROSOFT] = 1
    _drop_unused(model.graph)


def _tables(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Embedding tables that are worth quantizing, by name, and the nodes that look things up in them."""
    found: dict[str, list[ir.Node]] = {}
    for node in model.graph.all_nodes():
        table = node.inputs[0] if node.op_type == "Gather" and node.domain == "" else None
        if table is None or table.const_value is None or len(table.const_value.shape) != 2:
            continue
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        rows, columns = table.const_value.shape.numpy()
        if axis == 0 and table.const_value.dtype == ir.DataType.FLOAT and rows >= SMALLEST_TABLE and columns % 16 == 0:
            found.setdefault(str(table.name), []).append(node)
    return found


def _block_size(columns: int) -> int:
    """Elements of an embedding that share a scale: the blocks divide it."""
    return next(size for size in (64, 32, 16) if columns % size == 0)


def _quantize_embeddings(model: ir.Model) -> Tables:
    """Returns, by name of the table, the levels, (rows, blocks, block size), and the scales, (rows, blocks)."""
    graph = model.graph
    made: Tables = {}
    for name, nodes in _tables(model).items():
        weights = graph.initializers[name].const_value
        assert weights is not None
        rows, columns = weights.shape.numpy()
        size = _block_size(columns)
        blocks = rtn(weights.numpy().T, 8, size, symmetric=True, moments=None)
        levels = initializer(graph, f"{name}.8bit", blocks.levels)
        scales = initializer(graph, f"{name}.8bit.scales", blocks.scales)
        shape = initializer(graph, f"{name}.shape", np.array([rows, columns]))
        for node in nodes:
            flat = ir.node("Reshape", [levels, shape])
            flat.outputs[0].shape, flat.outputs[0].dtype = ir.Shape([rows, columns]), ir.DataType.UINT8
            flat.outputs[0].name = f"{node.outputs[0].name}.table"
            gather = ir.node(
                "GatherBlockQuantized",
                [flat.outputs[0], node.inputs[1], scales],
                {"bits": 8, "block_size": size, "gather_axis": 0, "quantize_axis": 1},
                domain=MICROSOFT,
            )
            gather.outputs[0].shape, gather.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
            graph_of(node).insert_before(node, [flat, gather])
            node.outputs[0].replace_all_uses_with(gather.outputs[0], replace_graph_outputs=True)
            gather.outputs[0].name = node.outputs[0].name
            graph_of(node).remove(node, safe=True)
        made[name] = levels, scales
    return made


def _drop_unused(graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        if not list(value.uses()) and not value.is_graph_output():
            graph.initializers.pop(str(value.name))
