"""Ask how fast a model's layers would be in other ways: wider, unsigned, in float, ungrouped.

Pure: a profile goes in, descriptions of layers come out. A child builds and times them
(`trial_child.py`), so that no rule has to know which widths or types a processor likes.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Literal

from edgecompress.measuring.explained import Form, Layer, Node, Profile, Question, Tensor

MOST = 12  # questions: those about the layers with the largest share of the time
SHARE = 0.03  # of the call, below which a layer is not worth a question
MULTIPLES = (4, 8, 16)  # kernels of today take so many channels at a time
FEW_CHANNELS = 4  # an image's: no network can change them
MOVED_BYTES = 10**6  # below them, data stay in a core's own cache
LARGEST_BYTES = 2 * 10**8  # no trial of a layer beyond it
NCHWC = "com.microsoft.nchwc"  # ONNX Runtime's blocked layout, which has whole blocks already
# Where an operator has its weights, and what it computes in (None: the activations' type says).
_CONVOLUTIONS: dict[str, tuple[int, Form | None]] = {
    "Conv": (1, "float"),
    "FusedConv": (1, "float"),
    "ConvTranspose": (1, "float"),
    "QLinearConv": (3, None),
    "ConvInteger": (1, "integer"),
}
_PRODUCTS: dict[str, tuple[int, Form | None]] = {
    "MatMul": (1, "float"),
    "FusedMatMul": (1, "float"),
    "Gemm": (1, "float"),
    "FusedGemm": (1, "float"),
    "QGemm": (3, None),
    "QLinearMatMul": (3, None),
    "MatMulInteger": (1, "integer"),
}
_ATTRIBUTES = ("dilations", "group", "output_padding", "pads", "strides")
_BYTES = {"float32": 4, "int32": 4, "float16": 2, "int16": 2, "uint16": 2, "int64": 8, "float64": 8}


def questions(profile: Profile) -> tuple[Question, ...]:
    """Return what is worth timing of the model's layers, each layer once, the largest first."""
    asked: dict[str, Question] = {}
    for place, node in enumerate(profile.nodes):
        variants = _variants(profile, node) if profile.share(node.ms) >= SHARE else {}
        if set(variants) - {"own"}:
            nodes = asked[str(variants)].nodes if str(variants) in asked else ()
            asked[str(variants)] = Question((*nodes, place), variants)
    by_time = sorted(asked.values(), key=lambda q: -sum(profile.nodes[i].ms for i in q.nodes))
    return tuple(by_time[:MOST])


