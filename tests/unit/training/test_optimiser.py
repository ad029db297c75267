"""AdamW with master weights: the update itself, precision, and resume."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from gazetteer.errors import CheckpointError
from gazetteer.training.optimiser import MasterWeightAdamW

SETTINGS = {"learning_rate": 1e-2, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1}


def random_tensors(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, generator=generator) for _ in range(count)]


def adamw_by_hand(
    weights: np.ndarray, gradients: list[np.ndarray], rates: list[float]
) -> np.ndarray:
    """Algorithm 2 of the paper, in float64; the decay is scaled by the learning rate."""
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        corrected = mean / (1 - 0.9**step)
        root = np.sqrt(square / (1 - 0.95**step)) + 1e-6
        weights = weights - rate * 0.1 * weights - rate * corrected / root
    return weights


def run_steps(optimiser: MasterWeightAdamW, gradients: list[torch.Tensor]) -> None:
    for gradient in gradients:
        for parameter in optimiser.parameters:
            parameter.grad = gradient.to(parameter.dtype)
        optimiser.step()


def mixed_model(seed: int = 7) -> nn.ParameterDict:
    half, full = random_tensors(2, seed)
    return nn.ParameterDict({"narrow": nn.Parameter(half.bfloat16()), "wide": nn.Parameter(full)})


def mixed_optimiser(model: nn.Module) -> MasterWeightAdamW:
    return MasterWeightAdamW(model.named_parameters(), **SETTINGS)


def test_ten_steps_equal_the_formula_by_hand():
    start, *gradients = random_tensors(11)
    rates = [1e-2 * (step + 1) / 10 for step in range(10)]
    weights = nn.Parameter(start.clone())
    optimiser = MasterWeightAdamW([("weights", weights)], **SETTINGS)
    for gradient, rate in zip(gradients, rates, strict=True):
        weights.grad = gradient.clone()
        optimiser.set_learning_rate(rate)
        optimiser.step()
    expected = adamw_by_hand(start.double().numpy(), [g.double().numpy() for g in gradients], rates)
    np.testing.assert_allclose(weights.detach().numpy(), expected, atol=1e-6, rtol=0)


def test_biases_and_norms_decay_too():
    """With a zero gradient only the decay moves a weight, and it moves all of them."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    nn.init.ones_(model[0].bias)
    optimiser = mixed_optimiser(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(model[0].bias.detach(), torch.full((2,), 0.999))
    torch.testing.assert_close(model[1].weight.detach(), torch.full((2,), 0.999))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_float32_training_rounded(dtype):
    start, *gradients = random_tensors(6)
    gradients = [gradient.to(dtype).float() for gradient in gradients]
    half, full = nn.Parameter(start.to(dtype)), nn.Parameter(start.to(dtype).float())
    run_steps(MasterWeightAdamW([("weights", half)], **SETTINGS), gradients)
    run_steps(MasterWeightAdamW([("weights", full)], **SETTINGS), gradients)
    assert half.dtype == dtype
    assert torch.equal(half.detach(), full.detach().to(dtype))


def test_updates_below_the_resolution_of_bfloat16_add_up():
    settings = SETTINGS | {"learning_rate": 1e-4, "weight_decay": 0.0}
    weights = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimiser = MasterWeightAdamW([("weights", weights)], **settings)
    run_steps(optimiser, [torch.ones(1)])
    assert weights.item() == 1.0
    run_steps(optimiser, [torch.ones(1)] * 99)
    assert weights.item() == pytest.approx(0.99, abs=4e-3)
    assert optimiser.state_tensors()["weights.master"].item() == pytest.approx(0.99, abs=1e-5)


def test_float32_parameters_are_their_own_master():
    tensors = mixed_optimiser(mixed_model()).state_tensors()
    assert set(tensors) == {"narrow.master"}
    assert tensors["narrow.master"].dtype == torch.float32


def test_scaled_gradients_give_the_update_of_true_ones():
    gradients = random_tensors(3, seed=9)
    plain, scaled = mixed_model(), mixed_model()
    run_steps(mixed_optimiser(plain), gradients)
    optimiser = mixed_optimiser(scaled)
    for gradient in gradients:
        for parameter in scaled.parameters():
            parameter.grad = (1024 * gradient).to(parameter.dtype)
        optimiser.step(gradient_scale=1024.0)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, scaled[name])


def test_gradients_that_float16_cannot_hold_unscaled_still_move_the_weights():
    weights = nn.Parameter(torch.ones(1, dtype=torch.float16))
    optimiser = MasterWeightAdamW([("weights", weights)], **(SETTINGS | {"epsilon": 1e-12}))
    weights.grad = torch.full((1,), 1e-4, dtype=torch.float16)
    optimiser.step(gradient_scale=2.0**16)
    moment = optimiser.state_tensors()["weights.exp_avg"].item()
    assert moment == pytest.approx(0.1 * 1e-4 / 2**16, rel=1e-3)


