"""What a recipe may say of mixing and of kept soft targets, and what it is told when it may not."""

import pytest

from edgecompress.errors import RecipeError
from edgecompress.recipe import load_recipe


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["distill.mixing=mixupp"], "distill.mixing: given \"mixupp\", expected 'none', 'mixup'"),
        (["distill.mixing_strength=1"], "given mixing_strength without mixing, which reads it"),
        (["distill.mixing=mixup", "distill.mixing_strength=0"], "mixing_strength: given 0, expect"),
        (
            ["distill.mixing=munge", "distill.mixing_strength=3"],
            "given mixing_strength = 3, but munge takes a value with that probability; expected at",
        ),
        (["distill.munge_spread=2"], "given munge_spread, which only munge reads; remove it"),
        (
            ["distill.loss=dkd", "distill.mixing=cutmix"],
            'given loss = "dkd" with mixing = "cutmix", but dkd needs one label for each sample',
        ),
        (
            ["distill.soft_targets=top"],
            'given soft_targets = "top", expected "fp32", "fp16" or "top-K" with a number',
        ),
        (
            [
                "distill.features={layers = [['a', 'b']]}",
                "distill.soft_targets=fp16",
            ],
            'given soft_targets = "fp16" with features, whose teacher is asked at every step, so',
        ),
        (["distill.soft_targets=top-0"], 'given soft_targets = "top-0", expected "fp32"'),
    ],
)
def test_a_wrong_key_is_refused_in_one_line(overrides: list[str], wanted: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(None, overrides)
    assert wanted in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("mixing", "strength"), [("mixup", 0.2), ("cutmix", 1.0), ("munge", 0.2), ("none", 0.2)]
)
def test_a_strength_left_out_is_the_methods(mixing: str, strength: float) -> None:
    recipe = load_recipe(None, [f"distill.mixing={mixing}", f"teacher.mixing={mixing}"])
    for settings in (recipe.distill, recipe.teacher):
        assert settings is not None
        assert settings.mixing_strength == strength
