"""Clipping, the finite test, giving up, and the loss scale."""

import math

import pytest
import torch
from torch import nn

from gazetteer.errors import TrainingDivergedError
from gazetteer.training.gradients import LossScale, NonFiniteGuard, all_finite, clip_gradients


def parameter_with(gradient: list[float], dtype: torch.dtype = torch.float32) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(gradient), dtype=dtype))
    parameter.grad = torch.tensor(gradient, dtype=dtype)
    return parameter


def gradients_of(parameters: list[nn.Parameter]) -> list[float]:
    return [value for p in parameters for value in p.grad.tolist()]


def test_gradients_over_the_limit_are_shrunk_together():
    parameters = [parameter_with([3.0, 0.0]), parameter_with([4.0])]
    norm = clip_gradients(parameters, max_norm=1.0)
    assert norm.item() == pytest.approx(5.0)
    assert gradients_of(parameters) == pytest.approx([0.6, 0.0, 0.8], rel=1e-5)


def test_gradients_within_the_limit_keep_every_bit():
    parameters = [parameter_with([0.3, 0.1]), parameter_with([0.4], torch.bfloat16)]
    before = gradients_of(parameters)
    clip_gradients(parameters, max_norm=1.0)
    assert gradients_of(parameters) == before


def test_clips_like_torch():
    generator = torch.Generator().manual_seed(0)
    ours = [parameter_with(torch.randn(5, generator=generator).tolist()) for _ in range(4)]
    torchs = [parameter_with(p.grad.tolist()) for p in ours]
    norm = clip_gradients(ours, max_norm=0.5)
    expected = torch.nn.utils.clip_grad_norm_(torchs, 0.5)
    torch.testing.assert_close(norm, expected)
    assert gradients_of(ours) == pytest.approx(gradients_of(torchs), rel=1e-6)


def test_norm_of_half_precision_gradients_is_float32():
    """bfloat16 would stop counting at 256 * 1, and float16 overflow."""
    many = [parameter_with([1.0] * 1000, torch.bfloat16) for _ in range(3)]
    norm = clip_gradients([*many, parameter_with([300.0] * 2, torch.float16)], max_norm=1e9)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(math.sqrt(3000 + 2 * 300**2), rel=1e-6)


def test_mixed_dtypes_count_as_one_vector_and_keep_their_dtypes():
    parameters = [
        parameter_with([3.0], torch.bfloat16),
        parameter_with([4.0]),
        parameter_with([12.0], torch.float64),
    ]
    norm = clip_gradients(parameters, max_norm=1.3)
    assert norm.item() == pytest.approx(13.0)
    assert gradients_of(parameters) == pytest.approx([0.3, 0.4, 1.2], rel=4e-3)
    assert [p.grad.dtype for p in parameters] == [torch.bfloat16, torch.float32, torch.float64]


def test_scaled_gradients_are_clipped_as_if_they_were_not():
    parameters = [parameter_with([3.0 * 1024, 4.0 * 1024])]
    norm = clip_gradients(parameters, max_norm=1.0, gradient_scale=1024.0)
    assert norm.item() == pytest.approx(5.0)
    assert gradients_of(parameters) == pytest.approx([0.6 * 1024, 0.8 * 1024], rel=1e-5)


def test_infinite_limit_only_measures():
    parameters = [parameter_with([3.0, 4.0])]
    assert clip_gradients(parameters, max_norm=float("inf")).item() == 5.0
    assert gradients_of(parameters) == [3.0, 4.0]


def test_parameters_without_gradient_are_passed_over():
    bare = nn.Parameter(torch.zeros(2))
    assert clip_gradients([bare], max_norm=1.0).item() == 0.0
    assert clip_gradients([bare, parameter_with([2.0])], max_norm=5.0).item() == 2.0
    assert bare.grad is None


def test_norm_of_nothing_is_zero_where_the_parameters_are():
    on_meta = nn.Parameter(torch.zeros(2, device="meta"))
    assert clip_gradients([on_meta], max_norm=1.0).device.type == "meta"
    assert clip_gradients([], max_norm=1.0).item() == 0.0


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bad_gradient_makes_the_norm_not_finite(value, dtype):
    norm = clip_gradients(
        [parameter_with([1.0]), parameter_with([0.0, value], dtype)], max_norm=1.0
    )
    assert not all_finite(norm)


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match="max_norm must be positive"):
        clip_gradients([parameter_with([1.0])], max_norm=limit)


def test_all_finite_needs_every_value():
    good, bad = torch.tensor(1.0), torch.tensor(float("nan"), dtype=torch.bfloat16)
    assert all_finite(good, good)
    assert not all_finite(good, bad)


