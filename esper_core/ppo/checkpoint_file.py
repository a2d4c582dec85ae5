"""A checkpoint's file: either whole or absent, and read without running code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import torch

from esper_core.config.retired import todays_ppo
from esper_core.config.schema import PPOConfig
from esper_core.errors import ConfigError, EsperError
from esper_core.ppo._plausible import refuse_implausible
from esper_core.ppo.actions import ActionForm
from esper_core.ppo.checkpoint import FORMAT, Checkpoint, checkpoint_content
from esper_core.ppo.heads import HeadSpec
from esper_core.ppo.preprocessing import ObservationForm
from esper_core.runs.files import fault_of, open_file
from esper_core.runs.folder import Folder

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from esper_core.ppo.checkpoint import Checkpointed

__all__ = ["load_checkpoint", "save_checkpoint", "write_checkpoint"]

_PLACE: Final = ("base", "episode", "actions", "shown")


def save_checkpoint(path: Path, agent: Checkpointed, *, folder: Folder | None = None, **counts: Any) -> None:
    """Write a checkpoint of this moment: :func:`checkpoint_content`, then :func:`write_checkpoint`."""
    write_checkpoint(path, checkpoint_content(agent, **counts), folder=folder)


def write_checkpoint(path: Path, content: dict[str, Any], *, folder: Folder | None = None) -> None:
    """Write a checkpoint beside the old one, make it durable, then put it in its place.

    A reader, or a crash at any moment, finds the old file or the new one, never a part.

    Args:
        path: the file.
        content: see :func:`checkpoint_content`.
        folder: the file's folder, held open: the file is written there, wherever that is by now.

    Raises:
        EsperError: it cannot be written. The old file is still there, and nothing is left beside it.
    """
    try:
        if folder is not None:
            folder.replace(path.name, lambda file: _write(content, file))
        else:
            with Folder(path.parent) as own:
                own.replace(path.name, lambda file: _write(content, file))
    except Exception as error:
        raise EsperError(
            f"cannot write checkpoint {path}: {_reason(error)}", hint="free some space, or check rights"
        ) from error


def _write(content: dict[str, Any], file: IO[bytes]) -> None:
    """Write a checkpoint's content; an error of the file is raised as itself, and not as torch words it."""
    kept = _Kept(file)
    try:
        torch.save(content, cast("IO[bytes]", kept))  # write and flush are all that torch calls
    except RuntimeError:
        if kept.error is not None:
            raise kept.error from None
        raise


class _Kept:
    """A file for torch, which turns every error of it into a RuntimeError about itself: the first one is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Only plain values and tensors are unpickled (``weights_only``), never code."""
    try:
        with open_file(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no checkpoint at {path}",
            hint="the trainer writes one after its first update; a loop that monitor() watches keeps its policy itself",
        ) from error
    except OSError as error:
        fault = fault_of(path, error)
        raise ConfigError(f"cannot read {path}: {fault.reason}", hint=fault.remedy) from error
    except Exception as error:  # torch and pickle raise nearly anything on damaged bytes
        raise ConfigError(f"{path} is not a readable checkpoint", hint="it may be damaged; train anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path} is no checkpoint of format {FORMAT}", hint="it was written by another version")
    try:
        refuse_implausible(content)
        form = msgspec.convert(content.get("observation_form"), ObservationForm | None)
        config = msgspec.convert(todays_ppo(content["config"]), PPOConfig)
        if form is None:  # of 0.1, which knew no other network
            config = msgspec.structs.replace(config, policy="mlp")
        return Checkpoint(
            update_id=content["update_id"],
            env_steps=content["env_steps"],
            episodes=content["episodes"],
            recent_returns=tuple(content["recent_returns"]),
            heads=tuple(HeadSpec(*head) for head in content["heads"]),
            obs_shape=tuple(content["obs_shape"]),
            conditioning_head=content["conditioning_head"],
            config=config,
            config_digest=content["config_digest"],
            seed=content["seed"],
            state=_state_of(content["state"]),
            environment=content.get("environment", ""),
            spaces=_pair(content.get("spaces")),
            wrappers=msgspec.convert(content.get("wrappers"), tuple[str, ...] | None),
            evaluated=msgspec.convert(content.get("evaluated"), float | None),
            places=tuple({key: place[key] for key in _PLACE} for place in content.get("places", ())),
            running=content.get("running"),
            action_form=_form(content),
            observation_form=form,
        )
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path} lacks what a checkpoint holds: {error}", hint="it may be damaged") from error


def _form(content: dict[str, Any]) -> ActionForm | None:
    form = msgspec.convert(content.get("action_form"), ActionForm | None)
    if form is not None and form.columns != len(content["heads"]):
        raise ValueError(f"an action of {form.columns} columns for {len(content['heads'])} heads")
    return form


def _state_of(state: dict[str, Any]) -> dict[str, Any]:
    """The state under today's names: in 0.1 the layers of the trunk were parameters of the policy itself."""
    policy = {
        f"trunk.{name.removeprefix('trunk_')}" if name.startswith("trunk_") else name: weight
        for name, weight in state["policy"].items()
    }
    return {**state, "policy": policy}


def _pair(spaces: object) -> tuple[str, str] | None:
    if spaces is None:
        return None
    observation, action = msgspec.convert(spaces, tuple[str, str])
    return observation, action
