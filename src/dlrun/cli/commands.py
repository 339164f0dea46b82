"""The table of contents of the command line: every command, its options and its help."""

from __future__ import annotations

from dlrun.cli.grammar import Command, Option

_HELP = Option(("--help", "-h"), "", "explain this command")
_DEBUG = Option(("--debug",), "", "show the traceback of an error")
_JSON = Option(("--json",), "", "print JSON on standard output, everything else on standard error")
_OUTPUTS = Option(("--outputs",), "DIR", "the folder of runs (else $DLRUN_OUTPUTS, else ./outputs)")
_CONFIG_DIR = Option(("--config-dir", "-cd"), "DIR", "a folder of your own config groups; may be repeated")
_CFG = Option(("--cfg", "-c"), "job|all", "print the composed config and stop", ("job", "all"))
_RESOLVE = Option(("--resolve",), "", "with --cfg: fill in the interpolations")
_PACKAGE = Option(("--package", "-p"), "KEY", "with --cfg: only this part, as in '--package optimizer'")
_CONFIG = Option(("--config",), "", "only the composed config; at once, for nothing is built")
_MULTIRUN = Option(("--multirun", "-m"), "", "the same as dlrun sweep")
_WORKERS = Option(("--workers",), "N", "trials at the same time; 1 by default")
_DRY_RUN = Option(("--dry-run",), "", "print the points and about how long they would take, and stop")
_AGAIN = Option(("--again",), "", "run a trial again although an equal run has finished")
_RESUME = Option(("--resume",), "SWEEP", "go on with a sweep: a directory, part of its name, or last")
_WORKER = Option(
    ("--worker",), "FOLDER", "work on the sweep in this folder until nothing is left, as its launcher does"
)
_SWEEP = Option(("--sweep",), "SWEEP", "the trials of this sweep, point by point; 'last' is the newest")
_ALL = Option(("--all",), "", "every trial of every sweep, each as a run of its own")
_SPLIT = Option(
    ("--split",),
    "NAME",
    "train, val or test; without it test, or else val",
    ("train", "val", "test"),
)
_OUTPUT = Option(("--output",), "FILE", "write to this file or folder instead of the run's; - is standard output")
_PROMPT = Option(("--prompt",), "TEXT", "a text to go on with (language models) or to classify (classifiers of text)")
_LENGTH = Option(("--length",), "N", "tokens to go on for; 500 by default")
_TEMPERATURE = Option(("--temperature",), "X", "below 1 safer, above 1 wilder, 0 the likeliest; 0.8 by default")
_TOP_K = Option(("--top-k",), "N", "draw from the N likeliest tokens only")
_COUNT = Option(("--count",), "N", "new examples to draw from a generator (gan, vae, rbm); 16 by default")
_SEED = Option(("--seed",), "N", "of everything drawn; 0 by default")
_SORT = Option(("--sort",), "KEY", "order by a column or metric; '-KEY' puts the largest first")
_FILTER = Option(("--filter",), "KEY=VALUE", "only runs with this value (* and ? match any); may be repeated")
_LIMIT = Option(("--limit",), "N", "at most N runs")
_HOST = Option(("--host",), "ADDRESS", "listen on this address instead of 127.0.0.1 (no password protects it)")
_PORT = Option(("--port",), "N", "listen on this port instead of the first free one from 6006")

_STEPS = Option(("--steps",), "N", "measure N steps as they are and N in parts, instead of about ten seconds")
_TRACE = Option(("--trace",), "[PATH]", "write a trace: a .json or .json.gz file, a TensorBoard folder, else into DIR")
_TRY_COMPILE = Option(("--try-compile",), "", "try engine=compile too, which takes half a minute or more")

_TRAIN = """\
An override picks an option of a group or sets a key; Hydra's whole grammar holds:
  model=cnn                   the option 'cnn' of the group 'model'
  optimizer.lr=0.01           a key of the chosen optimizer
  model.hidden=[64,32]        a list (quote it in zsh)
  experiment=NAME             a preset: several choices in one word
  +KEY=VALUE  ~KEY            add a key that is not there; take one away
  trust=[mypkg]               let configs name classes of your own package

Examples:
  dlrun train
  dlrun train model=cnn optimizer=adam data=mnist trainer.epochs=3
  dlrun train data=csv data.path=table.csv data.target=price
  dlrun train --cfg job --package optimizer"""

