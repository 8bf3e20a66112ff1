"""The command line: words in, functions called, text out. Wiring only; torch is imported where it is used."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import tinygpt
from tinygpt.config import TEMPERATURE
from tinygpt.errors import (
    INTERRUPTED,
    IO_ERROR,
    LOCKED,
    OUT_OF_MEMORY,
    TERMINATED,
    USAGE,
    UserError,
    did_you_mean,
    exit_code_of,
)
from tinygpt.inspect import FUNCTIONS
from tinygpt.signals import STOPPING, signals_waiting


class Commands(TyperGroup):
    """All commands, with what typer would turn into exit codes without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C says that nothing was lost, and a reader that has gone away is no error."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                flush()
        except KeyboardInterrupt:
            fail("interrupted; nothing was lost that had been saved.", INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
            raise SystemExit(0) from None


def flush() -> None:
    """Write out what was printed, here and not when Python ends, where it would complain; a closed terminal is none."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=Commands, name="tinygpt", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="From a text file to a tiny language model that writes.",
    epilog="Start with: tinygpt train my.txt  (or just: tinygpt train)",
)  # fmt: skip
inspector = typer.Typer(no_args_is_help=True, help="Look inside a model: functions of tinygpt.inspect, by name.")
app.add_typer(inspector, name="inspect")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A name under runs/ or a path; RUN@last or RUN@STEP picks a checkpoint.")]  # fmt: skip
MAX_SEED = 2**31 - 1
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
EngineOption = Annotated[
    str, typer.Option(help="What computes: native (C, fast, on the CPU), plain (PyTorch), or auto.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def main() -> None:
    """Run the command line; every expected failure is one sentence and a documented exit code (errors.py)."""
    try:
        run_app()
    except SystemExit as leaving:
        # Whoever stops it does not wait until Python has tidied up, and torch's threads for talking to other ranks can
        # crash or hang that.
        met_others = getattr(sys.modules.get("tinygpt.distributed"), "met_others", False)
        if met_others or leaving.code in (INTERRUPTED, TERMINATED):
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(int(leaving.code or 0))
        raise


def run_app() -> None:
    """Run the command that the words name; always ends with SystemExit, unless there is a bug."""
    # Threads that wait for each other by spinning bring two busy cores to a crawl; this many spins cost an idle
    # machine 5 % and give back 50 % and more on a busy one (LOG.md). Read when torch is loaded, later than this.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else pages of C++ stand beside our sentence on a lost rank
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a cp1252 console never raises
    try:
        raise SystemExit(app(standalone_mode=False))
    except UserError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}.", IO_ERROR)
    except (MemoryError, RuntimeError) as error:  # torch says it with a RuntimeError
        if exit_code_of(error) != OUT_OF_MEMORY:
            raise
        fail(
            "out of memory; use a smaller n_embd, n_layers or batch_size, or micro_batch=1 with the same batch.",
            OUT_OF_MEMORY,
        )
    except Exception as error:  # typer's own: a word or a value that no command takes
        if not hasattr(error, "format_message"):
            raise
        if sentence := " ".join(error.format_message().split()):  # none where the help was shown instead
            fail(f"{sentence.rstrip('.')} (see {help_command(error)}).", USAGE, by_all=True)
        raise SystemExit(USAGE) from None


def help_command(error: Any) -> str:
    """The command whose help answers an error of typer."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'tinygpt'} --help"


def fail(sentence: str, exit_code: int, by_all: bool = False) -> None:
    """Print the sentence on standard error and leave; of what all ranks find out by themselves the first speaks."""
    from tinygpt.display import safe_text

    if not by_all or os.environ.get("WORLD_SIZE", "1") in ("", "1") or os.environ.get("RANK") == "0":
        with contextlib.suppress(OSError):  # the terminal was closed
            print(f"tinygpt: {safe_text(sentence)}", file=sys.stderr)
    raise SystemExit(exit_code)


def show(value: Any, text: str, as_json: bool) -> None:
    """One result, for programs or for people."""
    if as_json:  # any console can show ASCII, and an escape that it must make itself would not be JSON
        text = json.dumps(value, ensure_ascii=(sys.stdout.encoding or "").lower() not in ("utf-8", "utf8"), indent=1)
    print(text)


def note(sentence: str) -> None:
    """Something worth knowing that is no error."""
    print(f"Note: {sentence}", file=sys.stderr)


def load_onto(run: str, device: str) -> tuple[Any, Any, Any]:
    """A run, its model on a device, and the checkpoint that it came from; what is odd about them is noted."""
    from tinygpt import runs
    from tinygpt.config import TrainConfig
    from tinygpt.distributed import choose_machine

    loaded, model, checkpoint, notices = runs.load(run)
    for notice in notices:
        note(notice)
    return loaded, model.to(choose_machine(TrainConfig(device=device)).device), checkpoint


def unrolled(path: Path) -> Path:
    """The path with ~ as the home folder: of --out=~/x the shell leaves it as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path's raises where there is no such user)


def read_stdin() -> str:
    """Standard input as text: UTF-8 or what it is found to be, whatever the locale says."""
    from tinygpt.corpus.encodings import decode

    return decode(sys.stdin.buffer.read(), "standard input")[0]


def version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        print(f"tinygpt {tinygpt.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:  # fmt: skip
    """From a text file to a tiny language model that writes."""


def sort_words(words: list[str] | None) -> tuple[list[str], dict[str, str]]:
    """Texts, and settings by name: a word with = is a setting unless it is a file."""
    from tinygpt.config import parse_assignments

    texts = [word for word in words or [] if "=" not in word or Path(word).exists()]
    return texts, parse_assignments([word for word in words or [] if word not in texts])


def wishes(
    texts: list[str], assigned: dict[str, str], budget: tuple[float | None, int | None, float | None],
    preset: str | None, val: str | None, config: Path | None, say: Any, origin: str | None = None,
) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
    """The sources, and the options of `prepare.decide`, that a command line asks for."""
    from tinygpt.config import DEFAULT_PRESET, OWNER, read_toml, user_defaults
    from tinygpt.plan import Budget
    from tinygpt.prepare import default_corpus

    if origin is not None and preset is not None:
        raise UserError(f"--preset {preset} cannot be chosen with --from: the shape is that of {origin}.")
    defaults = user_defaults()
    if origin is not None:  # of models made here; this one is there already
        defaults = {name: value for name, value in defaults.items() if OWNER.get(name) != "model" and name != "start"}
    given = {**defaults, **(read_toml(config) if config else {}), **assigned}
    checked = Budget(*budget)
    if budget != (None, None, None):
        if "max_steps" in assigned:
            raise UserError("max_steps=... excludes --minutes, --steps and --epochs; give one of them.")
        given.pop("max_steps", None)  # the command line wins over the files
    return texts or [str(default_corpus(say))], {
        "preset": preset or DEFAULT_PRESET, "given": given, "budget": checked, "val": val, "say": say,
        "command": shlex.join(["tinygpt", *sys.argv[1:]]), "origin": origin,
    }  # fmt: skip


@contextlib.contextmanager
def claim(run: str | None, resume: bool, texts: list[str]) -> Iterator[Path]:
    """The folder of the run to train, held for this process: a new one, or with `resume` the one to go on with."""
    from tinygpt.folders import RUNS, check_name, lock, names_like, newest, refuse_existing, resolve

    if resume:
        folder = resolve(check_name(run))[0] if run is not None else newest()
        with lock(folder):
            yield folder
        return
    stem = "tiny_corpus" if not texts else "stdin" if texts[0] == "-" else Path(texts[0]).stem
    names = names_like(stem) if run is None else [check_name(run)]
    with contextlib.ExitStack() as stack:
        for name in names:
            folder = RUNS / name
            if run is None and folder.exists():
                continue
            refuse_existing(folder)
            try:
                stack.enter_context(lock(folder))
            except UserError as error:
                if run is None and error.exit_code == LOCKED:  # somebody began a run of this name just now
                    continue
                raise
            if run is None and (folder / "config.json").exists():  # begun and ended just before
                stack.close()
                continue
            refuse_existing(folder)
            yield folder
            return


@contextlib.contextmanager
def leaving_tidily() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does by itself: what is half-made is removed. Ignored ones stay so."""

    def leave(*_: object) -> None:
        fail("terminated; nothing was lost that had been saved.", TERMINATED, by_all=True)

    before = {number: signal.signal(number, leave) for number in STOPPING if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


WordsArgument = Annotated[list[str] | None, typer.Argument(metavar="[TEXT ...] [field=value ...]", help="Text files, folders or - (standard input); settings by name.")]  # fmt: skip
MinutesOption = Annotated[float | None, typer.Option(help="Train about this long (default 3).")]
StepsOption = Annotated[int | None, typer.Option(help="Train this many steps.")]
EpochsOption = Annotated[float | None, typer.Option(help="Train this many passes over the text.")]
PresetOption = Annotated[str | None, typer.Option(help="Architecture: tutorial, gpt2 or modern (the default).")]
ValOption = Annotated[str | None, typer.Option(help="Validation text of your own, instead of a part of TEXT.")]
FromOption = Annotated[str | None, typer.Option("--from", metavar="SOURCE", help="Start from another model: a RUN, or a folder of Hugging Face's (gpt2 or qwen3).")]  # fmt: skip
ConfigOption = Annotated[Path | None, typer.Option(help="TOML file with settings.")]


@app.command("plan")
def plan_command(
    words: WordsArgument = None,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    preset: PresetOption = None,
    val: ValOption = None,
    config: ConfigOption = None,
    origin: FromOption = None,
    as_json: JsonOption = False,
) -> None:
    """What train would do: measure this machine, choose every setting, say why; nothing is trained or written."""
    from tinygpt.prepare import decide, plan_text

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr if as_json else sys.stdout)

    texts, assigned = sort_words(words)
    sources, options = wishes(texts, assigned, (minutes, steps, epochs), preset, val, config, say, origin)
    planned = decide(sources, **options)
    show(planned.to_dict(), plan_text(planned), as_json)


def write_page(run: Any) -> list[str]:
    """The page about a run that has ended, and what to say of it; without a package that it needs there is none."""
    try:
        from tinygpt.report_page import write_at_end
    except ImportError as error:  # an environment that was put together by hand
        return [f"Note: report.html is left out, since {error.name} is not installed."]
    return write_at_end(run)


@app.command("train")
def train_command(
    words: WordsArgument = None,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    preset: PresetOption = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run (default: from the text).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run named by --run, else the newest.")] = False,
    val: ValOption = None,
    config: ConfigOption = None,
    origin: FromOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Sentences only, no progress.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Draw the curves in TensorBoard too.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="In Weights & Biases too (offline unless WANDB_MODE is set).")] = False,
    trackio: Annotated[bool, typer.Option("--trackio", help="In trackio too.")] = False,
) -> None:  # fmt: skip
    """Train a model on your text, or on built-in stories if you name none.

    Settings by name: n_embd n_heads n_layers block_size vocab_size dropout batch_size lr weight_decay warmup_steps
    max_steps eval_every save_every log_every seed device ... (a wrong name lists them all).
    """
    from tinygpt.tracking import refuse_missing, tracking

    texts, assigned = sort_words(words)
    if resume and (
        texts or assigned or val or config or preset or origin or (minutes, steps, epochs) != (None, None, None)
    ):
        only = "takes only --run, --quiet, --tensorboard, --wandb and --trackio"
        raise UserError(f"--resume goes on with the run as it was planned and {only}.")
    sinks = [name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb), ("trackio", trackio)) if wanted]
    refuse_missing(sinks)
    by_itself = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    with contextlib.ExitStack() as stack:
        stack.enter_context(leaving_tidily())
        claimed = stack.enter_context(claim(run, resume, texts)) if by_itself else None  # at once: torch takes seconds
        with signals_waiting():
            from tinygpt.display import make_display
            from tinygpt.distributed import Machine, choose_machine, join
            from tinygpt.prepare import prepare
            from tinygpt.records import METRICS, read
            from tinygpt.report import closing_report
            from tinygpt.runs import open_run
            from tinygpt.train import set_up, train

        ranks = stack.enter_context(join())
        shown = sys.stdout if ranks.first else stack.enter_context(Path(os.devnull).open("w"))
        display = make_display(shown, quiet=quiet or not ranks.first)
        if not ranks.first:
            told = ranks.tell()  # when the run is there
            folder, machine = Path(told["folder"]), Machine(ranks.device(told["device"]), told["bf16"], "", ranks)
            opened, _ = open_run(folder)
        else:
            folder = claimed or stack.enter_context(claim(run, resume, texts))
            if resume:
                opened, notices = open_run(folder)
                machine = choose_machine(opened.config.train, ranks)
                for notice in [*notices, f"Device: {machine.why}"]:
                    display.say(notice)
            else:
                budget = (minutes, steps, epochs)
                sources, options = wishes(texts, assigned, budget, preset, val, config, display.say, origin)
                opened, machine = prepare(folder, sources, ranks=ranks, **options)
            ranks.tell({"folder": str(folder), "device": machine.device.type, "bf16": machine.bf16})
        session = set_up(opened, machine, display, resume)
        with display:
            history = read(folder / METRICS) if ranks.first else []
            display.start(folder.name, opened.config.train.max_steps, opened.marks, history)
            with tracking(sinks if ranks.first else (), session.log, opened.to_dict(), display.say):
                code = train(session)
        if not session.finished:
            display.say(f"Stopped at step {session.progress.step:,} and saved. "
                        f"Go on: tinygpt train --resume --run {folder.name}")  # fmt: skip
        if ranks.first:
            display.say(closing_report(opened, session.finished))
            for sentence in write_page(opened):
                display.say(sentence)
    raise typer.Exit(code)


