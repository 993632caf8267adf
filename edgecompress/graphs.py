"""ONNX graphs as we ship them: anonymous, small, and the same bytes wherever they are made.

Exporters and quantizers write down where a model came from (source lines, class names, folders)
and long generated names; on a network of a thousand parameters those weigh more than the weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args

import onnx
import onnx.defs
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from edgecompress import __version__
from edgecompress.records import Kind

_SHORT_NAMES = {"QuantizeLinear": "q", "DequantizeLinear": "dq"}
_PASSES_ON = ("Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape",
              "Squeeze", "Unsqueeze")  # fmt: skip


_OLDEST_IR = 4  # before it, every constant had to be an input too


@dataclass(frozen=True)
class About:
    """Say in a model's file what an app needs to know of it, and which weights it was made of.

    `labels` are the names of classes; `kind` is the task's; `raw` says by input's name how the
    file itself turns what a sensor gives into what the network takes, and `answer` what it does to
    the network's output; `weights` is the digest of the torch weights that were exported.
    """

    labels: tuple[str, ...] = ()
    kind: Kind | None = None
    raw: str = ""
    answer: str = ""
    weights: str = ""


def about_of(model: ModelProto) -> About:
    """Return what `tidy` wrote into a model; whatever a foreign one says otherwise is passed by."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    known = {f.name: said[f.name] for f in fields(About) if f.name in said}
    kind = known.get("kind")
    return About(
        labels=_labels(known.pop("labels", "")),
        kind=next((k for k in get_args(Kind) if k == kind), None),
        **{name: text for name, text in known.items() if name != "kind"},
    )


def tidy(model: ModelProto, labels: Sequence[str] = (), about: About | None = None) -> ModelProto:
    """Return the model reduced to what computes, with short names given in order of use.

    Metadata, doc strings, intermediate shapes, attributes at their default, unused and repeated
    constants go; inputs and outputs keep their names. What stays said about the origin is our
    name and version, and `about` it, by default what it says already; `labels` take the place of
    its own. The file's version is the lowest that can hold it, so that older runtimes read it.
    """
    about = about or about_of(model)
    about = replace(about, labels=tuple(labels) or about.labels)
    tidied = ModelProto()
    tidied.CopyFrom(model)
    if tidied.functions:
        tidied = onnx.inliner.inline_local_functions(tidied)
    _settle_constants_(tidied.graph)
    for field in ("doc_string", "metadata_props", "domain", "model_version", "configuration"):
        tidied.ClearField(field)
    tidied.producer_name, tidied.producer_version = "edgecompress", __version__
    versions = {entry.domain: entry.version for entry in tidied.opset_import}
    for graph in graphs(tidied.graph):
        _strip_(graph, versions.get("", 1))
    _share_constants_(tidied.graph)
    _rename_(tidied.graph)
    _drop_unused_domains_(tidied)
    oldest = onnx.helper.find_min_ir_version_for(list(tidied.opset_import), ignore_unknown=True)
    tidied.ir_version = max(_OLDEST_IR, min(oldest, tidied.ir_version))
    for key, value in asdict(about).items():
        if value:
            text = json.dumps(list(value)) if key == "labels" else value
            tidied.metadata_props.add(key=key, value=text)
    return tidied


def labels_of(model: ModelProto) -> tuple[str, ...]:
    """Return the class labels that `tidy` wrote into a model; none where there are none."""
    return about_of(model).labels