_SWEEP_TEXT = """\
Every override may name several values, in Hydra's grammar:
  optimizer.lr=1e-4,1e-3,1e-2      a list; model=cnn,mlp one of groups (a key that only one of them has is left out
                                   of the other's points)
  trainer.batch_size=range(32,129,32)   experiment=glob(*)   model.hidden=[32],[64,64]
  optimizer.lr=log(1e-4,1e-1)      an interval, for a search; interval(0,0.5) is even, int(interval(1,9)) whole numbers
Words for the sweep:
  seeds=5                          each point under five seeds, ranked by the mean (seed=1,2,3 names them)
  sweep=grid|random|tpe|cmaes      how points are chosen; sweep.trials=30 how many
  pruner=asha|hyperband|median     end a trial early that does worse than others did at its age
  launcher=auto|local|packed|slurm|ray    where and how trials run ('dlrun list launcher')
Every point is composed and checked before the first starts. Each trial is a run in a process of its own, or, where
trials differ in numbers only and it is faster, of a pack that trains as one stacked network. Configs are frozen: an
edit changes nothing. Killed at any time, 'dlrun sweep --resume last' goes on.

Examples:
  dlrun sweep optimizer.lr=1e-4,1e-3,1e-2 seeds=5
  dlrun sweep model=mlp,cnn 'optimizer.lr=log(1e-4,1e-1)' sweep=tpe sweep.trials=30 --workers 2
  dlrun sweep --resume last"""

_RUN = "RUN is a directory, a unique part of a run's name, or 'last'."

_PREDICT = f"""\
{_RUN}
INPUT is what the run was trained on: a table, pictures or a folder of them, a sound, a text. Answers in rows go into a
CSV file, pictures (super-resolution, autoencoders) into PNG files. A generator draws without INPUT.

Examples:
  dlrun predict last new_rows.csv --output predictions.csv
  dlrun predict last photo.png --output large.png
  dlrun predict last --prompt "ROMEO:" --length 300 --temperature 0.7 --top-k 40
  dlrun predict last --count 64 --seed 1"""

_PROFILE = """\
Trains a short while in a temporary folder and leaves nothing behind but a trace that was asked for. Gains are measured
on this machine, in turns with the present settings, or said to be bounds.

Examples:
  dlrun profile model=cnn data=fashion_mnist
  dlrun profile model=lstm data=text --steps 50 --json
  dlrun profile model=resnet data=cifar10 --trace trace.json.gz"""