@app.command()
def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(help="The beginning of the text; - reads standard input; empty starts a document.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token; 1 draws as the model says.")] = TEMPERATURE,
    top_k: Annotated[int, typer.Option(help="Draw among the k likeliest tokens (0: all).")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest tokens that sum to p.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: repeat less.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Above 0: use other tokens than those written so far.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same, for each time that one was written.")] = 0.0,
    logit_bias: Annotated[list[str] | None, typer.Option(metavar="ID=BIAS", help="Make a token likelier; -100 forbids it (may be repeated).")] = None,
    logprobs: Annotated[int | None, typer.Option(min=0, help="With --json: the log-probability of each token, and so many likeliest.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this string (may be repeated).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same text.")] = 0,
    num: Annotated[int, typer.Option(help="Number of texts; seeds count up.")] = 1,
    device: DeviceOption = "cpu",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let a model write on from a prompt."""
    from tinygpt.display import safe_text
    from tinygpt.inference import Continuation, check_request, choose_decoder, encode_prompt, write_on
    from tinygpt.sampling import Sampling, parse_bias

    if num < 1:
        raise UserError(f"num {num} must be 1 or more.")
    check_request(max_new_tokens, stop or ())
    if logprobs is not None and not as_json:
        raise UserError("--logprobs goes with --json.")
    sampling = Sampling(
        temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty,
        parse_bias(logit_bias or ()),
    )  # fmt: skip
    loaded, model, checkpoint = load_onto(run, device)
    prompt = read_stdin() if prompt == "-" else prompt
    ids, block_size = encode_prompt(loaded.tokenizer, prompt), model.config.block_size
    if len(ids) + max_new_tokens > block_size:
        note(f"prompt ({len(ids):,} tokens) and answer go beyond the context of {block_size} tokens: "
             "the window slides, and what stands further back is forgotten.")  # fmt: skip
    decoder = choose_decoder(model, engine, say=note)
    texts = []
    for i in range(num):
        text = Continuation(
            loaded.tokenizer, ids, max_new_tokens, sampling, seed=seed + i, stop=stop or (), logprobs=logprobs
        )
        pieces = write_on(model, text, decoder)
        if as_json:
            sample = {"seed": seed + i, "prompt": prompt, "text": "".join(pieces), "finish_reason": text.finished}
            texts.append(sample | ({} if logprobs is None else {"logprobs": text.chances_told()}))
            continue
        if num > 1:
            print(f"--- seed {seed + i}")
        print(safe_text(prompt), end="")
        for piece in pieces:
            print(safe_text(piece), end="", flush=True)
        print()
    if as_json:
        show({"run": loaded.folder.name, "step": checkpoint.step, "samples": texts}, "", True)


@app.command()
def chat(
    run: RunArgument,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="It writes at most so many tokens at a time.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token; 1 draws as the model says.")] = TEMPERATURE,
    top_k: Annotated[int, typer.Option(help="Draw among the k likeliest tokens (0: all).")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest tokens that sum to p.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: repeat less.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed and lines give the same text.")] = 0,
    device: DeviceOption = "cpu",
    engine: EngineOption = "auto",
) -> None:  # fmt: skip
    """Write by turns with a model: it continues what stands there. Lines that begin with / are commands (/help)."""
    from tinygpt.chat import Chat, converse
    from tinygpt.inference import choose_decoder
    from tinygpt.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    loaded, model, _ = load_onto(run, device)
    decoder = choose_decoder(model, engine, say=note)
    converse(Chat(model, loaded.tokenizer, sampling, max_new_tokens, seed, decoder), loaded.folder.name)


@app.command()
def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own demands a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[str, typer.Option(envvar="TINYGPT_API_KEY", help="Clients must send it; others can see it in a list of processes, so rather set the variable.")] = "",
    allowed_host: Annotated[list[str] | None, typer.Option(help="A name, besides localhost, under which clients may call; repeatable.")] = None,
    cors: Annotated[str, typer.Option(metavar="ORIGIN", help="Let the pages of this origin use the server.")] = "",
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Texts written at once; more wait.")] = 8,
    grace: Annotated[int, typer.Option(min=0, max=3600, help="Seconds that running answers get after Ctrl-C or SIGTERM.")] = 30,
    engine: EngineOption = "auto",
    device: DeviceOption = "cpu",
) -> None:  # fmt: skip
    """Serve a model to OpenAI's clients: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics."""
    from tinygpt.serve.run import serve as listen

    loaded, model, _ = load_onto(run, device)
    listen(
        model, loaded.tokenizer, loaded.folder.name, host=host, port=port, api_key=api_key,
        allowed_hosts=allowed_host or [], cors=cors, n_slots=parallel, grace_s=grace, engine=engine,
        say=note,
    )  # fmt: skip


@app.command()
def studio(
    runs_dir: Annotated[Path, typer.Argument(metavar="[RUNS_DIR]", help="The folder of the runs.")] = Path("runs"),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one (default: 7860, or the next that is free).")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open nothing.")] = False,
) -> None:  # fmt: skip
    """Look inside your models in the browser, over their whole training; train others from there."""
    if runs_dir.exists() and not runs_dir.is_dir():
        raise UserError(f"{runs_dir} is no folder; name the folder that holds your runs.")
    if (runs_dir / "config.json").is_file():
        raise UserError(f"{runs_dir} is a run; name the folder that it is in: tinygpt studio {runs_dir.parent}.")
    from tinygpt.studio.run import run as show_runs

    show_runs(runs_dir, port, not no_browser)


