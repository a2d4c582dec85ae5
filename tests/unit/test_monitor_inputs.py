"""What a loop may hand to ``monitor``, against closed forms; and how wrong shapes and names are refused."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from present import present
from torch.distributions import Bernoulli, Beta, Categorical, Independent, Normal, kl_divergence
from torch.distributions.transformed_distribution import TransformedDistribution
from torch.distributions.transforms import TanhTransform

from esper_core.monitoring import MisuseError, Monitor
from esper_core.monitoring.ranks import Ranks
from esper_core.updates import UpdateSettings

pytestmark = pytest.mark.numeric


def loop(*heads: str, **options: Any) -> Monitor:
    """A monitor without a session: what it computes is the same."""
    return Monitor(UpdateSettings(heads=heads or ("action",), **options))


OLD = np.array([-0.7, -1.2, -0.4, -2.0])
NEW = np.array([-0.6, -1.3, -0.5, -1.8])
K3 = float(np.mean(np.expm1(NEW - OLD) - (NEW - OLD)))


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        np.asarray,
        lambda values: np.asarray(values, dtype=np.float32),
        lambda values: torch.tensor(values, dtype=torch.float64),
        lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True),
        lambda values: np.asarray(values)[:, None],
        lambda values: {"action": torch.tensor(values)},
        lambda values: [torch.tensor(value, requires_grad=True) for value in values],
    ],
)
def test_every_form_of_the_same_numbers_gives_the_same_kl(convert: Any) -> None:
    found = loop().kl(old=convert(OLD), new=convert(NEW))
    assert found.per_decision == pytest.approx(K3, rel=1e-5)
    assert found.joint == pytest.approx(K3, rel=1e-5)
    assert found.ratio_max == pytest.approx(math.exp(0.2), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_cast_up_before_they_are_subtracted(dtype: torch.dtype) -> None:
    old, new = torch.tensor(OLD).to(dtype), torch.tensor(NEW).to(dtype)
    r = new.double() - old.double()
    assert loop().kl(old=old, new=new).per_decision == pytest.approx(float((r.expm1() - r).mean()), rel=1e-6)
    assert loop().kl(old=list(old), new=list(new)).per_decision == loop().kl(old=old, new=new).per_decision


@pytest.mark.parametrize("kind", ["Categorical", "OneHotCategorical", "Bernoulli", "Normal", "Beta"])
def test_distributions_of_half_precision_are_compared_in_float32(kind: str) -> None:
    """The KL of two policies as they stand: computed in bfloat16, it is off by several times itself."""
    generator = torch.Generator().manual_seed(3)

    def made(narrow: torch.Tensor) -> Any:
        wide = torch.distributions
        if kind == "Normal":
            return wide.Normal(narrow[..., 0], narrow[..., 1].exp(), validate_args=False)
        if kind == "Beta":
            return wide.Beta(narrow[..., 0].exp(), narrow[..., 1].exp(), validate_args=False)
        logits = narrow[..., 0] if kind == "Bernoulli" else narrow
        return getattr(wide, kind)(logits=logits, validate_args=False)

    start = torch.randn(512, 4, generator=generator)
    moved = start + 0.05 * torch.randn(512, 4, generator=generator)
    old, new = made(start.bfloat16()), made(moved.bfloat16())
    names = {"Normal": ("loc", "scale"), "Beta": ("concentration1", "concentration0")}.get(kind, ("logits",))
    exact = [type(item)(**{name: getattr(item, name).double() for name in names}) for item in (old, new)]
    truth = float(kl_divergence(*exact).mean())
    assert loop().kl(old=old, new=new).per_decision == pytest.approx(truth, rel=1e-3)


def test_numbers_that_are_not_finite_are_counted_whatever_a_loop_has_made_of_numpys_warnings() -> None:
    both = np.array([-np.inf, -0.5])
    with np.errstate(all="raise"):
        assert loop().kl(old=both, new=both).non_finite == 1
        payload = loop(clip_range=0.2).ppo_update(old=both, new=both, advantages=[np.inf, 1.0], returns=[1.0, 2.0])
    assert payload is not None
    assert payload.non_finite == 1


def test_log_ratio_and_exact_values_are_taken_as_they_are() -> None:
    assert loop().kl(NEW - OLD).per_decision == pytest.approx(K3)
    exact = loop().kl(kl=[0.01, 0.03])
    assert exact.per_decision == pytest.approx(0.02)
    assert exact.ratio_max is None


def test_heads_are_columns_or_keys() -> None:
    run = loop("a", "b")
    columns = run.kl(old=np.stack([OLD, NEW], 1), new=np.stack([NEW, NEW], 1))
    keys = run.kl(old={"b": NEW, "a": OLD}, new={"a": NEW, "b": NEW})
    assert columns == keys
    assert list(columns.by_head) == [pytest.approx(K3), 0.0]
    assert columns.per_decision == pytest.approx(K3 / 2)
    assert columns.joint == pytest.approx(K3)


def test_a_mask_says_which_decisions_count_whatever_the_others_hold() -> None:
    run = loop("a", "b")
    ratio = np.array([[0.1, np.nan], [0.2, 0.3], [np.inf, -50.0]])
    mask = np.array([[1, 0], [1, 1], [0, 0]])
    found = run.kl(ratio, mask=mask)
    r = np.array([0.1, 0.2, 0.3])
    assert found.per_decision == pytest.approx(float(np.mean(np.expm1(r) - r)))
    assert found.stats.steps == 2, "a step on which nothing counts is no step"
    assert (found.clamped, found.non_finite) == (0, 0)
    assert run.kl(ratio, causal=mask, choices=np.full((3, 2), 4)) == found
    assert run.kl(ratio, choices=np.where(mask == 1, 4, 1)) == found
    rows = run.kl(np.array([[0.1, 0.2], [9.0, 9.0]]), mask=[True, False])
    assert rows.stats.decisions == (1.0, 1.0)


def test_what_is_out_of_bounds_is_counted() -> None:
    found = loop().kl([0.1, 25.0, math.nan, -30.0])
    assert (found.clamped, found.non_finite) == (2, 1)
    assert math.isnan(found.per_decision or 0.0)


def test_tokens_are_decisions_and_sequences_are_steps() -> None:
    run = loop("token", granularity="token")
    ratio = np.array([[0.1, 0.2, 9.0], [0.3, 9.0, 9.0]])
    mask = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
    found = run.kl(ratio, mask=mask)
    r = np.array([0.1, 0.2, 0.3])
    total = float(np.sum(np.expm1(r) - r))
    assert found.per_decision == pytest.approx(total / 3)
    assert found.joint == pytest.approx(total / 2), "per sequence"
    assert found.stats.weights == (1.5,)
    assert found.ratio_max == pytest.approx(math.exp(0.3))


# --- distributions --------------------------------------------------------------------------------


def _normal(scale: float, shift: float = 0.0) -> Normal:
    loc = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3) + shift
    return Normal(loc, torch.full_like(loc, scale))


def _expected_normal() -> torch.Tensor:
    return kl_divergence(_normal(1.0), _normal(1.1, 0.05))


@pytest.mark.parametrize(
    ("wrap", "heads"),
    [
        (lambda item: item, ("x", "y", "z")),
        (lambda item: Independent(item, 1), ("x", "y", "z")),
        (lambda item: TransformedDistribution(item, [TanhTransform(cache_size=1)]), ("x", "y", "z")),
    ],
)
def test_gaussians_are_exact_by_dimension_also_when_squashed(wrap: Any, heads: tuple[str, ...]) -> None:
    found = loop(*heads).kl(old=wrap(_normal(1.0)), new=wrap(_normal(1.1, 0.05)))
    expected = _expected_normal()
    assert found.by_head == pytest.approx(expected.mean(0).tolist(), rel=1e-9)
    assert found.joint == pytest.approx(float(expected.sum(-1).mean()), rel=1e-9)


def test_one_distribution_a_head() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    old = {"move": Categorical(logits=logits), "jump": Bernoulli(logits=logits[:, 0])}
    new = {"move": Categorical(logits=logits * 1.2), "jump": Bernoulli(logits=logits[:, 0] + 0.1)}
    run = loop("move", "jump")
    found = run.kl(old=old, new=new)
    assert found.by_head == pytest.approx([float(kl_divergence(old[name], new[name]).mean()) for name in old], rel=1e-9)
    assert run.kl(old=list(old.values()), new=list(new.values())) == found
    payload = run.ppo_update(old=old, new=new)
    assert payload is not None
    assert [head.kind for head in payload.heads] == ["categorical", "bernoulli"]
    assert payload.kl_estimator == "exact"
    assert payload.heads[0].entropy == pytest.approx(float(new["move"].entropy().mean()), rel=1e-6)
    assert payload.heads[0].entropy_normalised == pytest.approx(float(new["move"].entropy().mean()) / math.log(4))


def test_a_choice_that_the_mask_forbids_is_no_decision() -> None:
    logits = torch.tensor([[0.3, -torch.inf], [0.3, 0.1]], dtype=torch.float64)
    found = loop().kl(old=Categorical(logits=logits), new=Categorical(logits=logits * 1.5))
    assert found.stats.decisions == (1.0,)


def test_a_density_has_no_normalised_entropy() -> None:
    normal = [Normal(torch.zeros(4), torch.ones(4) * 0.01), Beta(torch.ones(4) * 2, torch.ones(4))]
    payload = loop("x", "y").ppo_update(old=normal, new=normal)
    assert payload is not None
    assert payload.entropy_normalised is None
    assert [head.entropy_normalised for head in payload.heads] == [None, None]
    assert payload.heads[0].entropy is not None
    assert payload.heads[0].entropy < 0, "differential"
    assert [head.kind for head in payload.heads] == ["gaussian", "beta"]


def test_a_head_that_is_missing_is_named() -> None:
    columns = {"x": np.zeros(3), "y": np.zeros(3)}
    with pytest.raises(MisuseError, match=r"old lacks the head push"):
        loop("x", "y", "push").kl(old=columns, new=columns)


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"old": np.zeros(5), "new": np.zeros((5, 1))}, r"old has shape \(5,\) and new has shape \(5, 1\)"),
        ({"old": np.zeros((5, 4)), "new": np.zeros((5, 4))}, r"old has shape \(5, 4\); needed is \(N,\) or \(N, 1\)"),
        ({"log_ratio": np.zeros(())}, r"log_ratio has shape \(\)"),
        (
            {"log_ratio": np.zeros(5), "mask": np.zeros(4)},
            r"mask has shape \(4,\), the log-.* have \(5, 1\)",
        ),
        ({"log_ratio": np.zeros(5), "mask": np.full(5, 0.5)}, r"mask must hold bools"),
        ({"log_ratio": np.zeros(5), "choices": np.ones(4)}, r"choices has shape \(4, 1\)"),
        ({"log_ratio": np.zeros(5), "choices": np.full(5, math.nan)}, r"choices must hold counts"),
        ({"log_ratio": ["a", "b"]}, r"log_ratio holds <U1, not numbers"),
        ({"log_ratio": [torch.zeros(2), torch.zeros(3)]}, r"log_ratio is a list of tensors that do not make one"),
        ({"log_ratio": torch.zeros(3).to_sparse()}, r"log_ratio is a tensor that holds no plain numbers"),
        ({"kl": OLD - NEW}, r"kl holds values down to -0\.2; an exact KL is never below 0"),
        ({"old": Categorical(torch.ones(5, 2)), "new": np.zeros(5)}, r"both be distributions"),
        ({"old": np.zeros(5), "new": Categorical(torch.ones(5, 2))}, r"both be distributions"),
        (
            {"old": Normal(torch.zeros(5, 1), 1.0), "new": Normal(torch.zeros(5), 1.0)},
            r"old has batch shape \(5, 1\) and new has batch shape \(5,\)",
        ),
        ({"log_ratio": [[1.0], [1.0, 2.0]]}, r"log_ratio is not an array of numbers"),
        ({"old": np.zeros(5)}, r"old is given without new"),
        ({"new": np.zeros(5)}, r"new is given without old"),
        ({}, r"give one of: .* \(none is given\)"),
        ({"log_ratio": np.zeros(5), "kl": np.zeros(5)}, r"given are log_ratio, kl"),
        ({"log_ratio": np.zeros(5), "mask": np.ones(5), "causal": np.ones(5)}, r"give mask, or causal and choices"),
        ({"old": {"acton": np.zeros(5)}, "new": {"acton": np.zeros(5)}}, r'head "acton".*did you mean "action"'),
        ({"old": {"action": np.zeros(5)}, "new": np.zeros(5)}, r"both be dicts"),
    ],
)
def test_wrong_input_is_one_sentence_that_names_it(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        loop().kl(**arguments)


def test_columns_without_names_are_refused() -> None:
    with pytest.raises(MisuseError, match=r"old has shape \(5, 3\); needed is \(N, 2\), a column for each of a, b"):
        loop("a", "b").kl(old=np.zeros((5, 3)), new=np.zeros((5, 3)))
    with pytest.raises(MisuseError, match=r"one column, for 2 heads \(a, b\)"):
        loop("a", "b").kl(old=np.zeros(5), new=np.zeros(5))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"polcy_loss": 0.1}, r'no field "polcy_loss", did you mean "policy_loss"'),
        ({"kl_divergence": 0.1}, r"kl_divergence is worked out"),
        ({"policy_loss": torch.zeros(3)}, r"policy_loss is Tensor; a number is needed"),
        ({"advantages": np.zeros(4)}, r"advantages holds 4 numbers, the log-probabilities have 5 rows"),
        ({"entropy": np.zeros(4)}, r"entropy has shape \(4, 1\)"),
        ({"env_steps": "many"}, r"env_steps is str"),
        ({"env_steps": math.nan}, r"env_steps is nan; a whole number from 0"),
        ({"rollout_steps": "many"}, r"rollout_steps is str"),
        ({"rollout_steps": -1}, r"rollout_steps is -1; a whole number from 0"),
        ({"divergences": {"reference": 0.1}}, r"divergences holds str; each must be an esper_core\.events\.Divergence"),
    ],
)
def test_fields_that_make_no_sense_are_refused_before_anything_is_emitted(more: dict[str, Any], message: str) -> None:
    run = loop()
    with pytest.raises(MisuseError, match=message):
        run.ppo_update(np.zeros(5), **more)
    assert run.counts.updates == 0
    assert run.ppo_update(np.zeros(5), divergences=None) is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.begin_update(epochs=0), r"epochs is 0; a whole number from 1"),
        (lambda run: run.begin_update(epochs=2, minibatches=-4), r"minibatches is -4"),
        (lambda run: run.stopped_early("0.1"), r"value is str"),
        (lambda run: run.stopped_early(0.1, epoch="last"), r"epoch is str"),
        (lambda run: run.episode(1.0, math.nan), r"length is nan"),
        (lambda run: run.episode(1.0, 3, env_index="left"), r"env_index is str"),
        (lambda run: run.progress(-1), r"env_steps is -1"),
    ],
)
def test_no_event_holds_what_a_journal_cannot_write(call: Any, message: str) -> None:
    run = loop()
    with pytest.raises(MisuseError, match=message):
        call(run)
    payload = present(run.ppo_update(np.zeros(5), rollout_steps=torch.tensor(7)))  # type: ignore[arg-type]  # a number of any kind
    assert (payload.outcome, payload.minibatches_planned, run.counts.episodes) == ("completed", 1, 0)
    assert type(payload.steps_per_s) is float


@settings(deadline=None, max_examples=60)
@given(
    ratios=st.lists(
        st.lists(st.floats(-3, 3), min_size=3, max_size=3),
        min_size=1,
        max_size=20,
    ),
    parts=st.integers(1, 4),
)
def test_ranks_that_share_the_samples_report_the_whole(ratios: list[list[float]], parts: int) -> None:
    """Sums over ranks, empty ones among them: the same as one process with all samples."""
    values = np.array(ratios)
    pieces = np.array_split(values, parts)
    whole = loop("a", "b", "c").kl(values)
    vectors: list[Any] = []

    def collect(vector: Any, how: str) -> Any:
        vectors.append((how, vector))
        return vector

    for rank, piece in enumerate(pieces):
        run = Monitor(UpdateSettings(heads=("a", "b", "c")), ranks=Ranks(rank, parts + 1, collect))
        run.kl(piece)
    sums = np.sum([vector for how, vector in vectors if how == "sum"], axis=0)
    assert sums[:3] == pytest.approx(np.array(whole.stats.numerators), rel=1e-9, abs=1e-12)
    assert sums[3:6].tolist() == list(whole.stats.decisions)
    largest = [float(vector[0]) for how, vector in vectors if how == "max"]
    assert set(largest[::2]) == {0.0}, "each rank says first that it has read what it was given"
    assert math.exp(max(largest[1::2])) == pytest.approx(whole.ratio_max)


class Broken:
    """An array that cannot be fetched."""

    def detach(self) -> Any:
        raise OSError("no device any more")


def both_ranks(bad: Any, advantages: Any, *, strict: bool) -> list[list[Any]]:
    """What two ranks in threads answer, joined as a process group joins them: each collective waits for both.

    The second rank gives ``bad`` and ``advantages`` where the first gives what is right.
    """
    barrier, given = threading.Barrier(2, timeout=250), [np.zeros(1)] * 2
    answers: list[list[Any]] = [[], []]

    def rank(number: int) -> None:
        def reduce(vector: Any, how: str) -> Any:
            given[number] = vector
            barrier.wait()
            joined = given[0] + given[1] if how == "sum" else np.maximum(*given)
            barrier.wait()
            return joined

        run = Monitor(UpdateSettings(heads=("action",)), ranks=Ranks(number, 2, reduce), strict=strict, say=print)
        good = np.zeros(3)
        for call in (
            lambda: run.too_far(bad if number else good),
            lambda: run.ppo_update(bad if number else good),
            lambda: run.ppo_update(good, advantages=advantages if number else good),
            lambda: run.ppo_update([0.1]),
        ):
            try:
                answers[number].append(call())
            except MisuseError as error:
                answers[number].append(str(error))

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    assert [answer.pop().steps for answer in answers] == [2, 2], "in the end the ranks are together again"
    return answers


def test_wrong_arguments_on_one_rank_leave_no_other_waiting() -> None:
    first, second = both_ranks(np.zeros((3, 2)), [1.0], strict=True)
    assert first == ["another rank's arguments were wrong, as that rank says itself"] * 3
    assert [said.partition(";")[0] for said in second] == [
        "log_ratio has shape (3, 2)",
        "log_ratio has shape (3, 2)",
        "advantages holds 1 numbers, the log-probabilities have 3 rows",
    ]
    assert both_ranks(np.zeros((3, 2)), [1.0], strict=False) == [[False, None, None]] * 2


def test_a_fault_on_one_rank_raises_on_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert both_ranks(Broken(), Broken(), strict=True) == [[False, None, None]] * 2
    told = capsys.readouterr().out
    assert "too_far failed, training goes on without it: OSError: no device any more" in told
    assert "too_far failed, training goes on without it: RuntimeError: another rank failed" in told
