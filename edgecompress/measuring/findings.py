"""The rules: what makes a model slow, read from its profile and from trials of its layers.

Pure functions of an `Evidence`. Each yields at most one finding for its cause, and only when that
touches `SHARE` of the time, or where something was measured beside, when it would win `SAVING`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgecompress.measuring.explained import Answer, Cause, Finding, Node, Profile
from edgecompress.measuring.pairs import Pairs
from edgecompress.measuring.questions import groups, layer_of

# Of the sound models in benchmarks/explain none reaches it, of those made slow all do; below it a
# finding would not be worth anybody's work.
SHARE = 0.10
SAVING = 0.10
MOVING = 0.60  # of a layer's time; so much explained by its bytes alone makes it memory-bound
MEMORY_SHARE = 0.40  # less of it is the lot of every model
OVERHEAD_SHARE = 0.25
OVERHEAD_NODES = 50
# Into blocks and back; from channels first to last and back, in two dimensions and in one.
_REORDERS = ("ReorderInput", "ReorderOutput")
_CHANGES_OF_LAYOUT = ([0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 1])


@dataclass(frozen=True)
class Evidence:
    """Hold a profile and the answers to the questions about its layers."""

    profile: Profile
    answers: Sequence[Answer] = ()

    @cached_property
    def pairs(self) -> Pairs:
        """Return what the graph's conversions to and from int8 surround."""
        return Pairs(self.profile)

    @cached_property
    def _answer(self) -> dict[int, Answer]:
        return {place: answer for answer in self.answers for place in answer.nodes}

    def gains(self, variant: str) -> list[tuple[Node, float]]:
        """Return the nodes that `variant` makes faster, and by what share of their time."""
        found = [(self.profile.nodes[i], a.gain(variant)) for i, a in self._answer.items()]
        return [(node, gain) for node, gain in found if gain > 0]

    def widths(self) -> list[tuple[Node, str, float]]:
        """Return the nodes that other channel counts make faster: the best ones, and the gain."""
        found = []
        for place, answer in self._answer.items():
            best = max((n for n in answer.timings if " to " in n), key=answer.gain, default="")
            if best and answer.gain(best) > 0:
                found.append((self.profile.nodes[place], best, answer.gain(best)))
        return found

    def moves(self) -> list[tuple[Node, float]]:
        """Return the nodes whose bytes were timed, and the share of their time that explains."""
        return [
            (node, answer.timings["move"].ms / node.ms)
            for place, answer in self._answer.items()
            if "move" in answer.timings and (node := self.profile.nodes[place]).ms > 0
        ]

    def finding(
        self,
        cause: Cause,
        layers: Iterable[Node],
        saved_ms: float | None,
        why: str,
        advice: str,
    ) -> Finding:
        """Return a finding about these layers."""
        nodes = list(dict.fromkeys(layers_by_time(layers)))
        saving = None if saved_ms is None else self.profile.share(saved_ms)
        share = self.profile.share(sum(node.ms for node in nodes))
        return Finding(
            cause,
            max(share, saving or 0.0),
            saving,
            tuple(node.name for node in nodes),
            why,
            advice,
        )


def findings(profile: Profile, answers: Sequence[Answer] = ()) -> tuple[Finding, ...]:
    """Return all that makes the model slow, the largest saving first; nothing for a sound one."""
    evidence = Evidence(profile, answers)
    rules = (
        _unfused_pairs,
        _weights_dequantized,
        _no_int8_kernel,
        _dynamic_int8,
        _slower_in_int8,
        _signed_activations,
        _channel_width,
        _slow_kernel,
        _half_precision,
        _layout,
        _memory_bound,
        _overhead,
    )
    found = [finding for rule in rules for finding in rule(evidence)]
    weight = {id(f): f.share if f.saving is None else f.saving for f in found}
    return tuple(sorted(found, key=lambda f: -weight[id(f)]))


