"""Many episodes in an update, and bursts: events as fast as a loop can make them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from esper_bench.peers import SB3, TENSORBOARD
from esper_bench.row import Row
from esper_bench.subjects import _loggers as loggers

if TYPE_CHECKING:
    from esper_bench.row import Setup, Work

__all__ = ["ROWS"]

_SB3_NUMBERS: Final = (
    "approx_kl",
    "clip_fraction",
    "clip_range",
    "entropy_loss",
    "explained_variance",
    "learning_rate",
    "loss",
    "n_updates",
    "policy_gradient_loss",
    "value_loss",
)
ENVS: Final = 8
BURST: Final = 20_000
OTHERS_BURST: Final = 2_000
"""A tenth does for a peer: its cost of an event is the same in a longer burst."""


def _esper(episodes: int, updates: int, *, heard: bool = False) -> Setup:
    """Count each episode where a step has ended it, offer it to the sinks, and emit the update."""

    def setup(stack: ExitStack) -> Work:
        import bench_telemetry
        import numpy as np

        from esper_core.events import EpisodeFinished
        from esper_core.ppo.episodes import EpisodeTracker

        emitter = stack.enter_context(loggers.session(stack, episodes=heard)).emitter
        iteration = bench_telemetry.updates(emitter, loggers.payload(5))
        tracker = EpisodeTracker(ENVS)
        steps, rest = divmod(episodes, ENVS)
        reward, cut = np.ones(ENVS), np.zeros(ENVS, dtype=bool)
        ends = [np.ones(ENVS, dtype=bool)] * steps + ([np.arange(ENVS) < rest] if rest else [])

        def work() -> int:
            for _ in range(updates):
                for ended in ends:
                    told = emitter.hears(EpisodeFinished.kind)
                    if finished := tracker.step(reward, ended, cut, env_steps=1, told=told):
                        emitter.emit_episodes(finished)
                tracker.drain()
                iteration()
            return updates

        return work

    return setup


def _sb3(episodes: int, updates: int) -> Setup:
    """What SB3 does: its Monitor's record of an episode, the last 100 of them, and its numbers of an update as CSV."""

    def setup(stack: ExitStack) -> Work:
        import gymnasium as gym
        from stable_baselines3 import PPO
        from stable_baselines3.common.logger import configure
        from stable_baselines3.common.monitor import Monitor

        class AtOnce(gym.Env[Any, Any]):
            """Every step ends an episode."""

            observation_space = gym.spaces.Box(-1, 1, (1,))
            action_space = gym.spaces.Discrete(2)

            def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
                return 0.0, {}

            def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
                return 0.0, 1.0, True, False, {}

        env = Monitor(AtOnce())
        env.reset()
        model = PPO("MlpPolicy", AtOnce(), device="cpu")
        model.set_logger(configure(loggers.folder(stack), ["csv"]))
        stack.callback(model.logger.close)
        model._setup_learn(1)

        def work() -> int:
            for _ in range(updates):
                for _ in range(episodes):
                    *_rest, info = env.step(0)
                    model._update_info_buffer([info])
                    env.reset()
                for key, field in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
                    found = [episode[field] for episode in model.ep_info_buffer or ()]
                    model.logger.record(f"rollout/{key}", sum(found) / len(found))
                for key in _SB3_NUMBERS:
                    model.logger.record(f"train/{key}", 0.1)
                model.logger.dump()
            return updates

        return work

    return setup


def _tensorboard(episodes: int, updates: int) -> Setup:
    """Two scalars an episode, and the update's numbers."""

    def setup(stack: ExitStack) -> Work:
        log = loggers.tensorboard(stack)
        found = loggers.numbers(loggers.payload(5))
        step = iter(range(10**9))

        def work() -> int:
            for _ in range(updates):
                for _ in range(episodes):
                    log({"episode/return": 1.0, "episode/length": 1.0}, next(step))
                log(found, next(step))
            return updates

        return work

    return setup


def _esper_burst(kind: str) -> Setup:
    """A session of its own, 20,000 events in a loop, and the session's end; what it lost is not counted as done."""

    def setup(_: ExitStack) -> Work:
        import bench_telemetry

        from esper_core.events import EpisodeFinished

        update = loggers.payload(5)
        episode = EpisodeFinished(episode=1, episode_return=1.0, length=1, env_index=0, truncated=False, env_steps=1)

        def work() -> int:
            with ExitStack() as stack:
                session = loggers.session(stack, episodes=kind == "episodes")
                with session:
                    emitter = session.emitter
                    one = bench_telemetry.updates(emitter, update)
                    for _ in range(BURST):
                        if kind == "episodes":
                            emitter.emit_episode_finished(episode)
                        else:
                            one()
                return BURST - session.report.lost_total

        return work

    return setup


def _tensorboard_burst(kind: str) -> Setup:
    def setup(_: ExitStack) -> Work:
        update = loggers.numbers(loggers.payload(5))
        found = {"episode/return": 1.0, "episode/length": 1.0} if kind == "episodes" else update

        def work() -> int:
            with ExitStack() as stack:
                log = loggers.tensorboard(stack)
                for step in range(OTHERS_BURST):
                    log(found, step)
            return OTHERS_BURST

        return work

    return setup


def _row(episodes: int, updates: int, *, heard: bool = False) -> Row:
    asked = "with `[otel] episodes = true`: a span and a line of the journal each" if heard else "that no sink asks for"
    return Row(
        f"episodes, {episodes:,} an update{', heard' if heard else ''}",
        f"the calling thread: episodes as they end, {asked}, and one update of 5 heads; "
        "SB3 keeps the last 100 and writes its 12 numbers as CSV; TensorBoard logs return and length of each",
        "ms",
        _esper(episodes, updates, heard=heard),
        (SB3.doing(_sb3(episodes, updates)), TENSORBOARD.doing(_tensorboard(episodes, updates))),
        per="update",
        clock="thread",
    )


def _burst(kind: str, what: str) -> Row:
    return Row(
        f"burst of {BURST:,} {kind}",
        what,
        "µs",
        _esper_burst(kind),
        (TENSORBOARD.doing(_tensorboard_burst(kind)),),
        per="event kept",
        planned=BURST,
        rounds=3,
        warm=0,
    )


ROWS: Final = (
    *(_row(episodes, updates) for episodes, updates in ((1, 100), (100, 20), (10_000, 1))),
    _row(10_000, 1, heard=True),
    _burst("updates", "a session of its own, all threads, until everything is written and closed"),
    _burst("episodes", "the same with `[otel] episodes = true`"),
)
