"""The recipes of docs/how-to/recipes.md in the libraries themselves: every update, and the number computed anew.

Each runs in a process of its own: the libraries set warnings, logging and processes up as they like.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from present import present

from esper_core import open_run
from esper_core.health import RunState

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs" / "examples" / "recipes"
PAGE = (ROOT / "docs" / "how-to" / "recipes.md").read_text()

# What is to be computed anew after the last update: `old` and `new`, log-probabilities of the actions taken.
ANEW = {
    "skrl": """
made = recipe.train()
seen, actions, old = made.memory.sample_all(("observations", "actions", "log_prob"))[0]
new = made.policy.net(seen).log_softmax(-1).gather(1, actions.long())
""",
    "tianshou": """
kept = {}
after = recipe.Watched._postprocess_batch
def keep(self, batch, buffer, indices):
    kept["batch"] = batch
    after(self, batch, buffer, indices)
recipe.Watched._postprocess_batch = keep
made = recipe.train()
batch = kept["batch"]
old = batch.logp_old
new = made.policy.actor(batch.obs)[0].log_softmax(-1).gather(1, batch.act.long()[:, None])[:, 0]
""",
    "rl_games": """
made = recipe.train()
model, rollout = made.algo.model.eval(), made.rollout
mean, log_deviation, _, _ = model.a2c_network({"obs": model.norm_obs(rollout["obs"]), "is_train": False})
m0, s0, m1, s1 = (part.double() for part in (rollout["mu"], rollout["sigma"], mean, log_deviation.exp()))
expected = float(((s1 / s0).log() + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5).sum(-1).mean())
""",
    "rllib": """
kept = []
after = recipe.Watched.after_gradient_based_update
def keep(self, *, timesteps):
    kept[:] = [self]
    after(self, timesteps=timesteps)
recipe.Watched.after_gradient_based_update = keep
recipe.train()
made, = kept
rows = [{name: batch[name][batch.get("loss_mask", torch.ones(len(batch["actions"]), dtype=torch.bool))]
         for name in ("obs", "actions", "action_dist_inputs")} for batch in made.kept[: len(made.kept) // 4]]
module = made.module["default_policy"].unwrapped()
def taken(logits, row):
    return logits.log_softmax(-1).gather(1, row["actions"].long()[:, None])[:, 0]
old = torch.cat([taken(row["action_dist_inputs"], row) for row in rows])
new = torch.cat([taken(module.forward_train({"obs": row["obs"]})["action_dist_inputs"], row) for row in rows])
""",
}
HEAD = """
import json, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
import {name}_ppo as recipe
"""
TAIL = """
if "expected" not in globals():
    r = (new.detach() - old.detach()).double()
    expected = float((torch.expm1(r) - r).mean())
print("FOUND " + json.dumps({"expected": expected, "path": str(made.run.path), "failures": made.run.counts.failures}))
"""
LIBRARIES = {
    "skrl": ("skrl", 50),
    "tianshou": ("tianshou", 360),
    "rl_games": ("rl_games", 80),
    "rllib": ("ray.rllib", 520),
}


def absent(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True


@pytest.mark.loops
@pytest.mark.parametrize("name", LIBRARIES, ids="recipe_{}".format)
def test_every_update_arrives_and_the_last_kl_is_that_of_the_policy_as_it_ended(name: str, tmp_path: Path) -> None:
    module, mebibytes = LIBRARIES[name]
    if absent(module):
        pytest.skip(f"{module} is not installed (about {mebibytes} MiB): `make test-loops` installs it")
    script = HEAD.format(folder=str(RECIPES), name=name) + ANEW[name] + TAIL
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("FOUND ")[1])
    run = open_run(tmp_path / found["path"])
    updates = [event.payload for event in run.updates()]
    assert [update.update_id for update in updates] == [1, 2, 3]
    assert [update.env_steps for update in updates] == [256, 512, 768]
    assert found["failures"] == 0
    assert all(0 < present(update.kl_joint) < 0.2 for update in updates)
    assert updates[-1].kl_joint == pytest.approx(found["expected"], rel=1e-3, abs=1e-7)
    assert run.record is not None
    assert run.record.state is RunState.DONE


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_page_shows_what_the_example_runs(name: str) -> None:
    text = (RECIPES / f"{name}_ppo.py").read_text()
    (recipe,) = re.findall(r"\n# recipe\n(.*?)\n\n\n# end\n", text, re.DOTALL)
    assert f"```\n{recipe}\n```" in PAGE
