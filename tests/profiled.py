"""Profiles made by hand, for the tests of what is read from them."""

from __future__ import annotations

from edgecompress.measuring.explained import Node, Profile, Tensor

MAP = (1, 8, 4, 4)
WEIGHTS = (8, 8, 3, 3)


def node(operator: str, reads: str, makes: str, ms: float = 1.0, **more: object) -> Node:
    return Node(makes, operator, "", tuple(reads.split()), (makes,), more, ms)


def profile(*nodes: Node, tensors: dict[str, Tensor] | None = None, **more: object) -> Profile:
    """Return a profile of a call that takes as long as its nodes together."""
    settings = {"outputs": frozenset({"y"}), "runs": 20, "profiler_ms": 0.0, "node_ms": 0.001}
    total = sum(n.ms for n in nodes)
    return Profile(total, nodes, tensors=tensors or {}, **(settings | more))


def floats(*names: str, shape: tuple[int, ...] = MAP) -> dict[str, Tensor]:
    return {name: Tensor("float32", shape) for name in names}


def constant(dtype: str, *shape: int) -> Tensor:
    return Tensor(dtype, shape, constant=True)


def between_pairs(read: str = "uint8", written: str = "uint8", operator: str = "Conv") -> Profile:
    """Return DequantizeLinear -> operator -> QuantizeLinear, unfused."""
    return profile(
        node("DequantizeLinear", "a s z", "x"),
        node("DequantizeLinear", "w8 s z", "w", 0.1),
        node(operator, "x w", "f", 5.0),
        node("QuantizeLinear", "f s z", "y"),
        tensors={
            **floats("x", "f"),
            "w": Tensor("float32", WEIGHTS),
            "a": Tensor(read, MAP),
            "w8": constant("int8", *WEIGHTS),
            "y": Tensor(written, MAP),
        },
        quantized_types=tuple({read, written}),
    )
