"""Hostile text, streams, file names and settings: what is done to a command, and how the command must end.

``SUITE`` is the list; ``test_words.py`` runs every row, and ``docs/explanation/hostile.md`` counts and lists them. In
``words``, ``{run}`` is a recorded run that is full of hostile text, ``{runs}`` its folder, ``{bytes}`` a folder whose
name is no UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ESCAPES", "SUITE", "Hostile"]

ESCAPES = "\x1b]0;title\x07\x1b[31mred\nsecond line\x9b2J\u202ereversed\u200b\r\x00"
"""Sets a terminal's title and colour, breaks the line, clears the screen and turns the reading direction."""
SMALL = "--preset none --set ppo.rollout_steps=16 --set env.n_envs=2 --set ppo.hidden=[4] --set ppo.epochs=1"
TRAIN = f"ppo --no-config --env CartPole-v1 --updates 2 {SMALL}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hostile:
    """One row.

    Attributes:
        name: of the test.
        does: what is done, for a table.
        words: the command line after ``esper``.
        says: parts of what is printed, on stdout and stderr together.
        code: exit code.
        stdout: ``file``, ``terminal``, ``full`` (a full disk), ``gone`` (a pipe that nobody reads) or ``slow`` (a pipe
            that never waits, and is read with pauses).
        stderr: the same.
        encoding: of both streams.
        variables: environment variables.
        config: the text of ``esper.toml``.
        needs: the module of a plugin without which the row is skipped.
        raw: what is printed goes to a file as it is: control characters in it are data.
    """

    name: str
    does: str
    words: str
    says: tuple[str, ...] = ()
    code: int = 0
    stdout: str = "file"
    stderr: str = "file"
    encoding: str = "utf-8"
    variables: dict[str, str] = field(default_factory=dict)
    config: str = ""
    needs: str = ""
    raw: bool = False


SUITE: list[Hostile] = []


def row(name: str, does: str, words: str, *says: str, **more: object) -> None:
    """Add a row."""
    SUITE.append(Hostile(name=name, does=does, words=words, says=says, **more))  # type: ignore[arg-type]  # fields


def setting(name: str, does: str, value: str, *says: str, code: int = 64, more: str = "") -> None:
    """Add a training with one setting that cannot work (beside another)."""
    also = f" --set '{more}'" if more else ""
    row(f"setting-{name}", does, f"{TRAIN} --sinks '' --set '{value}'{also}", value.partition("=")[0], *says, code=code)


# --- text from outside ----------------------------------------------------------------------------

_SHOWN = r"\u001b]0;title\u0007\u001b[31mred second line\u009b2J\u202ereversed\u200b"
row("replay-text", "a journal whose texts hold escapes, played", "replay {run}", _SHOWN)
row("runs-text", "the same run in the list of runs", "runs --dir {runs}", "failed")
row("runs-json-text", "the same as JSON", "runs --dir {runs} --json", r"\u001b]0;title\u0007")
row("sanctum-text", "the same in Sanctum", "sanctum {run} --once", r"\u001b]0;title", code=2, needs="esper_sink_tui")
row("export-text", "the same run exported to a terminal", "export {run} --csv", r"red", stdout="terminal")
row("export-file", "the same exported to a file: the data as it is", "export {run} --jsonl", r"\u001b[31mred", raw=True)
row("console-text", "the same played into the console sink", "replay {run} --to console", _SHOWN)
row("argument-text", "an unknown command with escapes in it", "'sp\x1b[31meak\nit'", r"sp\u001b[31meak it", code=64)
row("run-text", "a run that does not exist, with escapes in its name", "replay 'x\x1b[2J\ny'", r"x\u001b[2J y", code=64)
row("env-text", "an environment id with escapes", "ppo --no-config --env 'E\x1b[2J-v0'", r"E\u001b[2J-v0", code=64)
row(
    "config-text",
    "a key with escapes in the file",
    "config show",
    r"esper.toml: [ppo] unknown key",
    r"x\u001b[31m",
    code=64,
    config='[ppo]\n"x\\u001b[31m" = 1\n',
)
row(
    "config-value-text",
    "a value with escapes, shown as TOML that reads the same",
    "config show --toml",
    r'name = "a\u001b[31m\u009b"',
    config='[run]\nname = "a\\u001b[31m\\u009b"\n',
)
row(
    "raised-text",
    "an environment raises an exception with escapes",
    f"ppo --no-config --env hostile_words_env:HostileRaises-v0 --updates 9 {SMALL} --sinks ''",
    "ValueError: " + _SHOWN,
    "hostile_words_env.py, line 21, act()",
    code=1,
)
row(
    "raised-unprintable",
    "an environment raises an exception whose text cannot be had",
    f"ppo --no-config --env hostile_words_env:HostileMute-v0 --updates 9 {SMALL} --sinks ''",
    "Mute",
    code=1,
)