def _labels(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # lists in lists in lists
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def kind_of(path: Path) -> Kind | None:
    """Return the kind of task that an admitted file says it is for, None where it says none."""
    return about_of(onnx.load(path, load_external_data=False)).kind


def answering_operator(path: Path, output: str) -> str:
    """Return the type of the operator that computes an output of an admitted file.

    What only passes numbers on (casts, shapes, quantization) is looked through. Empty for an
    output that nothing computes.
    """
    graph = onnx.load(path, load_external_data=False).graph
    makers = {made: node for node in graph.node for made in node.output}
    while (node := makers.get(output)) is not None and node.op_type in _PASSES_ON:
        output = node.input[0]
    return node.op_type if node is not None else ""


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and every graph inside its nodes (branches, loop bodies), outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def _settle_constants_(graph: GraphProto) -> None:
    """Take constants off the inputs, where old files list them too: nobody is to give them."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    asked = [value for value in graph.input if value.name not in constants]
    graph.ClearField("input")
    graph.input.extend(asked)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    return (node for inner in graphs(graph) for node in inner.node)


def _strip_(graph: GraphProto, opset: int) -> None:
    """Clear what a graph says about its origin, and attributes that state their default."""
    graph.name = "model"
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    for named in [*graph.input, *graph.output, *graph.initializer]:
        named.ClearField("doc_string")
        named.ClearField("metadata_props")
    for node in graph.node:
        for field in ("doc_string", "metadata_props", "device_configurations"):
            node.ClearField(field)
        kept = [a for a in node.attribute if not _is_default(node, a, opset)]
        node.ClearField("attribute")
        node.attribute.extend(kept)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("t"):
                attribute.t.ClearField("doc_string")


def _is_default(node: NodeProto, attribute: AttributeProto, opset: int) -> bool:
    """Return whether an attribute of a standard operator only repeats the standard's default."""
    if node.domain or not onnx.defs.has(node.op_type, ""):
        return False
    declared = onnx.defs.get_schema(node.op_type, opset, "").attributes.get(attribute.name)
    if declared is None or declared.required:
        return False
    default = declared.default_value
    return default.type == attribute.type and _value(default) == _value(attribute)


def _value(attribute: AttributeProto) -> object:
    return onnx.helper.get_attribute_value(attribute)


def _share_constants_(graph: GraphProto) -> None:
    """Keep one of each set of equal constants, and none that nobody reads."""
    outputs = {value.name for value in graph.output}
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        content = TensorProto()
        content.CopyFrom(tensor)
        content.ClearField("name")
        if tensor.name not in outputs:
            same[tensor.name] = first.setdefault(content.SerializeToString(True), tensor.name)
    for node in _nodes(graph):
        node.input[:] = [same.get(name, name) for name in node.input]
    used = {name for node in _nodes(graph) for name in node.input}
    used |= {value.name for inner in graphs(graph) for value in inner.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)


class _Names:
    """Hand out new names: each old name gets one, and no two the same."""

    def __init__(self, fixed: Iterable[str]) -> None:
        self.new = {name: name for name in fixed}
        self._taken = set(self.new)

    def give(self, old: str, wish: str) -> None:
        """Name `old` (an absent optional input is the empty name) as wished, once."""
        if old and old not in self.new:
            while wish in self._taken:
                wish += "_"
            self.new[old] = wish
            self._taken.add(wish)


def _rename_(graph: GraphProto) -> None:
    """Name nodes after their operator (`conv1`), values after the node that makes or reads them.

    Inputs and outputs of the model keep their names. One value has one name in every inner graph.
    """
    fixed = [value.name for value in [*graph.input, *graph.output]]
    names = _Names([*fixed, *(tensor.values.name for tensor in graph.sparse_initializer)])
    counts: Counter[str] = Counter()
    for node in _nodes(graph):
        kind = _SHORT_NAMES.get(node.op_type, node.op_type.lower())
        counts[kind] += 1
        label = f"{kind}{counts[kind]}"
        node.name = "" if node.op_type in _SHORT_NAMES else label
        for slot, name in enumerate(node.output):
            names.give(name, f"{label}:{slot}" if slot else label)
        for slot, name in enumerate(node.input):
            names.give(name, f"{label}.{slot}")
    for inner in graphs(graph):
        for named in [*inner.input, *inner.output, *inner.initializer]:
            named.name = names.new.get(named.name, named.name)
    for node in _nodes(graph):
        node.input[:] = [names.new.get(name, name) for name in node.input]
        node.output[:] = [names.new.get(name, name) for name in node.output]


def _drop_unused_domains_(model: ModelProto) -> None:
    domains = {node.domain for node in _nodes(model.graph)} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in domains]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)