def test_parameter_without_gradient_is_left_alone():
    model = mixed_model()
    optimiser = mixed_optimiser(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model["wide"].grad = torch.ones(3, 4)
    optimiser.step()
    assert torch.equal(model["narrow"], before["narrow"])
    assert not torch.equal(model["wide"], before["wide"])
    assert "narrow.exp_avg" not in optimiser.state_tensors()


def test_step_leaves_no_stale_gradient_for_a_parameter_that_has_none_next_time():
    model = mixed_model()
    optimiser = mixed_optimiser(model)
    run_steps(optimiser, random_tensors(1))
    before = {key: tensor.clone() for key, tensor in optimiser.state_tensors().items()}
    optimiser.zero_grad()
    optimiser.step()
    after = optimiser.state_tensors()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_zero_grad_frees_or_fills():
    model = mixed_model()
    optimiser = mixed_optimiser(model)
    model["wide"].grad = torch.ones(3, 4)
    optimiser.zero_grad(set_to_none=False)
    assert model["wide"].grad.abs().sum() == 0
    optimiser.zero_grad()
    assert model["wide"].grad is None


def test_frozen_parameters_are_not_held():
    model = mixed_model()
    model["narrow"].requires_grad_(False)
    optimiser = mixed_optimiser(model)
    assert [id(p) for p in optimiser.parameters] == [id(model["wide"])]


def test_learning_rate_is_the_one_set_last():
    optimiser = mixed_optimiser(mixed_model())
    assert optimiser.learning_rate == 1e-2
    optimiser.set_learning_rate(0.5)
    assert optimiser.learning_rate == 0.5


def test_next_step_after_a_saved_and_loaded_state_is_bit_identical():
    *gradients, last = random_tensors(4, seed=11)
    model = mixed_model()
    optimiser = mixed_optimiser(model)
    run_steps(optimiser, gradients)
    written = save(optimiser.state_tensors())

    resumed_model = mixed_model(seed=99)
    resumed_model.load_state_dict(model.state_dict())
    resumed = mixed_optimiser(resumed_model)
    resumed.load_state_tensors(load(written))
    assert resumed.state_tensors()["narrow.step"].item() == 3

    run_steps(optimiser, [last])
    run_steps(resumed, [last])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed_model[name])
    after, resumed_after = optimiser.state_tensors(), resumed.state_tensors()
    assert after.keys() == resumed_after.keys()
    assert all(torch.equal(after[key], resumed_after[key]) for key in after)


def test_loaded_state_is_a_copy():
    model = mixed_model()
    optimiser = mixed_optimiser(model)
    run_steps(optimiser, random_tensors(1))
    tensors = {key: tensor.clone() for key, tensor in optimiser.state_tensors().items()}
    kept = {key: tensor.clone() for key, tensor in tensors.items()}
    optimiser.load_state_tensors(tensors)
    run_steps(optimiser, random_tensors(1))
    assert all(torch.equal(tensors[key], kept[key]) for key in kept)


def test_loading_a_state_from_before_the_first_step_forgets_later_ones():
    optimiser = mixed_optimiser(mixed_model())
    fresh = {key: tensor.clone() for key, tensor in optimiser.state_tensors().items()}
    run_steps(optimiser, random_tensors(2))
    optimiser.load_state_tensors(fresh)
    assert optimiser.state_tensors().keys() == fresh.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("wide.exp_avg"), "lacks wide.exp_avg"),
        (lambda t: t.pop("narrow.master"), "lacks narrow.master"),
        (lambda t: t.update(other=torch.zeros(1)), "unknown tensor other"),
        (
            lambda t: t.update({"wide.exp_avg": torch.zeros(2)}),
            r"wide.exp_avg is .*\[2\].*\[3, 4\]",
        ),
        (
            lambda t: t.update({"narrow.master": t["narrow.master"].bfloat16()}),
            "narrow.master is torch.bfloat16",
        ),
    ],
)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    optimiser = mixed_optimiser(mixed_model())
    run_steps(optimiser, random_tensors(1))
    before = {key: tensor.clone() for key, tensor in optimiser.state_tensors().items()}
    tensors = {key: tensor + 1 for key, tensor in before.items()}
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        optimiser.load_state_tensors(tensors)
    after = optimiser.state_tensors()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_name_used_twice_is_refused():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="weights is there twice"):
        MasterWeightAdamW([("weights", first), ("weights", second)], **SETTINGS)


def test_nothing_to_train_is_refused():
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(ValueError, match="no parameter needs a gradient"):
        MasterWeightAdamW([("frozen", frozen)], **SETTINGS)
