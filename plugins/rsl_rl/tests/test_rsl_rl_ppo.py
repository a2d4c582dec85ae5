"""PPO through real trainings of a small environment: the number, the normaliser, episodes, ranks, refusals, no harm."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from present import payloads_of
from torch.distributions import Beta, Normal, kl_divergence

from esper_core import open_run
from esper_core.errors import UsageError
from esper_core.events import RunStarted
from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.loops, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
pytest.importorskip("rsl_rl", reason="rsl_rl is not installed (about 90 MiB): `make test-loops` installs it")

from rsl_rl.runners import OnPolicyRunner  # noqa: E402  # only where rsl_rl is

from esper_rsl_rl.check import Reaching, check, configuration  # noqa: E402  # as above
from esper_rsl_rl.policy import judge  # noqa: E402  # as above

torch.set_num_threads(1)  # two are many times slower on these small networks when the other core is busy

ROWS = 16 * 16


def runner_of(folder: Path, *, actor: dict[str, Any] | None = None, **changed: Any) -> Any:
    torch.manual_seed(0)
    esper = {"sinks": ["journal"], "settings": {"run": {"dir": str(folder)}}, **changed.pop("esper", {})}
    cfg = configuration(esper=esper, **changed)
    cfg["actor"] = cfg["actor"] | (actor or {})
    return OnPolicyRunner(Reaching(), cfg, device="cpu")


def acted(runner: Any) -> tuple[Any, Any]:
    """Observations and parameters of the rollout that the last update learned from; the storage keeps them."""
    storage = runner.alg.storage
    return storage.observations.flatten(0, 1), tuple(
        part.flatten(0, 1).double() for part in storage.distribution_params
    )


def test_every_update_reaches_the_journal_and_close_ends_the_run(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, esper={"name": "reach", "heads": ("hip", "knee", "foot")})
    before = runner.alg.run
    assert before is None, "who only plays leaves no run"
    runner.learn(2)
    runner.learn(1)
    runner.alg.close()
    run = open_run(runner.alg.run.path)
    updates = [event.payload for event in run.updates()]
    assert [update.update_id for update in updates] == [1, 2, 3]
    assert [update.env_steps for update in updates] == [ROWS, 2 * ROWS, 3 * ROWS]
    assert run.record is not None
    assert run.record.state is RunState.DONE
    (started,) = payloads_of(RunStarted, [next(run.events())])
    assert (started.run_name, started.kl_on, started.n_envs) == ("reach", "joint", 16)
    for update in updates:
        assert [(head.name, head.kind) for head in update.heads] == [
            (name, "gaussian") for name in ("hip", "knee", "foot")
        ]
        assert (update.kl_estimator, update.library, update.library_kl_name) == ("exact", "rsl-rl-lib", "kl_mean")
        assert update.kl_first_minibatch == pytest.approx(0.0, abs=1e-6)
        assert (update.epochs, update.minibatches, update.steps) == (5, 20, ROWS)
        assert update.library_kl is not None
        assert update.value_loss is not None
        assert update.divergences == ()


def beta_of(out: torch.Tensor) -> Beta:
    one, other = out.unbind(-2)
    return Beta(one, other)


def test_the_kl_is_that_of_the_policy_after_the_last_step(tmp_path: Path) -> None:
    """Against distributions made without rsl_rl, from the networks' own outputs."""
    kinds: dict[str, Callable[[Any, Any], Any]] = {
        "GaussianDistribution": lambda out, actor: Normal(out, actor.distribution.std_param),
        "HeteroscedasticGaussianDistribution": lambda out, _: Normal(out[..., 0, :], out[..., 1, :].clamp(1e-6)),
        "BetaDistribution": lambda out, _: beta_of(torch.nn.functional.softplus(out) + 1.0),
    }
    for name, made in kinds.items():
        runner = runner_of(tmp_path, actor={"distribution_cfg": {"class_name": name}})
        runner.learn(2)
        runner.alg.close()
        actor, last = runner.alg.get_policy(), runner.alg.last
        seen, parameters = acted(runner)
        before = (Beta if name.startswith("Beta") else Normal)(*parameters)
        with torch.no_grad():
            now = made(actor.mlp(seen["policy"]).double(), actor)
            expected, entropy = kl_divergence(before, now).mean(0), now.entropy().sum(-1).mean()
        assert [head.kl for head in last.heads] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-9), name
        assert last.kl_joint == pytest.approx(float(expected.sum()), rel=1e-4)
        assert last.entropy == pytest.approx(float(entropy), rel=1e-4)
        assert last.heads[0].kind == ("beta" if name.startswith("Beta") else "gaussian")
        assert runner.alg.run.counts.failures == 0


