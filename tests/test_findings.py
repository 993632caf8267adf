"""Why a model is slow: the questions asked of a profile, and the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiled import MAP, WEIGHTS, between_pairs, constant, floats, node, profile

from edgecompress.measuring.explained import Answer, Layer, Profile, Tensor, Timing
from edgecompress.measuring.findings import findings
from edgecompress.measuring.pairs import Pairs
from edgecompress.measuring.questions import _rounded, questions

FAST, SLOW = Timing((1.0, 1.1, 0.9)), Timing((2.0, 2.1, 1.9))


def causes(found: Profile, *answers: Answer) -> list[str]:
    return [finding.cause for finding in findings(found, answers)]


def reason(found: Profile) -> str:
    pairs = Pairs(found)
    return pairs.reason(pairs.unfused[0])


def test_a_sound_profile_gives_nothing() -> None:
    sound = profile(node("Conv", "x w", "f", 9.0), node("Relu", "f", "y"), tensors=floats("x", "f"))
    assert findings(sound) == ()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (between_pairs("uint8", "int8"), "reads uint8 and writes int8"),
        (between_pairs("int8", "int8"), "signed"),
        (between_pairs("uint16", "uint16"), "uint16 activations, and ONNX Runtime's int8 kernels"),
        (between_pairs(), "the scales or zero points of its pairs do not allow it"),
    ],
)
def test_a_pair_that_did_not_fuse_says_why(found: Profile, words: str) -> None:
    assert words in reason(found)


def test_a_missing_pair_is_told_from_one_that_did_not_fuse() -> None:
    known = {**floats("x", "f", "b"), "a": Tensor("uint8", MAP), "y": Tensor("uint8", MAP)}
    to_float, to_int8 = node("DequantizeLinear", "a s z", "x"), node("QuantizeLinear", "b s z", "y")
    conv, other = node("Conv", "x w", "f"), node("Softplus", "f", "b")
    assert reason(profile(to_float, conv, tensors=known)) == "its output is not quantized"
    assert reason(profile(to_float, conv, other, to_int8, tensors=known)) == (
        "Softplus stands between it and the QuantizeLinear"
    )
    added = node("Add", "x f", "b")
    assert reason(profile(to_float, added, to_int8, tensors=known)) == "an input is not quantized"


def test_pairs_count_as_what_they_take() -> None:
    (finding,) = findings(between_pairs("uint8", "int8"))
    assert finding.cause == "unfused-pairs"
    assert finding.saving == pytest.approx(2.1 / 7.1)
    assert finding.share == pytest.approx(1.0)
    assert finding.layers[0] == "f"
    assert "1 layer: reads uint8 and writes int8" in finding.why


def test_signed_pairs_are_a_cause_of_their_own() -> None:
    place = Answer((2,), {"own": SLOW, "unsigned": FAST})
    (finding,) = findings(between_pairs("int8", "int8"), [place])
    assert finding.cause == "signed-activations"
    assert finding.saving == pytest.approx((2.1 + 2.5) / 7.1)
    assert "float for it, between conversions: 1" in finding.why


def test_an_operator_without_int8_kernel_is_named() -> None:
    (finding,) = findings(between_pairs(operator="Softplus"))
    assert finding.cause == "no-int8-kernel"
    assert "Softplus" in finding.why
    last = profile(
        node("DequantizeLinear", "a s z", "x"),
        node("Softplus", "x", "y", 9.0),
        tensors={**floats("x", "y"), "a": Tensor("uint8", MAP)},
    )
    assert causes(last) == []  # a float end is no island


def test_int8_weights_alone_are_named_when_float_ones_are_faster() -> None:
    known = {**floats("x", "w", "y"), "w8": constant("int8", *WEIGHTS)}
    alone = profile(
        node("DequantizeLinear", "w8 s z", "w"), node("Conv", "x w", "y", 9.0), tensors=known
    )
    assert causes(alone) == []
    (finding,) = findings(alone, [Answer((1,), {"own": SLOW, "packed": FAST})])
    assert (finding.cause, finding.saving) == ("weights-dequantized", pytest.approx(0.5))
    assert "2.0 times as long" in finding.why


@pytest.mark.parametrize(
    ("operator", "variant", "cause"),
    [
        ("QLinearConv", "unsigned", "signed-activations"),
        ("QLinearConv", "mixed", "slower-in-int8"),
        ("QLinearConv", "plain", "slow-kernel"),
        ("ConvInteger", "float", "dynamic-int8"),
        ("Conv", "64 to 64", "channel-width"),
    ],
)
def test_a_cause_is_named_only_when_the_trial_was_faster_in_every_turn(
    operator: str, variant: str, cause: str
) -> None:
    found = profile(node(operator, "x w", "y", 9.0), node("Relu", "y", "z"))
    assert causes(found, Answer((0,), {"own": SLOW, variant: FAST})) == [cause]
    assert causes(found, Answer((0,), {"own": SLOW, variant: SLOW})) == []
    mostly = Timing((1.0, 1.0, 1.95))
    assert causes(found, Answer((0,), {"own": SLOW, variant: mostly})) == []
    assert causes(found, Answer((1,), {"own": SLOW, variant: FAST})) == []  # 10 % of the time


def test_float16_is_named_when_float32_is_faster() -> None:
    cast = profile(node("Cast", "x", "f"), node("Conv", "f w", "y", 3.0), float32_ms=2.0)
    (finding,) = findings(cast)
    assert (finding.cause, finding.saving, finding.share) == ("half-precision", 0.5, 0.5)
    assert causes(profile(*cast.nodes, float32_ms=3.9)) == []


def test_changes_of_layout_are_named_in_convolutional_networks_only() -> None:
    turn = node("Transpose", "x", "f", perm=[0, 2, 3, 1])
    assert causes(profile(turn, node("Conv", "f w", "y", 3.0))) == ["layout"]
    assert causes(profile(turn, node("MatMul", "f w", "y", 3.0))) == []
    heads = node("Transpose", "x", "f", perm=[0, 2, 1, 3])
    assert causes(profile(heads, node("Conv", "f w", "y", 3.0))) == []


def test_layers_that_a_copy_explains_are_memory_bound() -> None:
    found = profile(node("Add", "x x", "y", 1.5), node("Conv", "y w", "z", 1.5))
    assert causes(found, Answer((0,), {"move": FAST})) == ["memory-bound"]
    assert causes(found, Answer((0,), {"move": Timing((0.5,))})) == []


def test_many_tiny_nodes_are_overhead() -> None:
    tiny = [node("Add", "x", f"v{i}", 0.002) for i in range(60)]
    assert causes(profile(*tiny)) == ["overhead"]
    assert causes(profile(*tiny, node("Conv", "x w", "y", 1.0))) == []


def test_questions_ask_for_wider_layers_each_once() -> None:
    odd = {
        **floats("x", "a", "b", "y", shape=(1, 63, 4, 4)),
        "w": constant("float32", 63, 63, 3, 3),
    }
    pads = {"pads": [1, 1, 1, 1], "group": 1}
    found = profile(
        node("Relu", "i", "x"),
        node("Conv", "x w", "a", **pads),
        node("Conv", "a w", "b", **pads),
        node("Conv", "b w", "y", **pads),
        tensors=odd,
    )
    inner, last = questions(found)
    assert inner.nodes == (1, 2)
    assert list(inner.variants) == ["own", "64 to 64"]
    assert inner.variants["64 to 64"].weights == (64, 64, 3, 3)
    assert list(last.variants) == ["own", "64 to 63"]  # the model's output keeps its width


def test_questions_leave_small_and_even_layers_alone() -> None:
    even = {**floats("x", "y", shape=(1, 64, 4, 4)), "w": constant("float32", 64, 64, 3, 3)}
    assert questions(profile(node("Conv", "x w", "y"), tensors=even)) == ()
    odd = {"x": Tensor("float32", (1, 63)), "w": constant("float32", 63, 63)}
    tiny = profile(node("MatMul", "x w", "a", 0.01), node("Exp", "a", "y", 9.0), tensors=odd)
    assert questions(tiny) == ()


def test_questions_read_channels_last_and_transposed_weights() -> None:
    known = {
        "x": Tensor("int8", (1, 4, 5, 48)),
        "w": constant("int8", 32, 48, 1, 1),
        "g": Tensor("float32", (1, 20)),
        "m": constant("float32", 10, 20),
    }
    conv = node("QLinearConv", "x s z w s z", "a", channels_last=1)
    gemm = node("Gemm", "g m", "b", transB=1)
    signed, product = questions(profile(node("Relu", "q", "g"), conv, gemm, tensors=known))
    assert signed.variants["own"].input == (1, 48, 4, 5)
    assert set(signed.variants) == {"own", "unsigned", "mixed"}
    assert product.variants["own"].weights == (20, 10)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 4, 8, 16]))
def test_rounding_widens_to_whole_blocks(channels: int, filters: int, block: int) -> None:
    layer = Layer("Conv", "float", (1, channels, 8, 8), (filters, channels, 3, 3))
    wider = _rounded(layer, block, block)
    assert wider.weights[0] % block == 0
    assert 0 <= wider.weights[0] - filters < block
    assert wider.input[1] == wider.weights[1] == (channels if channels <= 4 else wider.input[1])