# --- streams --------------------------------------------------------------------------------------

_UNWRITTEN = "esper: cannot write the output: No space left on device"
for _name, _words in (
    ("version", "--version"),
    ("help", "--help"),
    ("runs", "runs --dir {runs}"),
    ("replay", "replay {run}"),
    ("export", "export {run}"),
    ("config", "config show"),
    ("sinks", "sinks"),
    ("compare", "compare {run} {run}"),
    ("report", "report {run} -o -"),
    ("adapters", "adapters"),
    ("runs-rm", "runs rm {run} --dry-run"),
):
    row(f"full-{_name}", f"`{_name}` on a full disk", _words, _UNWRITTEN, stdout="full", code=1)
    row(f"gone-{_name}", f"`{_name}` into a pipe that nobody reads", _words, stdout="gone", code=141)
    row(f"mute-{_name}", f"`{_name}` with nobody to read its messages", _words, stderr="gone", raw=_name == "export")
_SINKS = "--sinks console,journal"
row(
    "train-full",
    "training with its summary on a full disk",
    f"{TRAIN} {_SINKS}",
    "update    2",
    "cannot write to stdout: No space left on device; how the run ended is in",
    stdout="full",
)
row(
    "train-gone",
    "training with its summary into a pipe that nobody reads",
    f"{TRAIN} {_SINKS}",
    "cannot write to stdout: Broken pipe; how the run ended is in",
    stdout="gone",
)
row(
    "train-messages-full",
    "training with its progress on a full disk",
    f"{TRAIN} {_SINKS}",
    "done: 2 of 2 updates",
    "lost     nothing",
    "stderr took nothing more: No space left on device",
    stderr="full",
)
row(
    "train-messages-gone",
    "training with its progress into a pipe that nobody reads",
    f"{TRAIN} {_SINKS}",
    "healthy",
    "lost     nothing",
    "stderr took nothing more: Broken pipe",
    stderr="gone",
)
row("train-mute", "training with both on a full disk", f"{TRAIN} {_SINKS}", stdout="full", stderr="full")
row(
    "train-prints-full",
    "an environment that prints in each step, on a full disk",
    f"ppo --no-config --env hostile_words_env:HostilePrints-v0 --updates 2 {SMALL} --sinks ''",
    "cannot write to stdout",
    stdout="full",
)
row(
    "train-prints-slow",
    "an environment that prints a megabyte into a pipe that another program made non-blocking",
    f"ppo --no-config --env hostile_words_env:HostileLoud-v0 --updates 1 {SMALL} --sinks ''",
    "done: 1 of 1 updates",
    stdout="slow",
)
row(
    "train-closed",
    "an environment that closes stdout and stderr",
    f"ppo --no-config --env hostile_words_env:HostileCloses-v0 --updates 2 {SMALL} --sinks console",
    "update    2",
    "done: 2 of 2 updates",
)

# --- encodings and file names ---------------------------------------------------------------------

for _encoding in ("ascii", "cp1252", "utf-16", "shift_jis"):
    for _name, _words in (
        ("replay", "replay {run}"),
        ("runs", "runs --dir {runs}"),
        ("export", "export {run}"),
        ("config", "config show"),
        ("sinks", "sinks"),
        ("compare", "compare {run} {run}"),
        ("report", "report {run} -o -"),
        ("runs-rm", "runs rm {run} --dry-run"),
    ):
        row(f"{_encoding}-{_name}", f"`{_name}` in {_encoding}", _words, encoding=_encoding, raw=_name == "export")
row("ascii-train", "training in ASCII, under a name in Greek", f"{TRAIN} --run-name λόγος", "*", encoding="ascii")
row("ascii-sanctum", "Sanctum in ASCII", "sanctum {run} --once", code=2, encoding="ascii", needs="esper_sink_tui")
row("bytes-replay", "a run in a folder whose name is no text", "replay {bytes}", "2 updates")
row("bytes-runs", "its folder in the list of runs", "runs --dir {bytes}/..")
row("bytes-dir", "training into such a folder", f"{TRAIN} --dir {{bytes}}", "--dir", r"caf\xe9", "UTF-8", code=64)
row("bytes-name", "a run of such a name", f"{TRAIN} --run-name {{bytes}}", "--run-name", "UTF-8", code=64)
row("bytes-sink", "a sink of such a name", f"{TRAIN} --sink {{bytes}}", "--sink", "UTF-8", code=64)
row("bytes-resume", "going on with a run in such a folder", "ppo --resume {bytes} --updates 3", code=64)
row("bytes-config", "a configuration of such a name", "config show --config {bytes}", r"caf\xe9", code=64)