@app.command("export")
def export_command(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", help="hf (transformers), gguf (llama.cpp, Ollama) or onnx (onnxruntime).")],
    out: Annotated[Path | None, typer.Option("--out", help="Where it goes (default: exports/NAME-hf, ...).")] = None,
    encoding: Annotated[str, typer.Option(help="Of the weights: f32; for gguf also f16 or q8_0.")] = "f32",
    as_json: JsonOption = False,
) -> None:
    """Take a model elsewhere: written, loaded back with the real program, compared, and only then put in its place."""
    with leaving_tidily():
        with signals_waiting():
            from tinygpt.export import export
        result = export(run, to, out and unrolled(out), encoding)
    show(result.to_dict(), "\n".join(result.sentences), as_json)


@app.command("eval")
def evaluate(
    run: RunArgument,
    text: Annotated[str | None, typer.Argument(help="A text to score (default: the run's validation text).")] = None,
    tales: Annotated[int, typer.Option(min=0, help="Tales to write and parse, if trained on built-in tales.")] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Bits per byte on unseen text beside simpler models, copying, and the quality of tales."""
    from tinygpt.report import eval_text, evaluate_run

    if sys.stderr.isatty():
        print("Scoring, and letting the model write; this can take a minute or two ...", file=sys.stderr)
    result = evaluate_run(run, text, tales, device)
    for notice in result["notices"]:
        note(notice)
    show(result, eval_text(result), as_json)


@app.command()
def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where the page goes (default: report.html in the run folder, and loss.png beside it).",
        ),
    ] = None,
) -> None:
    """One page about a run, to keep or to pass on: curves, samples, tokenizer, attention, settings; no network needed."""
    from tinygpt.folders import resolve_whole
    from tinygpt.report_page import write_report
    from tinygpt.runs import open_run

    opened, notices = open_run(resolve_whole(run))
    for notice in notices:
        note(notice)
    print("\n".join(write_report(opened, out and unrolled(out))))


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help="Runs to put side by side.")],
    as_json: JsonOption = False,
) -> None:
    """Runs side by side: what differs in their settings, and what came out."""
    from tinygpt.inspect.dynamics import compare_runs
    from tinygpt.report import compare_text

    result = compare_runs(runs)
    show(result, compare_text(result), as_json)


@app.command()
def corpus(
    source: Annotated[str, typer.Argument(metavar="NAME|FILE", help="tales, tinystories, sherlock, shakespeare, or a text of your own to examine.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where a named corpus goes.")] = None,
    megabytes: Annotated[float | None, typer.Option(help="How much of it, for tales (4) and tinystories (10).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Another seed tells other tales.")] = 0,
    encoding: Annotated[str | None, typer.Option(help="Encoding of FILE, e.g. cp1252 (default: UTF-8, else detected).")] = None,
    newlines: Annotated[str | None, typer.Option(help="lf reads CRLF in FILE as LF (default), keep keeps it.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write or download a named corpus, or report what is in a text of your own."""
    from tinygpt.config import DataConfig
    from tinygpt.corpus import load, report_text
    from tinygpt.corpus.named import NAMES, write_named
    from tinygpt.corpus.progress import ProgressLine
    from tinygpt.prepare import DEFAULT_CORPUS

    target = Path(source)
    if source not in NAMES and not target.exists() and source != "-":
        near = did_you_mean(source, [*NAMES, *(path.name for path in Path().iterdir())])
        raise UserError(f"there is no file and no corpus {source!r}{near}; corpora are {', '.join(NAMES)}.")
    if (source not in NAMES or target.exists()) and (output, megabytes) != (None, None):
        raise UserError(f"-o and --megabytes go with a named corpus ({', '.join(NAMES)}); {source} is only read.")
    if source in NAMES and not target.exists():
        if (encoding, newlines) != (None, None):
            raise UserError(f"--encoding and --newlines go with a text of your own; {source} is UTF-8 with LF.")
        target = output or DEFAULT_CORPUS
        if target.exists():
            raise UserError(f"{target} exists and is not overwritten; choose another with -o FILE, or remove it.")
        with ProgressLine(source, sys.stderr) as line:
            write_named(source, target, megabytes=megabytes, seed=seed, progress=line, notify=line.say)
        print(f"Wrote {target} ({target.stat().st_size / 1e6:.2f} MB).", file=sys.stderr)
    text = str(target) if source in NAMES else source
    result = load([text], encoding=encoding, newlines=newlines or DataConfig.newlines)
    show(result.report, report_text(result.report), as_json)


@inspector.command("tokens")
def inspect_tokens(
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="The text to take apart; - reads standard input.")],
    as_json: JsonOption = False,
) -> None:
    """How the run's tokenizer cuts a text: pieces, ids, bytes, and the merges that built each piece."""
    from tinygpt.inspect.tokens import render, tokenize

    result = tokenize(run, read_stdin() if text == "-" else text)
    show(result, render(result), as_json)


