"""What onnxruntime's products of weights cost on this machine, one at a time, at the shapes of SmolLM2-135M.

A step of one row reads each weight once, so it is bound by memory or by unpacking; 8 rows and 512 by arithmetic.
See README.md for what follows from that.
"""

import gc
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession, SessionOptions

from harness import machine
from wherry.commands.common import table
from wherry.session import thread_count

SHAPES = {"projection": (576, 1536), "output weights": (576, 49152)}
ROWS = {1: 100, 8: 30, 512: 2}
"""Rows of activations to runs that are timed together."""
RANDOM = np.random.default_rng(0)


def float32(inputs: int, outputs: int) -> InferenceSession:
    weight = RANDOM.normal(size=(inputs, outputs)).astype(np.float32)
    return session(inputs, outputs, "MatMul", "", {"weight": weight})


def blocks(bits: int, size: int) -> Callable[[int, int], InferenceSession]:
    def made(inputs: int, outputs: int) -> InferenceSession:
        count = inputs // size
        levels = RANDOM.integers(0, 256, (outputs, count, size * bits // 8)).astype(np.uint8)
        scales = RANDOM.random(outputs * count).astype(np.float32)
        how = {"K": inputs, "N": outputs, "bits": bits, "block_size": size, "accuracy_level": 4}
        return session(inputs, outputs, "MatMulNBits", "com.microsoft", {"levels": levels, "scales": scales}, **how)

    return made


def dynamic(inputs: int, outputs: int) -> InferenceSession:
    levels = RANDOM.integers(-64, 65, (inputs, outputs)).astype(np.int8)
    given = {"levels": levels, "scales": RANDOM.random(outputs).astype(np.float32)}
    return session(inputs, outputs, "DynamicQuantizeMatMul", "com.microsoft", given)


KERNELS: dict[str, Callable[[int, int], InferenceSession]] = {
    "float32": float32,
    "4 bits, blocks of 32": blocks(4, 32),
    "4 bits, blocks of 64": blocks(4, 64),
    "8 bits, blocks of 64": blocks(8, 64),
    "8 bits, activations too": dynamic,
}


def session(
    inputs: int, outputs: int, operator: str, domain: str, given: dict[str, Any], **how: int
) -> InferenceSession:
    node = helper.make_node(operator, ["x", *given], ["y"], domain=domain, **how)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=sets, ir_version=10)
    options = SessionOptions()
    options.intra_op_num_threads = thread_count()
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def seconds(kernel: InferenceSession, rows: int, inputs: int, runs: int) -> float:
    feed = {"x": RANDOM.normal(size=(rows, inputs)).astype(np.float32)}
    taken = []
    for _ in range(8):
        start = time.perf_counter()
        for _ in range(runs):
            kernel.run(None, feed)
        taken.append((time.perf_counter() - start) / runs)
    return median(taken[1:])


def main() -> None:
    """Print billions of multiplications and additions a second, each kernel alone, and one JSON line."""
    found: dict[str, dict[str, float]] = {}
    for name, (inputs, outputs) in SHAPES.items():
        for rows, runs in ROWS.items():
            if rows * outputs > 10_000_000:
                continue
            row = found[f"{name} {inputs}x{outputs}, {rows} rows"] = {}
            for kind, make in KERNELS.items():
                kernel = make(inputs, outputs)
                taken = seconds(kernel, rows, inputs, max(1, runs * 1536 // outputs))
                row[kind] = 2 * rows * inputs * outputs / taken / 1e9
                del kernel
                gc.collect()  # its threads spin for the next run
    print(
        table(
            [["GFLOP/s", *KERNELS], *([name, *(f"{row[kind]:.0f}" for kind in KERNELS)] for name, row in found.items())]
        )
    )
    print(json.dumps({"benchmark": "kernels", "unit": "GFLOP/s", "machine": machine(), "median": found}))


if __name__ == "__main__":
    main()