def _variants(profile: Profile, node: Node) -> dict[str, Layer]:
    """Return a layer as it is and all that it could be instead; nothing where nothing is known."""
    variants = {}
    if (moved := moved_bytes(profile, node)) >= MOVED_BYTES:
        variants["move"] = Layer("Move", "float", (moved // 8,))  # 4 bytes read, 4 written
    layer = layer_of(profile, node)
    if layer is None or 4 * prod(layer.input) > LARGEST_BYTES:
        return variants
    variants |= {"own": layer, **_forms(profile, node, layer), **_denser(layer)}
    if node.domain != NCHWC:
        variants |= {_widths(wider): wider for wider in _wider(profile, node, layer)}
    return variants


def _forms(profile: Profile, node: Node, layer: Layer) -> dict[str, Layer]:
    """Return the layer in the other types that its surroundings would let it have."""
    match layer.form:
        case "integer":
            return {"float": replace(layer, form="float")}
        case "signed":
            return {form: replace(layer, form=form) for form in ("unsigned", "mixed")}
        case "unsigned":
            return {"mixed": replace(layer, form="mixed")}
        case "float" if _is_dequantized(profile, node, 0):
            return {"unsigned": replace(layer, form="unsigned")}
        case "float" if _is_dequantized(profile, node, 1):
            return {"own": replace(layer, form="unpacked"), "packed": layer}
    return {}


def layer_of(profile: Profile, node: Node) -> Layer | None:
    """Return the layer that a node computes: a convolution or product with constant weights."""
    if node.operator in _CONVOLUTIONS:
        position, form = _CONVOLUTIONS[node.operator]
    elif node.operator in _PRODUCTS:
        position, form = _PRODUCTS[node.operator]
    else:
        return None
    x, w = profile.tensor(node, 0), _weights(profile, node, position)
    if x is None or w is None or min((*x.shape, *w.shape), default=0) < 1:
        return None
    form = form or ("signed" if x.dtype == "int8" else "unsigned")
    if node.operator in _PRODUCTS:
        return _product(node, x.shape, w.shape, form)
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or len(x.shape) != len(w.shape):
        return None
    kept = {name: node.attributes[name] for name in _ATTRIBUTES if name in node.attributes}
    last = node.attributes.get("channels_last", 0) == 1
    shape = (x.shape[0], x.shape[-1], *x.shape[1:-1]) if last else x.shape
    operator: Literal["Conv", "ConvTranspose"] = (
        "ConvTranspose" if node.operator == "ConvTranspose" else "Conv"
    )
    return Layer(operator, form, shape, w.shape, kept)  # type: ignore[arg-type]


def _is_dequantized(profile: Profile, node: Node, position: int) -> bool:
    maker = profile.maker.get(node.inputs[position])
    return maker is not None and maker.operator == "DequantizeLinear"


def _product(node: Node, x: tuple[int, ...], w: tuple[int, ...], form: Form) -> Layer | None:
    if len(w) != 2 or len(x) < 2 or node.attributes.get("transA", 0):
        return None
    inner, columns = w[::-1] if node.attributes.get("transB", 0) else w
    return Layer("MatMul", form, x, (inner, columns)) if x[-1] == inner else None


def _weights(profile: Profile, node: Node, position: int) -> Tensor | None:
    """Return a node's weights if they are constant, be it int8 that is dequantized right before."""
    tensor = profile.tensor(node, position)
    if tensor is None or tensor.constant:
        return tensor
    maker = profile.maker.get(node.inputs[position])
    unpacked = maker is not None and maker.operator == "DequantizeLinear"
    source = profile.tensor(maker, 0) if maker and unpacked else None
    return tensor if source and source.constant else None


def groups(layer: Layer) -> int:
    """Return into how many groups a convolution divides its channels."""
    found = layer.attributes.get("group", 1)
    return found if isinstance(found, int) else 1


def is_depthwise(layer: Layer) -> bool:
    """Return whether each channel is filtered alone."""
    return layer.operator == "Conv" and 1 < groups(layer) == layer.input[1]


def moved_bytes(profile: Profile, node: Node) -> int:
    """Return the bytes that a node has to read and write, each value once."""
    values = (profile.tensors.get(name) for name in {*node.inputs, *node.outputs})
    return sum(
        prod(v.shape) * _BYTES.get(v.dtype, 1) for v in values if v and min(v.shape, default=1) > 0
    )


def _wider(profile: Profile, node: Node, layer: Layer) -> list[Layer]:
    """Return the layer with its channels rounded up to whole blocks, each width once.

    What the model reads and answers keeps its width: the columns of a table, the classes.
    """
    if layer.operator == "ConvTranspose" or (groups(layer) > 1 and not is_depthwise(layer)):
        return []
    free_in = node.inputs[0] in profile.maker
    free_out = not set(node.outputs) & profile.outputs
    found: list[Layer] = []
    for block in MULTIPLES:
        wider = _rounded(layer, block if free_in else 1, block if free_out else 1)
        if wider not in (layer, *found):
            found.append(wider)
    return found


def _rounded(layer: Layer, block_in: int, block_out: int) -> Layer:
    """Return the layer with channels in and out rounded up to multiples of the blocks.

    >>> _rounded(Layer("Conv", "float", (1, 63, 8, 8), (30, 63, 3, 3)), 8, 16)
    Layer(operator='Conv', form='float', input=(1, 64, 8, 8), weights=(32, 64, 3, 3), attributes={})
    """
    if layer.operator == "MatMul":
        inner, columns = layer.weights
        inner, columns = _up(inner, block_in), _up(columns, block_out)
        return replace(layer, input=(*layer.input[:-1], inner), weights=(inner, columns))
    batch, channels, *size = layer.input
    filters, depth, *kernel = layer.weights
    channels = channels if channels <= FEW_CHANNELS else _up(channels, block_in)
    if is_depthwise(layer):
        filters = filters // layer.input[1] * channels
        attributes = {**layer.attributes, "group": channels}
        return replace(
            layer,
            input=(batch, channels, *size),
            weights=(filters, depth, *kernel),
            attributes=attributes,
        )
    weights = (_up(filters, block_out), channels, *kernel)
    return replace(layer, input=(batch, channels, *size), weights=weights)


def _up(count: int, block: int) -> int:
    return -(-count // block) * block


def _widths(layer: Layer) -> str:
    """Name a width by channels in and out."""
    if layer.operator == "MatMul":
        return f"{layer.weights[0]} to {layer.weights[1]}"
    return f"{layer.input[1]} to {layer.weights[0]}"


def _denser(layer: Layer) -> dict[str, Layer]:
    """Return the plain convolution that could stand in for a grouped or transposed one.

    Of a grouped one, that without groups: more work, and often less time. Of a transposed one,
    that with as many multiplications, on the smaller side.
    """
    if layer.operator == "ConvTranspose" and groups(layer) == 1:
        channels, filters, *kernel = layer.weights
        pads = [size // 2 for size in kernel] + [(size - 1) // 2 for size in kernel]
        weights = (filters, channels, *kernel)
        return {"plain": Layer("Conv", layer.form, layer.input, weights, {"pads": pads})}
    if layer.operator == "Conv" and groups(layer) > 1 and not is_depthwise(layer):
        filters, _, *kernel = layer.weights
        weights = (filters, layer.input[1], *kernel)
        attributes = {**layer.attributes, "group": 1}
        return {"plain": replace(layer, weights=weights, attributes=attributes)}
    return {}
