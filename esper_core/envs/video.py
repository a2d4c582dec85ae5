"""Videos: every nth update's policy plays one episode that Gymnasium's ``RecordVideo`` makes an mp4 of."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from gymnasium.wrappers import RecordVideo

from esper_core.deadline import within
from esper_core.envs.adapter import GymTask
from esper_core.envs.build import rendered_env
from esper_core.envs.closing import CLOSE_S
from esper_core.errors import EnvironmentUnsupportedError, EsperError, UsageError, error_text
from esper_core.ppo.evaluation import evaluate
from esper_core.ppo.failures import Failures

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym

    from esper_core.config.schema import EnvConfig, RunConfig
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.preprocessing import ObservationForm

__all__ = ["Videos"]

MOST_BYTES: Final = 512 * 1024**2
"""Of the frames of one video, which are in memory until it is written; a longer episode is cut there."""
_log = logging.getLogger("esper.ppo")


class _Left(Exception):  # noqa: N818  # no error: the episode is left
    """The run was asked to stop, or the video is long enough."""


class Videos:
    """Records an episode after every ``run.video_every`` updates: the same one each time, so that videos compare.

    Its environment is its own, and no generator of the training is drawn from. A recording that fails is told and
    counted, and the next one tries with a new environment.

    Args:
        env: the table ``[env]``.
        run: the table ``[run]``.
        seed: of the environment and of the sampling, apart from the training's.
        read_as: see :meth:`~esper_core.ppo.task.Task.read_as`; None where nothing was resumed.
        on_failure: called with a line of text beside the log's.

    Attributes:
        name: of the environment, for messages.
        folder: where the videos go, ``update-000010.mp4``; set before the first is recorded.

    Raises:
        UsageError: moviepy is not installed.
        EnvironmentUnsupportedError: the environment renders no images.
    """

    def __init__(
        self,
        env: EnvConfig,
        run: RunConfig,
        *,
        seed: int,
        read_as: tuple[ObservationForm | None] | None,
        on_failure: Callable[[str], object],
    ) -> None:
        self.name = f"{env.id} of the videos"
        self.folder = Path("videos")
        self._env, self._run, self._seed = env, run, seed
        self._read_as = read_as
        self._failures = Failures(on_failure)
        self._wanted = False
        self._task: GymTask | None = None
        self._recorder: RecordVideo[Any, Any] | None = None
        if importlib.util.find_spec("moviepy") is None:
            raise UsageError(
                f"run.video_every = {run.video_every} needs moviepy, which is not installed",
                hint="pip install 'esper-core[video]', or leave --video out",
            )
        self._frames = Path(tempfile.mkdtemp(prefix="esper-video-"))
        try:
            self._recorder, task = self._made()
            self._task, self._most = task, self._steps_of(task)
        except BaseException:
            self.close()
            raise

    @property
    def failures(self) -> int:
        """Recordings that failed."""
        return self._failures.count

    def due(self, update_id: int) -> bool:
        """Whether this update's policy is to be recorded."""
        return update_id % self._run.video_every == 0

    def record(self, agent: PPOAgent, *, should_stop: Callable[[], bool], on_step: Callable[[], object]) -> None:
        """Record an episode of the agent as it is.

        Args:
            agent: acts, greedily unless ``run.eval_deterministic`` is false.
            should_stop: read after each step; True leaves the episode, of which no video is written.
            on_step: called after each step.
        """
        steps = 0

        def step_made() -> None:
            nonlocal steps
            on_step()
            steps += 1
            if should_stop():
                raise _Left
            if steps >= self._most and self._recorder is not None and self._recorder.recording:
                self._recorder.stop_recording()  # type: ignore[no-untyped-call]  # writes what there is
                raise _Left

        try:
            if self._task is None:
                self._recorder, self._task = self._made()
            self._wanted = True
            evaluate(
                agent,
                self._task,
                episodes=1,
                seed=self._seed,
                deterministic=self._run.eval_deterministic,
                generator=torch.Generator().manual_seed(self._seed),
                on_step=step_made,
            )
        except _Left:
            pass
        except Exception as error:  # noqa: BLE001  # code of the environment's author, and of moviepy
            if not should_stop():
                self._fail(agent.updates, error)
            return
        try:
            self._keep(agent.updates)
        except OSError as error:
            self._fail(agent.updates, error)

    def close(self) -> None:
        """Close the environment, and delete what was not kept."""
        task, self._task = self._task, None
        recorder, self._recorder = self._recorder, None
        try:
            if recorder is not None:
                recorder.recording, recorder.recorded_frames = False, []  # of an episode that was left
            if task is not None:
                task.close()
        finally:
            shutil.rmtree(self._frames, ignore_errors=True)

    def _made(self) -> tuple[RecordVideo[Any, Any], GymTask]:
        """The environment, in which :attr:`_wanted` makes the next episode a recorded one."""
        recorders: list[RecordVideo[Any, Any]] = []

        def recorded(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
            recorders.append(RecordVideo(env, str(self._frames), episode_trigger=self._begins))
            return recorders[0]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a folder that is there, and of render modes, which are looked at below
            try:
                task = GymTask(
                    rendered_env(self._env, recorded),
                    name=self._env.id,
                    seed=self._seed,
                    read_masks=self._env.masks != "off",
                )
            except (EsperError, ValueError) as error:
                said = error.message if isinstance(error, EsperError) else str(error)
                raise _renders_nothing(self._env.id, said) from error
        if self._read_as is not None:
            task.read_as(*self._read_as)
        return recorders[0], task

    def _steps_of(self, task: GymTask) -> int:
        """How many steps a video holds at most, by the first frame."""
        task.reset(self._seed)
        try:
            frame = task.env.render()[0]  # type: ignore[index]  # a vector environment of single ones returns a tuple
        except Exception as error:
            raise _renders_nothing(self._env.id, f"render() raised {error_text(error)}") from error
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.dtype != np.uint8:
            shown = getattr(frame, "shape", type(frame).__name__)
            raise _renders_nothing(self._env.id, f"render() returned {shown}, not bytes (height, width, 3)")
        return max(1, MOST_BYTES // max(1, frame.nbytes))

    def _begins(self, _episode: int) -> bool:
        wanted, self._wanted = self._wanted, False
        return wanted

    def _keep(self, update_id: int) -> None:
        """Move what was recorded into the run's folder; no half of a video is ever there."""
        for found in self._frames.glob("*.mp4"):
            self.folder.mkdir(exist_ok=True)
            kept = self.folder / f"update-{update_id:06d}.mp4"
            part = kept.with_suffix(".part")
            shutil.copyfile(found, part)
            part.replace(kept)
            found.unlink()
            self._failures.over()

    def _fail(self, update_id: int, error: Exception) -> None:
        """Count and tell it; the environment is not used again."""
        self._failures.tell(f"the video after update {update_id} failed, and training goes on", error)
        try:
            with within(CLOSE_S):
                self.close()
        except Exception as closing:  # noqa: BLE001  # likewise
            _log.warning("closing the environment of the videos failed", exc_info=closing)
        self._frames.mkdir(exist_ok=True)


def _renders_nothing(name: str, why: str) -> EnvironmentUnsupportedError:
    return EnvironmentUnsupportedError(
        f"run.video_every: {name} cannot be recorded: {why}",
        hint='it takes render_mode="rgb_array", which its metadata["render_modes"] names; leave --video out otherwise',
    )
