"""EsperCallback through real trainings of a tiny Llama: the number, padding, the last update, refusals, no harm."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from present import payloads_of

from esper_core import open_run
from esper_core.errors import UsageError
from esper_core.events import RunStarted
from esper_core.health import RunState

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import PPOUpdatePayload

pytestmark = [
    pytest.mark.loops,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # TRL calls what Transformers is about to rename
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
trl = pytest.importorskip("trl", reason="TRL is not installed (about 465 MiB): `make test-loops` installs it")

from esper_trl import EsperCallback  # noqa: E402  # only where TRL is
from esper_trl import check as tiny  # noqa: E402  # as above
from esper_trl.adapter import adapter  # noqa: E402  # as above
from esper_trl.generation import PRIVATE, Generation  # noqa: E402  # as above

torch.set_num_threads(1)  # two are many times slower on this small model when the other core is busy


class Keep(EsperCallback):
    """Keeps the updates and what they were made of."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__("kept", **{"sinks": ["journal"], "settings": {"run": {"dir": str(folder)}}, **options})
        self.updates: list[PPOUpdatePayload] = []
        self.made_of: list[tuple[Any, Any]] = []

    def _report(self, update: Any, new: Any, logs: dict[str, Any]) -> None:
        super()._report(update, new, logs)
        assert self.last is not None
        self.updates.append(self.last)
        self.made_of.append((update, new))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.tiny_model(tmp_path_factory.mktemp("tiny"))


def made(model: str, folder: Path, kind: str = "GRPO", **changed: Any) -> Any:
    settings = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "seed": 0,
    }
    return getattr(trl, f"{kind}Trainer")(
        model=model,
        processing_class=tiny.tiny_tokenizer(),
        args=getattr(trl, f"{kind}Config")(**(settings | changed)),
        reward_funcs=tiny.tiny_reward,
        train_dataset=tiny.tiny_dataset(),
    )


def trained(model: str, callback: Any, folder: Path, kind: str = "GRPO", **changed: Any) -> Any:
    trainer = made(model, folder, kind, **changed)
    if callback is not None:
        callback.attach(trainer)
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_every_update_reaches_the_journal_the_last_one_included(model: str, tmp_path: Path, kind: str) -> None:
    callback = Keep(tmp_path / "runs")
    trained(model, callback, tmp_path, kind, max_steps=3)
    assert callback.run is not None
    run = open_run(callback.run.path or "")
    updates = [event.payload for event in run.updates()]
    assert [update.update_id for update in updates] == [1, 2, 3]
    assert [update.env_steps for update in updates] == [4, 8, 12]
    assert run.record is not None
    assert run.record.state is RunState.DONE
    (started,) = payloads_of(RunStarted, [next(run.events())])
    assert (started.algorithm, started.kl_on, started.updates_planned) == (kind.lower(), "weighted", 3)
    for update in updates:
        (head,) = update.heads
        assert (head.name, head.kind, update.granularity, update.library) == ("token", "token", "token", "trl")
        assert update.kl_divergence is not None
        assert update.kl_divergence > 0
        assert (update.steps, update.minibatches, update.epochs) == (4, 1, 1)
        assert update.entropy is not None
        assert update.learning_rate == pytest.approx(1e-2)


