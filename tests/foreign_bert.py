"""A model like BERT, as a stranger exports it: several integer inputs, two outputs."""

from __future__ import annotations

import numpy as np
from foreign_models import (
    FLOAT,
    INT64,
    Arrays,
    Foreign,
    Sizes,
    held,
    integers,
    model_of,
    node,
    normal,
    retyped,
)


def bert_like() -> Foreign:
    """Take token ids, a mask and segments; one layer of attention of two heads; two outputs."""
    width, heads, words = 32, 2, 50
    names = ("q", "k", "v", "o")
    weights = [held(f"w{n}", normal(width, width, seed=i) / 6) for i, n in enumerate(names)]
    weights += [
        held("words", normal(words, width)),
        held("segments", normal(2, width)),
        held("g", np.ones(width, np.float32)),
        held("b", np.zeros(width, np.float32)),
        held("wc", normal(3, width) / 6),
        held("bc", normal(3)),
        held("one", np.float32(1)),
        held("low", np.float32(-1e4)),
        held("scale", np.float32((width // heads) ** -0.5)),
        integers("split", 0, 0, heads, width // heads),
        integers("join", 0, 0, width),
        integers("axes", 1, 2),
        held("first", np.int64(0)),
    ]
    nodes = [
        node("Gather", ["words", "input_ids"], ["e1"]),
        node("Gather", ["segments", "token_type_ids"], ["e2"]),
        node("Add", ["e1", "e2"], ["e3"]),
        node("LayerNormalization", ["e3", "g", "b"], ["h0"]),
        node("Cast", ["attention_mask"], ["m1"], to=FLOAT),
        node("Sub", ["one", "m1"], ["m2"]),
        node("Mul", ["m2", "low"], ["m3"]),
        node("Unsqueeze", ["m3", "axes"], ["m4"]),
    ]
    for name in names[:3]:
        nodes += [
            node("MatMul", ["h0", f"w{name}"], [f"{name}1"]),
            node("Reshape", [f"{name}1", "split"], [f"{name}2"]),
            node(
                "Transpose", [f"{name}2"], [f"{name}3"],
                perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3],
            ),
        ]  # fmt: skip
    nodes += [
        node("MatMul", ["q3", "k3"], ["s1"]),
        node("Mul", ["s1", "scale"], ["s2"]),
        node("Add", ["s2", "m4"], ["s3"]),
        node("Softmax", ["s3"], ["s4"]),
        node("MatMul", ["s4", "v3"], ["a1"]),
        node("Transpose", ["a1"], ["a2"], perm=[0, 2, 1, 3]),
        node("Reshape", ["a2", "join"], ["a3"]),
        node("MatMul", ["a3", "wo"], ["a4"]),
        node("Add", ["a4", "h0"], ["a5"]),
        node("LayerNormalization", ["a5", "g", "b"], ["hidden"]),
        node("Gather", ["hidden", "first"], ["c1"], axis=1),
        node("Gemm", ["c1", "wc", "bc"], ["logits"], transB=1),
    ]
    tokens: Sizes = ("batch", "sequence")
    model = model_of(
        nodes,
        dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), tokens),
        {"logits": ("batch", 3), "hidden": (*tokens, width)},
        weights,
    )
    rng = np.random.default_rng(0)
    samples: Arrays = {
        "input_ids": rng.integers(0, words, (24, 9)),
        "attention_mask": rng.integers(0, 2, (24, 9)),
        "token_type_ids": rng.integers(0, 2, (24, 9)),
    }
    return Foreign(retyped(model, **dict.fromkeys(samples, INT64)), samples)