# --- settings that cannot work --------------------------------------------------------------------

setting("hidden-negative", "a layer of -3", "ppo.hidden=[-3]", ">= 1")
setting("hidden-none", "a layer of 0", "ppo.hidden=[8,0]", ">= 1")
setting("hidden-many", "a thousand layers", f"ppo.hidden=[{','.join(['1'] * 1000)}]", "100")
setting("hidden-wide", "layers of ten million", "ppo.hidden=[10000000,10000000]", "TiB of memory", "lower ppo.hidden")
setting("rollout", "a rollout beyond memory", "ppo.rollout_steps=1000000000000", "memory", "lower ppo.rollout_steps")
setting("envs", "a trillion environments", "env.n_envs=1000000000000", "memory", "lower env.n_envs")
_ENV = 'env.wrappers=["{}"]'
setting("wrapper-module", "a wrapper of no module", _ENV.format("gymnasium.wrapers:ClipReward"), "gymnasium.wrappers")
setting("wrapper-name", "a wrapper that does not exist", _ENV.format("ClipRewards"), 'did you mean "ClipReward"')
setting("wrapper-argument", "a wrapper's unknown argument", _ENV.format("ClipReward?mx_reward=1"), '"max_reward"')
setting("wrapper-fit", "a wrapper that does not fit", _ENV.format("GrayscaleObservation"), "cannot wrap", "Box")
setting("wrapper-vector", "a wrapper of vectors", _ENV.format("gymnasium.wrappers.vector:ClipReward"), "single")
setting("vector", "a way to step that there is not", 'env.vector="threads"', "choices: sync, async")
setting("masks-method", "masks of a method that is not there", 'env.masks="method"', "has no action_masks()")
setting(
    "processes", "ten thousand processes", "env.n_envs=10000", "would start 10000 processes", more='env.vector="async"'
)
setting("env-argument", "an unknown argument", "env.kwargs.sutton_barto_rewrd=1", 'did you mean "sutton_barto_reward"')
_NONE = "ppo --no-config --sinks '' --updates 1 --env"
row(
    "env-argument-kind",
    "an argument of the wrong kind, which the environment's constructor does not take",
    f"{_NONE} FrozenLake-v1 --set env.kwargs.map_name=3",
    "FrozenLake-v1 cannot be built: KeyError: 3",
    "frozen_lake.py, line",
    "is it what [env.kwargs] gives? map_name = 3",
    code=64,
)
row(
    "env-argument-late",
    "an argument of the wrong kind, which fails in a step",
    f"{_NONE} Pendulum-v1 {SMALL} --set env.kwargs.g=strong",
    "TypeError: unsupported operand",
    "pendulum.py, line",
    "is it what [env.kwargs] gives? g = 'strong'",
    code=1,
)
row(
    "env-near",
    "an id that is nearly one of its module",
    f"{_NONE} hostile_words_env:HostileRaise-v0",
    'did you mean "hostile_words_env:HostileRaises-v0"?',
    code=64,
)
row("env-package", "an id whose package is not installed", f"{_NONE} ale_py:ALE/Pong-v5", "pip install ale-py", code=64)
row("env-namespace", "the same without its module", f"{_NONE} ALE/Pong-v5", "--env ale_py:ALE/Pong-v5", code=64)
setting("threads", "100,000 threads", "ppo.threads=100000", "1024")
setting("device-meta", "a device that computes nothing", "ppo.device=meta", '"meta"', "here: auto, cpu")
setting("device-unknown", "no device", "ppo.device=gpu9", '"gpu9"', "here: auto, cpu")
setting("device-absent", "a device that is not there", "ppo.device=cuda:99", '"cuda:99"', "here: auto, cpu")
setting("rate-inf", "an infinite rate", "ppo.learning_rate=inf", "--set ppo.learning_rate")
setting("rate-nan", "a rate that is no number", "ppo.learning_rate=nan", "--set ppo.learning_rate")
setting("rate-overflow", "a rate beyond every float", "ppo.learning_rate=1e999", "--set ppo.learning_rate")
setting("interval-inf", "an infinite interval", "run.checkpoint_interval_s=inf", "finite")
setting("timeout-long", "a time-out of longer than clocks run", "run.close_timeout_s=1e300", "86400")
setting("epochs-wide", "epochs beyond 64 bits", "ppo.epochs=99999999999999999999999", "10000")
setting("steps-wide", "a limit beyond 64 bits", "run.steps=9223372036854775808", "64 bits")
setting("digits", "a number of 5,000 digits", f"run.steps={'9' * 5000}", "expected int")
setting("seed-wide", "a seed beyond 64 bits", "run.seed=18446744073709551616", "18446744073709551615")
setting("choice", "a word that is no choice", "ppo.kl_estimator=k1", "choices: k3, exact")
setting("nul", "a NUL in a path", 'run.dir="a\\u0000b"', "NUL")
setting("kind", "text for a number", "ppo.epochs=many", "expected int")
setting("foreign-name", "another library's name of a key", "ppo.lr=1", 'did you mean "learning_rate"')
row("runs-negative", "a negative number of runs", "runs -n -1", "-n is -1, at least 0 is needed", code=64)
for _name, _seed in (("negative", "-5"), ("wide", "18446744073709551616")):
    row(f"eval-seed-{_name}", f"an evaluation with seed {_seed}", f"eval {{run}} --seed {_seed}", "from 0 to", code=64)