class Function(TyperCommand):
    """A function of tinygpt.inspect; what it takes is read from its source when its help is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The function's own description below the usage."""
        from tinygpt.inspect.command import called, described

        self.help = f"{self.help}\n\n{described(called(str(self.name), ()))}"
        super().format_help(ctx, formatter)


WhatArgument = Annotated[list[str] | None, typer.Argument(metavar="[TEXT] [name=value ...]", help="A text (- reads standard input), and arguments by name.")]  # fmt: skip
PngOption = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Draw it into FILE.")]
BodyOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON: the body of the studio's reply.")]


def add_function(word: str, what: str) -> None:
    """The command `tinygpt inspect WORD`."""

    def command(
        run: RunArgument, words: WhatArgument = None, as_json: BodyOption = False, png: PngOption = None
    ) -> None:
        from tinygpt.inspect.command import called, run_function, shown

        given = [read_stdin() if text == "-" else text for text in words or ()]
        result = run_function(called(word, given), [run], given)
        if png is not None:
            from tinygpt.inspect.png import draw

            draw(result, png)
            note(f"wrote {png}.")
        if as_json:
            typer.echo(result.to_json(), nl=False)
        elif png is None:
            print(shown(result))

    inspector.command(word, cls=Function, help=f"{what[0].upper()}{what[1:]}.", no_args_is_help=True)(command)


for word, (_, _, what) in {
    **FUNCTIONS,
    "embeddings": ("", "", "tokens near a piece of text; without one, the length of each token's vector"),
    "dynamics": ("", "", "spikes, norms and updates of each layer over the training (health)"),
}.items():
    add_function(word, what)


@app.command()
def doctor(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run to check; without one, this machine.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Remove what interrupted saves left behind, nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """What this machine offers, or whether a run is whole and what a resume would do."""
    from tinygpt.folders import resolve_whole

    if repair and run is None:
        raise UserError("--repair goes with a RUN: tinygpt doctor RUN --repair.")
    folder = resolve_whole(run) if run else None
    from tinygpt.doctor import doctor_text, examine_machine, examine_run, repair_run

    removed = repair_run(folder) if folder and repair else []
    result = examine_run(folder) | ({"removed": removed} if repair else {}) if folder else examine_machine()
    show(result, doctor_text(result), as_json)
    raise typer.Exit(result.get("exit_code", 0))