def layers_by_time(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes, the slowest first."""
    return sorted(nodes, key=lambda node: -node.ms)


def _unfused_pairs(evidence: Evidence) -> Iterator[Finding]:
    """Find operators with an int8 kernel that run in float between pairs that did not fuse.

    What would be won is the pairs' own time, and what the operator is slower in float than in int8.
    """
    pairs = evidence.pairs
    elsewhere = pairs.unfused_for(pairs.WEIGHTS_ONLY, pairs.SIGNED)
    reasons = {n: pairs.reason(n) for n in pairs.unfused if n not in elsewhere}
    around = pairs.around(reasons)
    faster = sum(n.ms * gain for n, gain in evidence.gains("unsigned") if n in reasons)
    saved = sum(node.ms for node in around) + faster
    if evidence.profile.share(saved) >= SAVING:
        why = "; ".join(f"{_count(r, reasons.values())}: {r}" for r in _by_count(reasons.values()))
        yield evidence.finding(
            "unfused-pairs",
            [*reasons, *around],
            saved,
            f"pairs of QuantizeLinear and DequantizeLinear that did not fuse, with "
            f"{_operators(reasons)} computed in float between them: {why}",
            "quantize input and output of these layers in one 8-bit type (unsigned on x86), "
            "with nothing but Relu or Clip before the QuantizeLinear; or leave them float, "
            "without pairs",
        )


def _weights_dequantized(evidence: Evidence) -> Iterator[Finding]:
    """Find int8 weights that every call unpacks to float, as no activation is quantized."""
    pairs = evidence.pairs
    nodes = pairs.unfused_for(pairs.WEIGHTS_ONLY)
    around = pairs.around(nodes)
    gains = {n: g for n, g in evidence.gains("packed") if n in nodes}
    saved = sum(gain * sum(m.ms for m in (n, *pairs.around([n]))) for n, gain in gains.items())
    if evidence.profile.share(saved) >= SAVING:
        yield evidence.finding(
            "weights-dequantized",
            [*nodes, *around],
            saved,
            f"the int8 weights of {_operators(nodes)} are unpacked to float in every call, for "
            f"their activations are not quantized: {_times(gains.values())} as long as with float "
            "weights, timed alone",
            "quantize the activations too (static int8), or ship the float weights",
        )


def _no_int8_kernel(evidence: Evidence) -> Iterator[Finding]:
    """Find operators that ONNX Runtime has in float only, behind conversions in an int8 model."""
    pairs = evidence.pairs
    nodes = pairs.without_kernel
    around = pairs.around(nodes)
    if evidence.profile.share(sum(n.ms for n in {*nodes, *around})) >= SHARE:
        yield evidence.finding(
            "no-int8-kernel",
            [*nodes, *around],
            None,
            f"no int8 kernel here for {_operators(nodes)}: computed in float, with values "
            "converted before and after",
            "replace it by an operator with an int8 kernel (Relu or LeakyRelu for other "
            "activations, Resize and Conv for ConvTranspose), or leave its surroundings float",
        )


def _dynamic_int8(evidence: Evidence) -> Iterator[Finding]:
    """Find dynamic int8 layers that are slower than float, with the ranges found in each call."""
    pairs = evidence.pairs
    gains = {n: g for n, g in evidence.gains("float") if n.operator.endswith("Integer")}
    around = pairs.dynamic(gains)
    saved = sum(n.ms * gain for n, gain in gains.items()) + sum(n.ms for n in around)
    if gains and evidence.profile.share(saved) >= SAVING:
        yield evidence.finding(
            "dynamic-int8",
            [*gains, *around],
            saved,
            f"dynamic int8: {_operators(gains)} took {_times(gains.values())} as long as in float "
            "when timed alone, and each call looks for the ranges of its activations",
            "quantize statically with calibration data, or leave these layers float",
        )


def _slower_in_int8(evidence: Evidence) -> Iterator[Finding]:
    """Find static int8 layers that are slower than the float layer with its output quantized.

    Those that are slow for another measured reason (signed, grouped) are named there.
    """
    named = {node for v in ("unsigned", "plain") for node, _ in evidence.gains(v)}
    gains = {n: g for n, g in evidence.gains("mixed") if n not in named}
    saved = sum(n.ms * gain for n, gain in gains.items())
    if evidence.profile.share(saved) >= SAVING:
        yield evidence.finding(
            "slower-in-int8",
            gains,
            saved,
            f"the int8 kernel of {_operators(gains)} took {_times(gains.values())} as long as the "
            "float one and its conversions, timed alone on this machine",
            "exclude these layers from quantization",
        )


def _signed_activations(evidence: Evidence) -> Iterator[Finding]:
    """Find layers with signed activations that are faster with unsigned ones on this machine.

    Either their int8 kernel is slower, or there is none and their pairs did not even fuse.
    """
    pairs = evidence.pairs
    unfused = pairs.unfused_for(pairs.SIGNED)
    around = pairs.around(unfused)
    mixed = set(pairs.unfused) - set(unfused)
    gains = {n: g for n, g in evidence.gains("unsigned") if n not in mixed}
    saved = sum(n.ms * gain for n, gain in gains.items()) + sum(n.ms for n in around)
    if evidence.profile.share(saved) >= SAVING:
        nodes = {**gains, **unfused}
        slower = f", {_times(gains.values())} as long as with unsigned ones" if gains else ""
        yield evidence.finding(
            "signed-activations",
            [*nodes, *around],
            saved,
            f"signed activations: {_operators(nodes)}{slower}, timed alone on this machine"
            + (f"; float for it, between conversions: {len(unfused)}" * bool(unfused)),
            "quantize again with unsigned activations and signed weights "
            "(activation_type=QUInt8, weight_type=QInt8)",
        )


def _channel_width(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that get faster when wider: their channels miss the block of the kernel."""
    wider = evidence.widths()
    saved = sum(node.ms * gain for node, _, gain in wider)
    if evidence.profile.share(saved) >= SAVING:
        shown = sorted(wider, key=lambda found: -found[0].ms * found[2])[:3]
        examples = ", ".join(f"{node.name} {width}" for node, width, _ in shown)
        yield evidence.finding(
            "channel-width",
            [node for node, _, _ in wider],
            saved,
            f"channel counts that miss the kernel's block: {len(wider)} layers took "
            f"{_times([gain for _, _, gain in wider])} as long as wider ones, timed alone "
            f"(faster with channels {examples})",
            "round the channels up to these widths, or down to the next block (round_to = 16 "
            "when pruning)",
        )


def _slow_kernel(evidence: Evidence) -> Iterator[Finding]:
    """Find grouped or transposed convolutions that a plain one of as much or more work beats."""
    gains = dict(evidence.gains("plain"))
    saved = sum(n.ms * gain for n, gain in gains.items())
    if evidence.profile.share(saved) >= SAVING:
        layers = [layer for node in gains if (layer := layer_of(evidence.profile, node))]
        grouped = any(groups(layer) > 1 for layer in layers)
        kind = "grouped convolutions have" if grouped else "the transposed convolution has"
        plain = "without groups, which does more work" if grouped else "of as much work"
        yield evidence.finding(
            "slow-kernel",
            gains,
            saved,
            f"{kind} a slow kernel: {_operators(gains)} took {_times(gains.values())} as long as a "
            f"plain convolution {plain}, timed alone",
            "use plain or depthwise convolutions" if grouped else "use Resize and a convolution",
        )


def _half_precision(evidence: Evidence) -> Iterator[Finding]:
    """Find a float16 model that is slower than the same one in float32, timed beside it."""
    profile = evidence.profile
    saved = profile.call_ms - (profile.float32_ms or profile.call_ms)
    if profile.share(saved) >= SAVING:
        casts = [node for node in profile.nodes if node.operator == "Cast"]
        yield evidence.finding(
            "half-precision",
            casts,
            saved,
            f"float16 has few kernels on this processor: values are cast to float32 and back, and "
            f"layers that belong together do not fuse; in float32 a call took "
            f"{profile.float32_ms:.3g} ms instead of {profile.call_ms:.3g}",
            "export in float32 for this processor, or quantize to int8",
        )


def _layout(evidence: Evidence) -> Iterator[Finding]:
    """Find transposes between channels first and channels last in a convolutional network."""
    profile = evidence.profile
    if not any("Conv" in node.operator for node in profile.nodes):
        return
    nodes = [
        node
        for node in profile.nodes
        if (node.operator == "Transpose" and node.attributes.get("perm") in _CHANGES_OF_LAYOUT)
        or node.operator in _REORDERS
    ]
    saved = sum(node.ms for node in nodes)
    if profile.share(saved) >= SHARE:
        yield evidence.finding(
            "layout",
            nodes,
            saved,
            f"{len(nodes)} changes of layout ({_operators(nodes)}): channels first, last or in "
            "blocks, as each operator wants them",
            "export channels first from end to end (tf2onnx: --inputs-as-nchw), without reshapes, "
            "transposes and channels-last operators between the convolutions",
        )


def _memory_bound(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose bytes explain their time: a copy of as many takes nearly as long."""
    profile = evidence.profile
    nodes = [node for node, explained in evidence.moves() if explained >= MOVING]
    if profile.share(sum(node.ms for node in nodes)) >= MEMORY_SHARE:
        yield evidence.finding(
            "memory-bound",
            nodes,
            None,
            f"memory-bound: {_operators(nodes)} take about as long as copying their bytes does "
            "on this machine; more arithmetic speed would not help",
            "move fewer bytes: int8, smaller maps or weights, and fewer passes (fold scales and "
            "shifts into the convolutions before them)",
        )


def _overhead(evidence: Evidence) -> Iterator[Finding]:
    """Find graphs of so many small nodes that starting them takes most of the time."""
    profile = evidence.profile
    started = len(profile.nodes) * profile.node_ms
    if len(profile.nodes) >= OVERHEAD_NODES and started >= OVERHEAD_SHARE * profile.call_ms:
        small = [node for node in profile.nodes if node.ms < 10 * profile.node_ms]
        yield evidence.finding(
            "overhead",
            small,
            started,
            f"{len(profile.nodes)} nodes, most of them tiny: to start a node that does nothing "
            f"takes {profile.node_ms * 1e3:.2g} us here, {profile.share(started):.0%} of the call "
            "in all",
            "use one operator where there are many (LSTM, GRU or RNN for steps unrolled by hand; "
            "wider instead of more layers)",
        )


def _operators(nodes: Iterable[Node]) -> str:
    """Name the operators, the slowest first, without those that take next to nothing.

    >>> _operators([Node("a", "Add", "", (), (), {}, 1.0), Node("b", "Mul", "", (), (), {}, 2.0)])
    'Mul and Add'
    """
    ms: dict[str, float] = {}
    for node in nodes:
        ms[node.operator] = ms.get(node.operator, 0.0) + node.ms
    most = sum(ms.values())
    names = sorted((n for n, taken in ms.items() if taken >= 0.05 * most), key=lambda n: -ms[n])
    if len(names) > 3:
        names = [*names[:3], "others"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _times(gains: Iterable[float]) -> str:
    """Say how many times as long layers took that would save these shares.

    >>> _times([0.5]), _times([0.5, 0.75])
    ('2.0 times', '2.0 to 4.0 times')
    """
    ratios = sorted(1 / (1 - gain) for gain in gains)
    low, high = f"{ratios[0]:.1f}", f"{ratios[-1]:.1f}"
    return f"{low} times" if low == high else f"{low} to {high} times"


def _by_count(reasons: Iterable[str]) -> list[str]:
    listed = list(reasons)
    return sorted(dict.fromkeys(listed), key=lambda reason: -listed.count(reason))


def _count(reason: str, reasons: Iterable[str]) -> str:
    count = list(reasons).count(reason)
    return f"{count} layer{'s' if count > 1 else ''}"
