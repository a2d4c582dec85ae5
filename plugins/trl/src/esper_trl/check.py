"""``esper adapters check trl``: a tiny training, offline, in which TRL's numbers and Esper's are the same.

TRL logs no KL of the behaviour policy. It does define two numbers that Esper computes anew: the behaviour policy's
log-probabilities, kept when one generation gives several steps, and the KL to the reference model, which GRPO logs
before the first of those steps.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, GRPOTrainer

from esper_core.monitoring.adapter import AdapterCheck, Compared
from esper_trl.callback import EsperCallback

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import PPOUpdatePayload

__all__ = ["check", "tiny_dataset", "tiny_model", "tiny_reward", "tiny_tokenizer"]

UPDATES: Final = 3
_SPECIAL: Final = ("<pad>", "<eos>", "<unk>")
_VOCABULARY: Final = (*_SPECIAL, *(f"w{index}" for index in range(29)))


def tiny_tokenizer() -> Any:
    """A tokenizer of 29 words, made on the spot."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_VOCABULARY)}, unk_token="<unk>"))  # noqa: S106  # no password
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pad, eos, unknown = _SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad, eos_token=eos, unk_token=unknown, padding_side="left"
    )


def tiny_model(folder: Path, **changed: Any) -> str:
    """A Llama of one layer with weights drawn on the spot, saved below a folder: TRL loads its reference model anew."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(_VOCABULARY),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    path = str(folder / "model")
    LlamaForCausalLM(LlamaConfig(**(shape | changed))).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def tiny_dataset() -> Any:
    """Three prompts, again and again."""
    return Dataset.from_dict({"prompt": ["w1 w2 w3", "w4 w5", "w6"] * 20})


def tiny_reward(completions: list[str], **_: Any) -> list[float]:
    """One for each ``w1`` and each early end."""
    return [float(text.count("w1")) - 0.1 * len(text.split()) for text in completions]


class _Kept(EsperCallback):
    """Keeps what both define of every update, and stands for no sink at all."""

    def __init__(self, folder: Path) -> None:
        super().__init__("check", sinks=[], signals=False, settings={"run": {"dir": str(folder / "runs")}})
        self.updates: list[PPOUpdatePayload] = []
        self.log_probs: list[tuple[float, float]] = []
        self.logged: list[float] = []

    def _report(self, update: Any, new: Any, logs: dict[str, Any]) -> None:
        super()._report(update, new, logs)
        given, mask = update.generation.given("old_per_token_logps"), update.generation.mask
        self.log_probs.append((float(given[mask].mean()), float(update.old.log_prob[mask].mean())))
        if self.last is not None:
            self.updates.append(self.last)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=logs, **kwargs)
        if state.global_step % 2 and logs and "kl" in logs:  # the first of an update's two steps
            self.logged.append(float(logs["kl"]))


def check(folder: Path) -> AdapterCheck:
    """Train and compare."""
    torch.set_num_threads(1)  # of this command's own process: more are slower on a model this small
    disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL calls what Transformers is about to rename
        return _trained(folder)


def _trained(folder: Path) -> AdapterCheck:
    callback = _Kept(folder)
    args = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=4,
        num_generations=4,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_iterations=2,
        max_completion_length=8,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        beta=0.1,
        max_steps=2 * UPDATES,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=tiny_model(folder),
        processing_class=tiny_tokenizer(),
        args=args,
        reward_funcs=tiny_reward,
        train_dataset=tiny_dataset(),
    )
    trainer.remove_callback(PrinterCallback)
    callback.attach(trainer)
    trainer.train()
    compared = [
        Compared(
            what=f"update {update.update_id}, mean log-probability of a token under the behaviour policy",
            name="old_per_token_logps",
            theirs=theirs,
            ours=ours,
            tolerance=1e-5,
        )
        for update, (theirs, ours) in zip(callback.updates, callback.log_probs, strict=True)
    ]
    compared += [
        Compared(
            what=f"update {update.update_id}, KL to the reference model before its first step",
            name="kl",
            theirs=logged,
            ours=update.divergences[0].per_decision or 0.0,
            tolerance=1e-5,  # TRL sums exp(r) - 1 - r in float32, and its log has four to six decimals
        )
        for update, logged in zip(callback.updates, callback.logged, strict=True)
    ]
    return AdapterCheck(
        updates=len(callback.updates),
        expected=UPDATES,
        compared=tuple(compared),
        notes=("TRL logs no KL to the behaviour policy: its kl is to the reference model, and only with beta above 0",),
    )