COMMANDS: tuple[Command, ...] = (
    Command(
        "train",
        "train",
        "[OVERRIDE...]",
        "train a network and test its best checkpoint",
        "overrides",
        (_MULTIRUN, _CFG, _RESOLVE, _PACKAGE, _CONFIG_DIR, _OUTPUTS, _JSON, _DEBUG, _HELP),
        _TRAIN,
    ),
    Command(
        "sweep",
        "sweep",
        "WORD...",
        "train many trials: a grid or a search, over seeds, with a report",
        "overrides",
        (_WORKERS, _DRY_RUN, _AGAIN, _RESUME, _WORKER, _CONFIG_DIR, _OUTPUTS, _JSON, _DEBUG, _HELP),
        _SWEEP_TEXT,
    ),
    Command(
        "eval",
        "eval",
        "RUN",
        "measure a run's best checkpoint",
        "run",
        (_SPLIT, _OUTPUTS, _JSON, _DEBUG, _HELP),
        f"{_RUN}\n\nExample:\n  dlrun eval last --split val",
    ),
    Command(
        "predict",
        "predict",
        "RUN [INPUT...]",
        "predict from files, go on with a text or draw, with a run's best checkpoint",
        "run inputs",
        (_OUTPUT, _PROMPT, _LENGTH, _TEMPERATURE, _TOP_K, _COUNT, _SEED, _OUTPUTS, _JSON, _DEBUG, _HELP),
        _PREDICT,
    ),
    Command(
        "resume",
        "resume",
        "RUN [OVERRIDE...]",
        "go on with an unfinished run, to the same bits",
        "run overrides",
        (_OUTPUTS, _JSON, _DEBUG, _HELP),
        f"{_RUN}\n\nExample:\n  dlrun resume last",
    ),
    Command(
        "show",
        "show",
        "[OVERRIDE...]",
        "show the config, every layer, and what is chosen and why",
        "overrides",
        (_CONFIG, _CONFIG_DIR, _JSON, _DEBUG, _HELP),
        "Reads no data and trains nothing.\n\nExample:\n  dlrun show model=resnet data=cifar10",
    ),
    Command(
        "profile",
        "profile",
        "[OVERRIDE...]",
        "where the time of a training goes, and what would help",
        "overrides",
        (_STEPS, _TRACE, _TRY_COMPILE, _CONFIG_DIR, _OUTPUTS, _JSON, _DEBUG, _HELP),
        _PROFILE,
    ),
    Command(
        "list",
        "list_options",
        "[GROUP...]",
        "list what can be picked, one line of meaning each",
        "groups",
        (_CONFIG_DIR, _JSON, _DEBUG, _HELP),
        "Example:\n  dlrun list optimizer",
    ),
    Command(
        "runs",
        "runs",
        "",
        "table of runs: status, data, model, key metric, time",
        "",
        (_SORT, _FILTER, _LIMIT, _SWEEP, _ALL, _OUTPUTS, _JSON, _DEBUG, _HELP),
        "KEY is a column, a metric such as test/accuracy, or a dotted key of run.json.\n\n"
        "Example:\n  dlrun runs --filter data=digits --filter status=done --sort -test/accuracy --limit 5",
    ),
    Command(
        "board",
        "board",
        "",
        "open TensorBoard on the runs, on this machine only",
        "",
        (_PORT, _HOST, _OUTPUTS, _DEBUG, _HELP),
    ),
    Command(
        "completion",
        "completion",
        "bash|zsh|fish",
        "print the tab completion script of a shell",
        "shell",
        (_DEBUG, _HELP),
        'bash, zsh:  eval "$(dlrun completion bash)"   (in ~/.bashrc; zsh in ~/.zshrc)\n'
        "fish:       dlrun completion fish | source    (in ~/.config/fish/config.fish)",
    ),
)

BY_NAME = {command.name: command for command in COMMANDS}


def overview() -> str:
    """What ``dlrun --help`` prints."""
    lines = [
        "dlrun: deep learning experiments from the shell",
        "",
        "usage: dlrun COMMAND [WORDS] [OPTIONS]",
        "",
        "commands:",
        *(f"  {c.name + ' ' + c.usage:24} {c.meaning}" for c in COMMANDS),
        f"  {'help [COMMAND]':24} explain a command",
        "",
        "options:",
        f"  {'--help, -h':24} this page; after a command, its own",
        f"  {'--version':24} print the version",
        "",
        "start:",
        "  dlrun train                              a small network on real handwritten digits",
        "  dlrun train model=cnn optimizer=adam     pick parts by name ('dlrun list' names them)",
        "  dlrun model=cnn                          'train' may be left out before an override",
    ]
    return "\n".join(lines)


def explain(command: Command) -> str:
    """What ``dlrun COMMAND --help`` prints, without the groups."""
    spelled = [(", ".join(o.flags) + (f" {o.value}" if o.value else ""), o.meaning) for o in command.options]
    width = max(len(flags) for flags, _ in spelled)
    usage = " ".join(part for part in ("usage: dlrun", command.name, command.usage, "[OPTIONS]") if part)
    lines = [usage, "", f"{command.meaning[0].upper()}{command.meaning[1:]}."]
    lines += ["", command.text] if command.text else []
    lines += ["", "options:", *(f"  {flags:{width}}  {meaning}" for flags, meaning in spelled)]
    return "\n".join(lines)
