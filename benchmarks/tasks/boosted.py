"""Gradient boosted trees as a teacher for tables, written as an ONNX file.

The file has the task's own inputs, so it is measured and scored like any other model.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from edgecompress import Split

ROUNDS = {"max_iter": 400, "learning_rate": 0.05, "max_leaf_nodes": 31, "random_state": 0}


def boosted_classifier(name: str, train: Split) -> Path:
    """Fit trees to labels 0 and 1 and return an ONNX file that answers with two logits."""
    trees = HistGradientBoostingClassifier(**ROUNDS, early_stopping=True, l2_regularization=1.0)
    return _written(name, trees.fit(rows(train), train.labels), train, classes=2)


def boosted_regressor(name: str, train: Split) -> Path:
    """Fit trees to numbers and return an ONNX file that answers with one number."""
    trees = HistGradientBoostingRegressor(**ROUNDS, early_stopping=True, l2_regularization=1.0)
    return _written(name, trees.fit(rows(train), np.ravel(train.labels)), train, classes=1)


def rows(split: Split) -> NDArray[np.float32]:
    """Return all columns of a split side by side, codes as numbers."""
    return np.concatenate([a.astype(np.float32) for a in split.inputs.values()], axis=1)


def _written(name: str, trees: Any, train: Split, classes: int) -> Path:
    """Write the trees as `Concat -> TreeEnsembleRegressor`; of two classes the first has logit 0.

    scikit-learn has no public door to the nodes; `_predictors` is the one its converters use.
    """
    nodes: dict[str, list[Any]] = {key: [] for key in _NODE_KEYS}
    leaves: dict[str, list[Any]] = {key: [] for key in _LEAF_KEYS}
    for number, (tree,) in enumerate(trees._predictors):
        for place, node in enumerate(tree.nodes):
            _add_node_(nodes, number, place, node)
            if node["is_leaf"]:
                row = (number, place, 0, float(node["value"]))
                for key, value in zip(_LEAF_KEYS, row, strict=True):
                    leaves[key].append(value)
    inputs = [
        helper.make_tensor_value_info(key, _ONNX_TYPES[a.dtype.name], ["batch", *a.shape[1:]])
        for key, a in train.inputs.items()
    ]
    casts = [
        helper.make_node("Cast", [key], [f"{key} as float"], to=TensorProto.FLOAT)
        for key in train.inputs
    ]
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", ["rows"], ["sum"], domain="ai.onnx.ml", n_targets=1,
        base_values=[float(np.ravel(trees._baseline_prediction)[0])], **nodes, **leaves,
    )  # fmt: skip
    body = [
        *casts,
        helper.make_node("Concat", [c.output[0] for c in casts], ["rows"], axis=1),
        ensemble,
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    if classes == 2:
        body += [
            helper.make_node("Mul", ["sum", "zero"], ["first"]),
            helper.make_node("Concat", ["first", "sum"], ["logits"], axis=1),
        ]
    else:
        body.append(helper.make_node("Add", ["sum", "zero"], ["logits"]))
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(body, name, inputs, [output], [zero])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    path = Path(gettempdir()) / f"edgecompress-benchmark-{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


_ONNX_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_NODE_KEYS = (
    "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes",
    "nodes_truenodeids", "nodes_falsenodeids", "nodes_missing_value_tracks_true",
)  # fmt: skip
_LEAF_KEYS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")


def _add_node_(nodes: dict[str, list[Any]], number: int, place: int, node: Any) -> None:
    leaf = bool(node["is_leaf"])
    row = (
        number,
        place,
        0 if leaf else int(node["feature_idx"]),
        0.0 if leaf else _at_most(float(node["num_threshold"])),
        "LEAF" if leaf else "BRANCH_LEQ",
        0 if leaf else int(node["left"]),
        0 if leaf else int(node["right"]),
        0,
    )
    for key, value in zip(_NODE_KEYS, row, strict=True):
        nodes[key].append(value)


def _at_most(threshold: float) -> float:
    """Return the largest float32 that is no larger, so that `<=` answers alike in both widths."""
    narrow = np.float32(threshold)
    return float(np.nextafter(narrow, np.float32(-np.inf)) if narrow > threshold else narrow)