def test_what_the_normaliser_adds_is_a_divergence_and_sets_no_level(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, normalised=True)
    runner.learn(1)
    actor, last = runner.alg.get_policy(), runner.alg.last
    seen, parameters = acted(runner)
    with torch.no_grad():
        now = Normal(actor.mlp(actor.obs_normalizer(seen["policy"])).double(), actor.distribution.std_param.double())
        moved = float(kl_divergence(Normal(*parameters), now).sum(-1).mean())
    (found,) = last.divergences
    assert (found.name, found.reference, found.estimator) == ("with_normaliser", "normaliser", "exact")
    assert found.per_step == pytest.approx(moved, rel=1e-4)
    assert found.per_decision == pytest.approx(moved / 3, rel=1e-4)
    assert last.kl_joint < 0.2 * moved, "observations that are neither centred nor scaled"
    assert last.kl_measured == "after_last_step"
    runner.alg.close()


def test_episodes_are_summed_without_what_rsl_rl_adds_for_a_time_limit(tmp_path: Path) -> None:
    runner = runner_of(tmp_path)
    rewards: list[Any] = []
    step = runner.env.step

    def watched(actions: Any) -> Any:
        found = step(actions)
        rewards.append(found[1].double())
        return found

    runner.env.step = watched
    runner.learn(2)
    runner.alg.close()
    run = open_run(runner.alg.run.path)
    updates = [event.payload for event in run.updates()]
    assert [update.episodes for update in updates] == [16, 32], "of 16 environments, after 10, 20 and 30 of 32 steps"
    totals = torch.stack(rewards)
    assert updates[0].return_mean == pytest.approx(float(totals[:10].sum(0).mean()), rel=1e-6)
    both = torch.cat([totals[10:20].sum(0), totals[20:30].sum(0)])
    assert updates[1].return_min == pytest.approx(float(both.min()), rel=1e-6)
    assert updates[1].episode_length_mean == 10


def test_the_limits_follow_desired_kl_and_the_configuration_beats_them(tmp_path: Path) -> None:
    def limits(**changed: Any) -> tuple[float, float]:
        runner = runner_of(tmp_path, **changed)
        runner.learn(1)
        runner.alg.close()
        (started,) = payloads_of(RunStarted, [next(open_run(runner.alg.run.path).events())])
        assert started.target_kl is None, "rsl_rl never stops"
        return started.kl_warning, started.kl_critical

    assert limits(desired_kl=0.02, schedule="adaptive") == (0.04, 0.06)
    assert limits(desired_kl=0.02, schedule="fixed") == (0.02, 0.03)
    assert limits(desired_kl=None, schedule="fixed") == (0.015, 0.03)
    own = {"settings": {"run": {"dir": str(tmp_path)}, "health": {"kl_warning": 0.1, "kl_critical": 0.2}}}
    assert limits(desired_kl=0.02, esper=own) == (0.1, 0.2)