def test_guard_allows_finite_steps_and_skips_others():
    guard = NonFiniteGuard(max_in_a_row=2)
    assert guard.allows_update(True, step=1)
    assert not guard.allows_update(False, step=2)
    assert guard.allows_update(True, step=3)
    assert not guard.allows_update(False, step=4)
    assert (guard.in_a_row, guard.skipped) == (1, 2)


def test_guard_gives_up_naming_step_flag_and_limit():
    guard = NonFiniteGuard(max_in_a_row=3)
    guard.allows_update(False, step=10)
    guard.allows_update(False, step=11)
    with pytest.raises(TrainingDivergedError) as caught:
        guard.allows_update(False, step=12)
    message = str(caught.value)
    assert "step 12" in message and "--max_nonfinite_steps (3)" in message
    assert "\n" not in message


def test_guard_does_not_count_the_search_for_a_loss_scale_towards_giving_up():
    guard = NonFiniteGuard(max_in_a_row=1)
    for step in range(5):
        assert not guard.allows_update(False, step=step, is_expected=True)
    assert guard.skipped == 5
    with pytest.raises(TrainingDivergedError):
        guard.allows_update(False, step=5)


def test_guard_resumes_with_its_counts():
    guard = NonFiniteGuard(max_in_a_row=2)
    guard.allows_update(False, step=1)
    resumed = NonFiniteGuard(max_in_a_row=2)
    resumed.load_state_numbers(guard.state_numbers())
    with pytest.raises(TrainingDivergedError):
        resumed.allows_update(False, step=2)


def test_guard_must_allow_one_at_least():
    with pytest.raises(ValueError, match="max_in_a_row"):
        NonFiniteGuard(max_in_a_row=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_is_one_and_constant_where_the_range_is_wide(dtype):
    scale = LossScale.for_dtype(dtype)
    scale.update(False)
    scale.update(True)
    assert scale.scale == 1.0
    assert not scale.can_shrink


def test_float16_scale_halves_on_overflow_down_to_one():
    scale = LossScale.for_dtype(torch.float16)
    assert scale.scale == 2.0**16
    scale.update(False)
    assert scale.scale == 2.0**15
    for _ in range(15):
        assert scale.can_shrink
        scale.update(False)
    assert not scale.can_shrink
    scale.update(False)
    assert scale.scale == 1.0


def test_float16_scale_doubles_after_good_steps_in_a_row():
    scale = LossScale(scale=8.0, is_dynamic=True, growth_interval_steps=3)
    for is_finite in (True, True, False, True, True):
        scale.update(is_finite)
    assert scale.scale == 4.0
    scale.update(True)
    assert scale.scale == 8.0
    scale.update(True)
    assert scale.scale == 8.0


def test_float16_scale_stops_growing():
    scale = LossScale(scale=2.0**24, is_dynamic=True, growth_interval_steps=1)
    scale.update(True)
    assert scale.scale == 2.0**24


def test_resumed_scale_behaves_as_the_old_one():
    old = LossScale(scale=8.0, is_dynamic=True, growth_interval_steps=3)
    old.update(True)
    old.update(True)
    resumed = LossScale(is_dynamic=True, growth_interval_steps=3)
    resumed.load_state_numbers(old.state_numbers())
    resumed.update(True)
    assert resumed.scale == 16.0


def test_constant_scale_ignores_the_state_of_a_float16_run():
    constant = LossScale.for_dtype(torch.bfloat16)
    constant.load_state_numbers(LossScale.for_dtype(torch.float16).state_numbers())
    assert constant.scale == 1.0


def test_parts_of_gradients_have_the_norm_of_the_whole_to_the_last_bit():
    torch.manual_seed(4)
    shapes = [(3, 5), (7,), (2, 2), (4,)]
    dtypes = [torch.float32, torch.bfloat16, torch.float32, torch.bfloat16]
    whole = [nn.Parameter(torch.zeros(s, dtype=d)) for s, d in zip(shapes, dtypes, strict=True)]
    for parameter in whole[:3]:
        parameter.grad = torch.randn_like(parameter)
    expected = clip_gradients(whole, math.inf, gradient_scale=3.0)
    tables: list[torch.Tensor] = []
    for rank in range(2):
        # Rank 0 has the first, rank 1 the next two; the last has none anywhere.
        held = [nn.Parameter(p.detach().clone()) for p in whole]
        for number in [0] if rank == 0 else [1, 2]:
            held[number].grad = whole[number].grad
        clip_gradients(held, math.inf, add_up=lambda table: tables.append(table) or table)
    other = [nn.Parameter(p.detach().clone()) for p in whole]
    found = clip_gradients(other, math.inf, gradient_scale=3.0, add_up=lambda _: sum(tables))
    assert torch.equal(found, expected)