def test_the_kl_is_k3_of_each_token_and_padding_counts_nowhere(model: str, tmp_path: Path) -> None:
    callback = Keep(tmp_path / "runs")
    trained(model, callback, tmp_path, max_steps=4)
    padded = 0
    for payload, (update, new) in zip(callback.updates, callback.made_of, strict=True):
        mask = update.generation.mask
        padded += int((~mask).sum())
        r = (new.log_prob - update.old.log_prob)[mask].double()
        k3 = torch.expm1(r) - r
        assert payload.heads[0].decisions == mask.sum()
        assert payload.kl_divergence == pytest.approx(float(k3.mean()), rel=1e-6)
        assert payload.kl_joint == pytest.approx(float(k3.sum() / len(mask)), rel=1e-6)
    assert padded, "the case needs a completion that ended early"


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_old_and_new_are_those_of_the_weights_before_the_first_and_after_the_last_step(
    model: str, tmp_path: Path, kind: str
) -> None:
    """Against log-probabilities computed without TRL, from the model's logits."""
    callback = Keep(tmp_path / "runs")
    trainer = made(model, tmp_path, kind, max_steps=4, num_iterations=2, steps_per_generation=2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    callback.attach(trainer)
    trainer.train()
    ((update, new),) = callback.made_of
    assert (callback.updates[0].minibatches, callback.updates[0].epochs) == (4, 2)

    def from_logits() -> torch.Tensor:
        found = []
        for batch in update.generation.batches:
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
            seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
            with torch.no_grad():
                logits = trainer.model.eval()(input_ids=ids, attention_mask=seen).logits
            width = batch["completion_ids"].size(1)
            log_probs = (logits[:, -width - 1 : -1] / trainer.temperature).log_softmax(-1)
            found.append(log_probs.gather(-1, batch["completion_ids"][..., None])[..., 0])
        return torch.cat(found)

    mask = update.generation.mask
    torch.testing.assert_close(new.log_prob[mask], from_logits()[mask], rtol=0, atol=1e-5)
    trainer.model.load_state_dict(before)
    torch.testing.assert_close(update.old.log_prob[mask], from_logits()[mask], rtol=0, atol=1e-5)


def test_the_reference_kl_stands_beside_as_a_divergence(model: str, tmp_path: Path) -> None:
    for kind, estimator in (("GRPO", "k3"), ("RLOO", "k1")):
        callback = Keep(tmp_path / kind)
        trainer = trained(model, callback, tmp_path, kind, beta=0.1, max_steps=3)
        logged = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
        found = [update.divergences[0] for update in callback.updates]
        assert {(item.name, item.reference, item.estimator) for item in found} == {("kl", "reference_model", estimator)}
        assert [item.per_decision for item in found] == pytest.approx(logged, abs=1e-5)
    plain = Keep(tmp_path / "plain")
    trained(model, plain, tmp_path)
    assert [update.divergences for update in plain.updates] == [(), ()]


def test_the_training_is_the_same_with_and_without_dropout_and_all(tmp_path: Path) -> None:
    blurred = tiny.tiny_model(tmp_path, attention_dropout=0.3)
    for kind in ("GRPO", "RLOO"):
        callback = Keep(tmp_path / kind)
        with_it = trained(blurred, callback, tmp_path, kind, num_iterations=2, max_steps=4)
        without = trained(blurred, None, tmp_path, kind, num_iterations=2, max_steps=4)
        assert len(callback.updates) == 2
        assert with_it.model.training == without.model.training
        for one, other in zip(with_it.model.parameters(), without.model.parameters(), strict=True):
            assert torch.equal(one, other)


def test_accumulation_within_one_generation_is_one_update(model: str, tmp_path: Path) -> None:
    callback = Keep(tmp_path / "runs")
    trained(model, callback, tmp_path, gradient_accumulation_steps=2)
    assert [(update.minibatches, update.steps) for update in callback.updates] == [(1, 8), (1, 8)]


def test_every_and_max_tokens_measure_a_part(model: str, tmp_path: Path) -> None:
    callback = Keep(tmp_path / "runs", every=2, max_tokens=17)
    trained(model, callback, tmp_path, max_steps=4)
    assert [update.env_steps for update in callback.updates] == [4, 12]
    assert [update.steps for update in callback.updates] == [2, 2]
    assert all(update.heads[0].decisions <= 17 for update in callback.updates)
    least = Keep(tmp_path / "least", max_tokens=1)
    trained(model, least, tmp_path)
    assert [update.steps for update in least.updates] == [1, 1]


def test_what_tools_said_counts_nowhere() -> None:
    batch = {
        "completion_ids": torch.ones(2, 3),
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "tool_mask": torch.tensor([[1, 0, 1], [1, 1, 1]]),
    }
    assert Generation.of([batch], rows=None).mask.tolist() == [[True, False, True], [True, True, False]]


def test_training_that_ends_between_two_steps_on_one_generation_is_reported(model: str, tmp_path: Path) -> None:
    callback = Keep(tmp_path / "runs")
    trained(model, callback, tmp_path, num_iterations=2, max_steps=3)
    assert [update.minibatches for update in callback.updates] == [2, 1]
    assert callback.updates[1].kl_divergence


def test_an_accumulation_that_hides_the_behaviour_policy_is_refused(model: str, tmp_path: Path) -> None:
    for accumulated, between in ((2, 1), (2, 3)):
        trainer = made(model, tmp_path, gradient_accumulation_steps=accumulated, steps_per_generation=between)
        with pytest.raises(UsageError, match=f"gradient_accumulation_steps={accumulated} hides the behaviour policy"):
            EsperCallback().attach(trainer)


def test_what_it_cannot_watch_is_refused_in_one_sentence(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int is no GRPOTrainer and no RLOOTrainer"):
        EsperCallback().attach(3)
    trainer = made(model, tmp_path)
    with pytest.raises(UsageError, match="every: expected a whole number from 1"):
        EsperCallback(every=0)
    with pytest.raises(UsageError, match="max_tokens: expected a whole number from 1"):
        EsperCallback(max_tokens=-1)
    trainer.add_callback(EsperCallback())
    with pytest.raises(UsageError, match="EsperCallback has no trainer"):
        trainer.train()
    del trainer._buffered_inputs
    with pytest.raises(UsageError, match="GRPOTrainer has no _buffered_inputs"):
        EsperCallback().attach(trainer)


def test_a_fault_of_the_adapter_is_told_once_and_ends_no_training(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("no pass today")

    monkeypatch.setattr(Generation, "judge", broken)
    callback = EsperCallback("x", sinks=["journal"], settings={"run": {"dir": str(tmp_path / "runs")}})
    trainer = trained(model, callback, tmp_path)
    assert trainer.state.global_step == 2
    assert callback.run is not None
    assert callback.run.counts.failures == 2
    assert capsys.readouterr().err.count("training goes on without it: ZeroDivisionError") == 1


def test_a_policy_that_became_nan_is_reported_as_that(model: str, tmp_path: Path) -> None:
    class Spoilt(Keep):
        def _judge_new(self) -> None:
            with torch.no_grad():
                next(self._trainer.model.parameters()).fill_(math.nan)  # as a diverged last step leaves it
            super()._judge_new()

    callback = Spoilt(tmp_path / "runs")
    trained(model, callback, tmp_path, max_steps=1)
    assert callback.updates[0].non_finite > 0
    assert callback.updates[0].health.name == "NON_FINITE"


def interrupted(model: str, callback: Any, folder: Path, *, times: int = 1) -> Any:
    """A trainer of 6 steps; Ctrl-C arrives while the second generation is rewarded."""
    trainer = made(model, folder, max_steps=6)
    calls = iter(range(99))

    def reward(completions: list[str], **options: Any) -> list[float]:
        if next(calls) == 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return tiny.tiny_reward(completions, **options)

    trainer.reward_funcs = [reward]
    callback.attach(trainer)
    return trainer


def test_ctrl_c_ends_the_training_in_order_and_the_last_update_is_there(model: str, tmp_path: Path) -> None:
    callback = Keep(tmp_path / "runs")
    trainer = interrupted(model, callback, tmp_path)
    before = signal.getsignal(signal.SIGINT)
    trainer.train()
    assert trainer.state.global_step == 2, "the step in which it arrived is taken"
    assert callback.run is not None
    run = open_run(callback.run.path or "")
    assert [event.payload.update_id for event in run.updates()] == [1, 2]
    assert run.record is not None
    assert run.record.state is RunState.STOPPED
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_and_one_without_signals_raise(model: str, tmp_path: Path) -> None:
    for options, times in (({}, 2), ({"signals": False}, 1)):
        callback = Keep(tmp_path / "runs", **options)
        with pytest.raises(KeyboardInterrupt):
            interrupted(model, callback, tmp_path, times=times).train()
        assert callback.run is not None
        callback.run.end(KeyboardInterrupt())  # as the interpreter's exit does
        run = open_run(callback.run.path or "")
        assert [event.payload.update_id for event in run.updates()] == [1]
        assert run.record is not None
        assert run.record.state is RunState.STOPPED


RANK = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
torch.set_num_threads(1)
import trl
from esper_trl import EsperCallback, check as tiny

class Keep(EsperCallback):
    made_of = []
    shown = []
    def _report(self, update, new, logs):
        super()._report(update, new, logs)
        mask = update.generation.mask
        r = (new.log_prob - update.old.log_prob)[mask].double()
        self.made_of.append([float((torch.expm1(r) - r).sum()), int(mask.sum()), len(mask)])
        last = self.last
        self.shown.append([last.kl_divergence, last.kl_joint, last.divergences[0].per_decision, last.env_steps,
                           last.heads[0].decisions])

folder, model = Path(sys.argv[1]), sys.argv[2]
args = trl.GRPOConfig(output_dir=str(folder / "trl"), per_device_train_batch_size=4, num_generations=4,
    gradient_accumulation_steps=1, max_completion_length=8, learning_rate=1e-2, lr_scheduler_type="constant", beta=0.1,
    max_steps=3, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, bf16=False, seed=0,
    ddp_backend="gloo")
trainer = trl.GRPOTrainer(model=model, processing_class=tiny.tiny_tokenizer(), args=args, reward_funcs=tiny.tiny_reward,
    train_dataset=tiny.tiny_dataset())
callback = Keep("ranks", sinks=["journal"], settings={"run": {"dir": str(folder / "runs")}})
callback.attach(trainer)
trainer.train()
(folder / f"found-{os.environ['RANK']}.json").write_text(json.dumps({"made_of": callback.made_of,
    "shown": callback.shown, "failures": callback.run.counts.failures, "path": str(callback.run.path),
    "processes": trainer.accelerator.num_processes}))
torch.distributed.destroy_process_group()
"""


def test_two_ranks_show_the_kl_of_both(model: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(tmp_path), model],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    assert [process.wait(timeout=250) for process in started] == [0, 0]
    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    assert [item["processes"] for item in found] == [2, 2]
    assert found[0]["shown"] == found[1]["shown"], "each rank has the same numbers"
    for update in range(3):
        total, tokens, sequences = (
            sum(part) for part in zip(found[0]["made_of"][update], found[1]["made_of"][update], strict=True)
        )
        kl, joint, _, env_steps, decisions = found[0]["shown"][update]
        assert kl == pytest.approx(total / tokens, rel=1e-6)
        assert joint == pytest.approx(total / sequences, rel=1e-6)
        assert (decisions, env_steps) == (tokens, 8 * (update + 1))
    assert [item["failures"] for item in found] == [0, 0]
    assert found[1]["path"] == "None", "rank 0 keeps the run"
    assert len(list(open_run(found[0]["path"]).updates())) == 3


def test_a_second_train_is_a_run_of_its_own(model: str, tmp_path: Path) -> None:
    callback = Keep(tmp_path / "runs")
    trainer = trained(model, callback, tmp_path, max_steps=1)
    trainer.train()
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert [update.update_id for update in callback.updates] == [1, 1]


def test_the_private_names_are_where_they_were(model: str, tmp_path: Path) -> None:
    """The drift test: what the adapter reads of this release of TRL means what it takes it for."""
    assert adapter.fits
    for kind in ("GRPO", "RLOO"):
        trainer = made(model, tmp_path, kind, max_steps=2, steps_per_generation=2, num_iterations=1)
        assert all(hasattr(trainer, name) for name in PRIVATE)
        assert (trainer._step, trainer._buffered_inputs) == (0, None)
        trainer.train()
        assert trainer._step == 2
        assert len(trainer._buffered_inputs) == 2
        for batch in trainer._buffered_inputs:
            assert {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"} <= set(batch)
            assert len(batch["completion_ids"]) == 4
        assert ("old_per_token_logps" in trainer._buffered_inputs[0]) is (kind == "GRPO")


def test_the_check_compares_every_number(tmp_path: Path) -> None:
    result = adapter.check(tmp_path)
    assert result.holds
    assert len(result.compared) == 6
