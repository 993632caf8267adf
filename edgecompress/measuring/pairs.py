"""Conversions to and from int8 in an optimised graph: what they surround, and why they stayed.

ONNX Runtime fuses DequantizeLinear -> operator -> QuantizeLinear into one int8 operator when it
loads a model. A pair that is still there afterwards did not fuse.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgecompress.measuring.explained import Node, Profile

# Operators that ONNX Runtime 1.31's CPU provider computes in int8, or drops the pairs around (seen
# in tests/test_int8_kernels.py, one by one). Relu and Clip go into the QuantizeLinear behind them.
INT8_OPERATORS = frozenset(
    (
        *("Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Add", "Mul"),
        *("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax", "Concat"),
        *("Where", "MaxPool", "Resize", "Gather", "GatherElements", "Reshape", "Transpose"),
        *("Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Slice", "Split", "ArgMax"),
        *("DepthToSpace", "Relu", "Clip", "Identity", "ReduceMax", "ReduceMin"),
    )
)
_COMPUTE = {
    *("Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Add", "Mul", "Concat"),
    *("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax"),
}
_WEIGHTY = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
_TO_FLOAT, _TO_INT8 = "DequantizeLinear", "QuantizeLinear"
_FLOATS = {"float32", "float16", "float64"}
_EIGHT_BITS = {"int8", "uint8"}


class Pairs:
    """Read which float operators of a model stand between conversions."""

    WEIGHTS_ONLY = "only the weights are quantized"
    SIGNED = "its activations are signed, and not every processor's kernels take those"

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.unfused = [n for n in profile.nodes if n.operator in _COMPUTE and self._touches(n)]
        self.without_kernel = self._without_kernel()

    def unfused_for(self, *reasons: str) -> dict[Node, str]:
        """Return the unfused operators and why, for one of `reasons`."""
        return {n: r for n in self.unfused if (r := self.reason(n)) in reasons}

    def around(self, nodes: Iterable[Node]) -> list[Node]:
        """Return the conversions right before and right behind the nodes, each once."""
        found: dict[Node, None] = {}
        for node in nodes:
            for near in (*self._before(node), *self._behind(node)):
                found[near] = None
        return list(found)

    def dynamic(self, nodes: Iterable[Node]) -> list[Node]:
        """Return the nodes that find ranges for dynamic int8 nodes, or scale what they give."""
        found: dict[Node, None] = {}
        for node in nodes:
            for name in node.inputs:
                maker = self.profile.maker.get(name)
                if maker and maker.operator == "DynamicQuantizeLinear":
                    found[maker] = None
            for cast in self._readers(node):
                found[cast] = None
                found |= dict.fromkeys(n for n in self._readers(cast) if n.operator == "Mul")
        return list(found)

    def reason(self, node: Node) -> str:
        """Say why the pairs around an operator that has an int8 kernel did not fuse."""
        before, behind = self._before(node), self._behind(node)
        activations = [d for d in before if not self._is_constant(d.inputs[0])]
        if not activations and not behind:
            return self.WEIGHTS_ONLY
        read = {self._type(d.inputs[0]) for d in activations}
        written = {self._type(q.outputs[0]) for q in behind}
        if wide := sorted((read | written) - _EIGHT_BITS - {""}):
            return f"{wide[0]} activations, and ONNX Runtime's int8 kernels take 8 bits only"
        if not activations or self._reads_float(node):
            return "an input is not quantized"
        if not behind:
            return self._without_quantized_output(node)
        return self._mismatch(node, read, written)

    def _mismatch(self, node: Node, read: set[str], written: set[str]) -> str:
        """Say what does not fit where everything is quantized."""
        if "int8" in read | written and self.profile.quantized_types == ("int8",):
            return self.SIGNED  # some are unsigned by now: ONNX Runtime changes what it can
        if len(read | written) > 1:
            return f"reads {' and '.join(sorted(read))} and writes {' and '.join(sorted(written))}"
        if len(self._readers(node)) > len(self._behind(node)):
            return "its float output is used elsewhere too"
        if node.operator in _WEIGHTY and len(self._before(node)) < 2:
            return "its weights are not quantized"
        return "the scales or zero points of its pairs do not allow it"

    def _without_quantized_output(self, node: Node) -> str:
        readers = self._readers(node)
        if any(self._behind(reader) for reader in readers):
            between = sorted({reader.operator for reader in readers})
            return f"{' and '.join(between)} stands between it and the QuantizeLinear"
        return "its output is not quantized"

    def _without_kernel(self) -> list[Node]:
        """Return float operators without an int8 kernel on a way from int8 to int8.

        What comes before the first pair and after the last one may be float for good.
        """
        reached, leads = self._reached(), self._leads_to_int8()
        return [
            node
            for node in self.profile.nodes
            if node.operator not in INT8_OPERATORS | {_TO_FLOAT, _TO_INT8}
            and not node.operator.startswith("QLinear")
            and reached & set(node.inputs)
            and leads & set(node.outputs)
        ]

    def _reached(self) -> set[str]:
        """Return the float values computed from an activation that was dequantized."""
        found: set[str] = set()
        for node in self.profile.nodes:
            starts = node.operator == _TO_FLOAT and not any(map(self._is_constant, node.inputs[:1]))
            if starts or (node.operator != _TO_INT8 and found & set(node.inputs)):
                found |= set(node.outputs)
        return found

    def _leads_to_int8(self) -> set[str]:
        """Return the float values from which a value is computed that is then quantized."""
        found: set[str] = set()
        for node in reversed(self.profile.nodes):
            ends = node.operator == _TO_INT8
            if ends or (node.operator != _TO_FLOAT and found & set(node.outputs)):
                found |= set(node.inputs)
        return found

    def _touches(self, node: Node) -> bool:
        return bool(self._before(node) or self._behind(node))

    def _before(self, node: Node) -> list[Node]:
        makers = (self.profile.maker.get(name) for name in node.inputs)
        return [maker for maker in makers if maker and maker.operator == _TO_FLOAT]

    def _behind(self, node: Node) -> list[Node]:
        return [reader for reader in self._readers(node) if reader.operator == _TO_INT8]

    def _readers(self, node: Node) -> list[Node]:
        return [r for name in node.outputs for r in self.profile.readers.get(name, ())]

    def _is_constant(self, name: str) -> bool:
        tensor = self.profile.tensors.get(name)
        return tensor is not None and tensor.constant

    def _type(self, name: str) -> str:
        tensor = self.profile.tensors.get(name)
        return tensor.dtype if tensor else ""

    def _reads_float(self, node: Node) -> bool:
        """Return whether an input is a float that no DequantizeLinear made, and no constant."""
        return any(
            self._type(name) in _FLOATS
            and not self._is_constant(name)
            and (name not in self.profile.maker or self.profile.maker[name].operator != _TO_FLOAT)
            for name in node.inputs
        )