for _name, _option in (("wide", "--width 100000000"), ("interval", "--interval nan")):
    row(
        f"sanctum-{_name}",
        f"`sanctum {_option}`",
        f"sanctum {{run}} --once {_option}",
        "--width",
        code=64,
        needs="esper_sink_tui",
    )
row(
    "variable-misspelt",
    "a variable with a misspelt key",
    "config show",
    'ESPER_PPO__LR: unknown key "lr", did you mean "learning_rate"?',
    code=64,
    variables={"ESPER_PPO__LR": "1"},
)
row(
    "variable-one-underscore",
    "a variable with one underscore for two",
    "config show",
    'did you mean "ESPER_PPO__TARGET_KL"?',
    code=64,
    variables={"ESPER_PPO_TARGET_KL": "1"},
)
row(
    "variable-near",
    "variables that nearly set something",
    "config show",
    'ESPER_PPO_TARGT_KL sets nothing: did you mean "ESPER_PPO__TARGET_KL"?',
    'esper_run__seed sets nothing: did you mean "ESPER_RUN__SEED"?',
    'ESPR_PPO__EPOCHS sets nothing: did you mean "ESPER_PPO__EPOCHS"?',
    'ESPER_DEBUGG sets nothing: did you mean "ESPER_DEBUG"?',
    variables={"ESPER_PPO_TARGT_KL": "1", "esper_run__seed": "1", "ESPR_PPO__EPOCHS": "1", "ESPER_DEBUGG": "1"},
)
row(
    "sink-table",
    "a table of no sink",
    "config show",
    "[sink.consol]: no sink of this name is selected or installed",
    'did you mean "console"?',
    code=64,
    config="[sink.consol]\nevery = 2\n",
    needs="esper_sink_console",
)
row(
    "sink-option",
    "an option that the sink does not have",
    "config show",
    '[sink.console] unknown key "evry", did you mean "every"?',
    code=64,
    config="[sink.console]\nevry = 2\n",
    needs="esper_sink_console",
)
row(
    "sink-choice",
    "an option's value that is no choice",
    "config show",
    "[sink.console] stream",
    "choices: stderr, stdout",
    code=64,
    config='[sink.console]\nstream = "x"\n',
    needs="esper_sink_console",
)
row(
    "sink-contradiction",
    "a sink that needs one that is left out",
    "ppo --no-config --no-sink journal --sink tui",
    'requires sink "journal", which `--no-sink journal` leaves out',
    code=64,
    needs="esper_sink_tui",
)
row("toml-broken", "a file that is no TOML", "config show", "esper.toml", "malformed TOML", code=64, config="= 1")
row(
    "toml-kind", "a table that is a number", "config show", "esper.toml: ppo: expected a table", code=64, config="ppo=1"
)
row(
    "toml-deep",
    "brackets two thousand deep",
    "config show",
    "esper.toml",
    code=64,
    config=f"a = {'[' * 2000}{']' * 2000}",
)
row("toml-digits", "a number of 5,000 digits", "config show", "esper.toml", code=64, config=f"a = {'9' * 5000}")