def test_the_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    def trained(name: str) -> Any:
        torch.manual_seed(0)
        cfg = configuration(esper={"sinks": [], "settings": {"run": {"dir": str(tmp_path)}}}, normalised=True)
        if name == "PPO":
            del cfg["algorithm"]["esper"]
        cfg["algorithm"]["class_name"] = name
        runner = OnPolicyRunner(Reaching(), cfg, device="cpu")
        runner.learn(2)
        return runner

    watched = trained("esper_rsl_rl:PPO")
    watched.alg.close()
    drawn = torch.get_rng_state()
    plain = trained("PPO")
    for one, other in zip(
        watched.alg.get_policy().state_dict().values(), plain.alg.get_policy().state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(watched.alg.get_policy().output_std, plain.alg.get_policy().output_std), "which rsl_rl logs"
    assert torch.equal(drawn, torch.get_rng_state())
    assert set(vars(watched.alg.get_policy())) == set(vars(plain.alg.get_policy())), "no method stays replaced"


def test_what_it_cannot_watch_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a recurrent actor is not supported"):
        runner_of(tmp_path, actor={"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 8})
    with pytest.raises(UsageError, match="heads: 2 names for 3 dimensions"):
        runner_of(tmp_path, esper={"heads": ("a", "b")})
    with pytest.raises(UsageError, match="esper: no such option 'nmae', did you mean \"name\""):
        runner_of(tmp_path, esper={"nmae": "walk"})
    assert not list(tmp_path.iterdir())


def test_a_fault_of_the_adapter_is_told_and_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("no pass today")

    monkeypatch.setattr("esper_rsl_rl.algorithm.judge", broken)
    runner = runner_of(tmp_path)
    runner.learn(2)
    assert runner.current_learning_iteration == 1
    runner.alg.close()
    said = capsys.readouterr().err
    assert said.count("training goes on without it: ZeroDivisionError") == 1
    assert "the pass after the last step failed" in said


def test_a_policy_that_became_nan_is_reported_as_that(tmp_path: Path) -> None:
    runner = runner_of(tmp_path)
    alg = runner.alg

    def spoil(*_: object) -> None:  # as a diverged last step leaves it
        with torch.no_grad():
            next(alg.get_policy().mlp.parameters()).fill_(torch.nan)

    steps = iter(range(20))
    alg.optimizer.register_step_post_hook(lambda *_: spoil() if next(steps) == 19 else None)
    runner.learn(1)
    alg.close()
    assert alg.last.non_finite > 0
    assert alg.last.health.name == "NON_FINITE"


def test_the_next_training_in_the_process_ends_the_run_before_as_done(tmp_path: Path) -> None:
    first = runner_of(tmp_path)
    first.learn(1)
    ended = first.alg.run
    second = runner_of(tmp_path)
    second.learn(1)
    assert ended.closed
    record = open_run(ended.path).record
    assert record is not None
    assert record.state is RunState.DONE
    first.learn(1)  # two that take turns
    first.alg.close()
    assert second.alg.run.closed
    assert first.alg.run is not ended
    assert (first.alg.last.update_id, first.alg.last.env_steps) == (1, ROWS)


def test_a_pass_leaves_generator_and_distribution_as_they_were(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, esper={"sinks": []})
    actor, seen = runner.alg.get_policy(), runner.env.get_observations()
    actor(seen, stochastic_output=True)
    before, std, state = actor.output_mean, actor.output_std, torch.get_rng_state()
    found = judge(actor, seen + 1.0, 5)
    assert [part.shape for part in found] == [(16, 3), (16, 3)]
    assert actor.output_mean is before
    assert torch.equal(actor.output_std, std)
    assert torch.equal(torch.get_rng_state(), state)


RANK = """
import contextlib, io, json, sys
import torch
from esper_rsl_rl import PPO
from esper_rsl_rl.check import Reaching, configuration

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
torch.manual_seed(rank)
env = Reaching()
cfg = configuration(esper={"sinks": ["journal"], "settings": {"run": {"dir": folder}}}, normalised=True)
cfg["multi_gpu"] = {"global_rank": rank, "local_rank": rank, "world_size": 2}
cfg["seed"] = -1  # "any", as scripts write it
with contextlib.redirect_stdout(io.StringIO()):
    alg = PPO.construct_algorithm(env.get_observations(), env, cfg, "cpu")
alg.broadcast_parameters()
seen, own = env.get_observations(), []
report = alg._report

def reported(run, losses):
    storage, actor = alg.storage, alg.get_policy()
    old = tuple(part.flatten(0, 1) for part in storage.distribution_params)
    if alg._by_steps is not None:
        own.append(float(actor.get_kl_divergence(old, alg._by_steps).double().mean()))
    report(run, losses)

alg._report = reported
if rank == 1 and sys.argv[3:] == ["fails once"]:
    judged = alg._judged
    def fails():
        alg._judged = judged
        raise MemoryError("no room for the pass")
    alg._judged = fails
shown = []
for update in range(2):
    with torch.inference_mode():
        for _ in range(16):
            seen, reward, done, extras = env.step(alg.act(seen))
            alg.process_env_step(seen, reward, done, extras)
        alg.compute_returns(seen)
    alg.update()
    last = alg.last
    if last is not None:
        shown.append([last.kl_joint, last.divergences[0].per_step, last.library_kl, last.env_steps, last.steps])
alg.close()
print(json.dumps({"own": own, "shown": shown, "failures": alg.run.counts.failures, "path": str(alg.run.path)}))
torch.distributed.destroy_process_group()
"""


def two_ranks(folder: Path, *how: str) -> list[Any]:
    command = [sys.executable, "-W", "ignore", "-c", RANK]
    started = [
        subprocess.Popen([*command, str(rank), str(folder), *how], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    found = [json.loads(process.communicate(timeout=250)[0].splitlines()[-1]) for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return found


def test_a_rank_without_memory_for_the_pass_costs_an_update_and_no_other_waits_for_it(tmp_path: Path) -> None:
    found = two_ranks(tmp_path, "fails once")
    assert [len(item["shown"]) for item in found] == [1, 1], "the first update is of no rank, the second of both"
    assert found[0]["shown"] == found[1]["shown"]
    assert [item["failures"] for item in found] == [1, 2], "rank 1: the pass, and so the report"


def test_two_ranks_show_the_kl_of_both(tmp_path: Path) -> None:
    found = two_ranks(tmp_path)
    assert found[0]["shown"] == found[1]["shown"], "each rank has the same numbers"
    for update in (0, 1):
        kl, _, _, env_steps, steps = found[0]["shown"][update]
        assert kl == pytest.approx((found[0]["own"][update] + found[1]["own"][update]) / 2, rel=1e-4, abs=1e-7)
        assert (env_steps, steps) == (2 * ROWS * (update + 1), 2 * ROWS)
    assert found[0]["own"] != found[1]["own"], "the ranks saw different samples"
    assert [item["failures"] for item in found] == [0, 0]
    assert found[1]["path"] == "None", "rank 0 keeps the run"
    assert len(list(open_run(found[0]["path"]).updates())) == 2


def test_the_check_holds(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert found.holds
    assert len(found.compared) == 3
