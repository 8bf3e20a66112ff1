"""A run as a GGUF file, what llama.cpp and the programs around it load (Ollama, LM Studio), and a Modelfile for Ollama.

llama.cpp's own converter knows a tokenizer by the hash of what it does to a test text, so it refuses every one that
somebody trained. Here the file is written directly, with the `gguf` package: the tokenizer as vocabulary and merges,
the weights by the names of llama.cpp, [out, in] as PyTorch has them. Modern is its qwen3, gpt2 its gpt2.

    f32     as trained                               4 bytes a number
    f16     matrices rounded to 11 binary digits     2
    q8_0    matrices as 8-bit integers, every 32     1.06
            of a row with a scale of their own

Vectors and GPT-2's table of positions stay f32 in all of them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinygpt import checkpoint
from tinygpt.config import Config, ModelConfig
from tinygpt.data import Ids, scoring_windows, total_bytes
from tinygpt.errors import MISMATCH, UserError
from tinygpt.evaluate import bits_per_byte
from tinygpt.export.origin import Source, python_command
from tinygpt.export.shapes import differences, shape_of
from tinygpt.folders import names_like
from tinygpt.model import TinyGPT
from tinygpt.storage import read_json, write_durable
from tinygpt.tokenizer import BOS, EOS, PAD, SPECIALS

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # general.file_type: llama.cpp's LLAMA_FTYPE_MOSTLY_*
QUANTIZATION_VERSION = 2  # of the layout of the quantised blocks
CONTEXT_STEP = 256  # llama.cpp rounds contexts up to a multiple of it
Q8_ROW = 32  # numbers that share a scale

# Tensor of a block, blk.N.NAME -> the modules of ours whose matrices are in it, one below the other.
_BOTH = {
    "attn_norm": ("norm_1",), "attn_output": ("attention.output",), "ffn_norm": ("norm_2",),
    "ffn_up": ("feed_forward.up",), "ffn_down": ("feed_forward.down",),
}  # fmt: skip
BLOCK: dict[str, dict[str, tuple[str, ...]]] = {
    "qwen3": {
        **_BOTH,
        "attn_q": ("attention.query",), "attn_k": ("attention.key",), "attn_v": ("attention.value",),
        "attn_q_norm": ("attention.query_norm",), "attn_k_norm": ("attention.key_norm",),
        "ffn_gate": ("feed_forward.gate",),
    },
    "gpt2": {**_BOTH, "attn_qkv": ("attention.query", "attention.key", "attention.value")},
}  # fmt: skip

# What `compare` asks of llama.cpp: the largest difference of a logit in an f32 file, and for every encoding that of the
# bits per byte [share of ours]. llama.cpp on a CPU has GELU from a table in half precision, which costs gpt2 its 1e-3.
LOGITS_WITHIN = {"qwen3": 1e-3, "gpt2": 1e-2}
BPB_WITHIN = {"f32": 1e-3, "f16": 1e-3, "q8_0": 1e-2}
SCORED_TOKENS = 4096  # of the validation text, its start
STRINGS = (
    "", " ", "Once upon a time", " two  spaces   three ", "\tone\n\n\ttwo\t\t", "CRLF\r\nand\r\n\r\nmore\r",
    "it's we'll I'd 'S", "0 12 345,678.90", "½ ² Ⅷ ٣", "naïve café, Zoë's", "e\u0301 combining", "Привет, мир", "שלום",
    "مرحبا", "नमस्ते", "สวัสดี", "日本語のテキスト。", "한국어 문장", "👩\u200d👩\u200d👧 🇫🇷 👍🏽!", "...!?;:--_=+*/\\",
    "\u00a0\u2003\u3000wide\u200bnone\u2028", "\ufeffBOM", "\x00\x01\x7f\x85", "http://a.b/c?d=e&f#g", "a" * 64,
    "<bos>", "a<eos>b", "<pad> <|endoftext|> <s></s> <unk>", "[INST] <|im_start|>", "\U0010ffff\ue000",
)  # fmt: skip


def refuse(config: Config) -> None:
    """UserError (exit 2) for a shape that no runtime of GGUF files has, with the field that differs."""
    if not differences(config.model, "tutorial"):
        raise UserError(
            "tutorial normalises after each sum; no GGUF runtime has this shape: train with --preset modern or gpt2."
        )
    architecture(config.model)


def architecture(config: ModelConfig) -> str:
    """llama.cpp's name for the shape, "qwen3" or "gpt2"; UserError if it is neither."""
    return shape_of(config, ("qwen3", "gpt2"))


# --- writing ---------------------------------------------------------------------------------------------------------


def write(s: Source, folder: Path, encoding: str) -> None:
    """NAME-ENCODING.gguf and Modelfile into `folder`; the same run, checkpoint and encoding give the same bytes.

    UserError (exit 2) if the package gguf is missing, or if a row of a matrix cannot be cut into blocks of q8_0.
    """
    try:
        import gguf  # the package: imports are absolute
    except ImportError:
        raise UserError("a GGUF file is written with the package gguf: pip install 'tinygpt[gguf]'.") from None
    config = s.run.config.model
    if encoding == "q8_0":
        refuse_rows(config)
    writer = gguf.GGUFWriter(folder / file_name(s, encoding), architecture(config))
    add_settings(writer, s, encoding)
    add_tokenizer(writer, s)
    for name, tensor in tensors(s.model).items():
        is_matrix = tensor.dim() == 2 and name != "position_embd.weight"
        kind = gguf.GGMLQuantizationType[encoding.upper() if is_matrix else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    try:
        with contextlib.closing(writer):
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
    except OSError as error:  # numpy says how much was written, not why it was not all
        reason = error.errno or errno.ENOSPC
        raise OSError(reason, os.strerror(reason), str(folder / file_name(s, encoding))) from None
    write_durable(folder / "Modelfile", modelfile(s, encoding).encode())


def refuse_rows(config: ModelConfig) -> None:
    """UserError if a width that is the length of a matrix row is not a multiple of 32."""
    widths = {"n_embd": config.n_embd, "n_heads * d_head": config.n_heads * config.d_head, "d_ff": config.d_ff}
    for name, width in widths.items():
        if width % Q8_ROW:
            raise UserError(
                f"{name}={width} is not a multiple of {Q8_ROW}, which q8_0 needs; export this run as f16 or f32."
            )


def add_settings(writer: Any, s: Source, encoding: str) -> None:
    """The keys general.* and ARCHITECTURE.*: what llama.cpp builds its graph from."""
    c = s.run.config.model
    writer.add_type("model")
    writer.add_name(name_of(s))
    writer.add_file_type(FILE_TYPES[encoding])
    if encoding == "q8_0":
        writer.add_quantization_version(QUANTIZATION_VERSION)
    writer.add_context_length(c.block_size)
    writer.add_embedding_length(c.n_embd)
    writer.add_block_count(c.n_layers)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_head_count(c.n_heads)
    writer.add_vocab_size(c.vocab_size)
    if architecture(c) == "qwen3":
        writer.add_head_count_kv(c.n_kv_heads)
        writer.add_key_length(c.d_head)
        writer.add_value_length(c.d_head)
        writer.add_layer_norm_rms_eps(s.model.norm.eps)
        writer.add_rope_freq_base(c.rope_theta)
    else:
        writer.add_layer_norm_eps(s.model.norm.eps)


def add_tokenizer(writer: Any, s: Source) -> None:
    """The keys tokenizer.ggml.*: vocabulary, merges, and GPT-2's split pattern by its name there."""
    model = read_json(s.run.folder / "tokenizer.json")["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    n_specials = len(SPECIALS)
    control, normal = 3, 1  # gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # Ollama's own engine, which runs qwen3, splits as Qwen2 all the same
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_types([control] * n_specials + [normal] * (len(model["vocab"]) - n_specials))
    # llama.cpp loads no tokenizer without a merge. The bytes C0 and C1 stand in no UTF-8 text: this one does nothing.
    writer.add_token_merges(merges or ["À Á"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    writer.add_string("tinygpt.tokenizer_sha256", s.run.tokenizer.sha256)


def tensors(model: TinyGPT) -> dict[str, Tensor]:
    """The weights by their names in the file, fp32; a tied head is not among them, biases that GPT-2 lacks are 0."""
    config = model.config
    ours = checkpoint.named_tensors(model)
    sources: dict[str, tuple[str, ...]] = {"token_embd": ("embedding",), "output_norm": ("norm",)}
    for i in range(config.n_layers):
        for name, parts in BLOCK[architecture(config)].items():
            sources[f"blk.{i}.{name}"] = tuple(f"blocks.{i}.{part}" for part in parts)
    found = {}
    for name, modules in sources.items():
        weights = [ours[f"{module}.weight"] for module in modules]
        found[f"{name}.weight"] = torch.cat(weights)
        if architecture(config) == "gpt2" and name != "token_embd":
            zeros = [weight.new_zeros(len(weight)) for weight in weights]
            biases = [ours.get(f"{module}.bias", zero) for module, zero in zip(modules, zeros, strict=True)]
            found[f"{name}.bias"] = torch.cat(biases)
    if architecture(config) == "gpt2":
        found["position_embd.weight"] = ours["positions.table.weight"]
    if not config.tied:
        found["output.weight"] = ours["head.weight"]
    return found


def name_of(s: Source) -> str:
    """The run's name as Ollama and every file system take it."""
    return next(names_like(s.name))


def file_name(s: Source, encoding: str) -> str:
    """NAME-ENCODING.gguf."""
    return f"{name_of(s)}-{encoding}.gguf"


def modelfile(s: Source, encoding: str) -> str:
    """What `ollama create` reads: the prompt as it is typed, and the context, for which Ollama's default is longer."""
    return (
        f"FROM ./{file_name(s, encoding)}\n"
        'TEMPLATE """{{ .Prompt }}"""\n'
        f"PARAMETER num_ctx {s.run.config.model.block_size}\n"
        f'PARAMETER stop "{SPECIALS[EOS]}"\n'
    )


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(s: Source, folder: Path, encoding: str) -> dict[str, Any] | None:
    """Load the file with llama.cpp and hold it against the model; None if llama-cpp-python is not installed.

    Compared are the token ids of strings, the logits at every position of the prompts, the likeliest tokens there, and
    the bits per byte of the start of the validation text. UserError (exit 66) if an id differs, or a figure by more
    than LOGITS_WITHIN and BPB_WITHIN.
    """
    try:
        import llama_cpp
    except ImportError:
        return None
    path, config = folder / file_name(s, encoding), s.run.config.model
    with contextlib.closing(load(path, config.block_size)) as llama:  # Windows renames no file that is mapped
        strings = compare_ids(s, llama)
        difference, positions, equal = compare_logits(s, llama)
        ours, theirs = compare_bpb(s, llama)
    within, wrong = LOGITS_WITHIN[architecture(config)], ""
    if encoding == "f32" and not difference <= within:  # NaN is not within anything
        wrong = f"logits differ by up to {difference:.2g}, more than {within:g}"
    elif not abs(theirs / ours - 1) <= BPB_WITHIN[encoding]:
        wrong = f"{theirs:.4f} bits per byte instead of {ours:.4f}, more than {BPB_WITHIN[encoding]:.1%} apart"
    if wrong:
        raise UserError(f"{path.name} in llama.cpp is not the model: {wrong}.", MISMATCH)
    return {
        "runtime": f"llama-cpp-python {llama_cpp.__version__}",
        "largest difference of a logit": difference,
        "positions with the same likeliest token": f"{equal} of {positions}",
        "strings with equal ids": f"{strings} of {strings}",
        "bits per byte": f"{theirs:.4f}, the model's {ours:.4f}",
    }


def load(path: Path, block_size: int) -> Any:
    """The file in llama.cpp, computing as exactly as it can; UserError (exit 66) if it does not load."""
    import llama_cpp

    threads = torch.get_num_threads()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it warns that contexts below 256 become 256
            return llama_cpp.Llama(
                str(path), n_ctx=block_size, n_batch=block_size, n_ubatch=block_size, logits_all=True, verbose=False,
                n_threads=threads, n_threads_batch=threads,
                type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,  # its default rounds them to f16
            )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise UserError(f"llama.cpp does not load {path.name}: {error}.", MISMATCH) from None


def compare_ids(s: Source, llama: Any) -> int:
    """How many strings were compared; UserError (exit 66) at the first that llama.cpp cuts into other tokens."""
    texts = (*STRINGS, *(s.run.tokenizer.decode(prompt) for prompt in s.prompts))
    for text in texts:
        ours, theirs = s.run.tokenizer.encode(text), llama.tokenize(text.encode(), add_bos=False, special=False)
        if ours != theirs:
            raise UserError(f"llama.cpp reads {text[:40]!r} as tokens {theirs[:20]}, not as {ours[:20]}.", MISMATCH)
    return len(texts)


def compare_logits(s: Source, llama: Any) -> tuple[float, int, int]:
    """The largest difference of a logit on the prompts, their positions, and those of them with the same argmax.

    Of logits that differ by at most d, the argmax is another one only where two tokens are within 2 d: a tie.
    """
    differences, equal = [], []
    for prompt in s.prompts:
        ours, theirs = our_logits(s, prompt), their_logits(llama, prompt)  # (T, V)
        differences.append((ours - theirs).abs().amax(-1))  # (T,)
        equal.append(ours.argmax(-1) == theirs.argmax(-1))  # (T,)
    return torch.cat(differences).max().item(), sum(map(len, equal)), int(torch.cat(equal).sum())


def compare_bpb(s: Source, llama: Any) -> tuple[float, float]:
    """Bits per byte of the start of the validation text (of the training text, if that is empty): ours, theirs."""
    ids: Ids = (s.run.val_ids if len(s.run.val_ids) > 1 else s.run.train_ids)[: SCORED_TOKENS + 1]
    nats = [0.0, 0.0]
    for start, end in scoring_windows(ids, s.run.config.model.block_size):
        inputs, targets = ids[start:end].tolist(), torch.tensor(ids[start + 1 : end + 1].tolist())
        for i, logits in enumerate((our_logits(s, inputs), their_logits(llama, inputs))):
            nats[i] += F.cross_entropy(logits, targets, reduction="sum").item()
    n_bytes = total_bytes(ids[1:], s.run.tokenizer.n_bytes())
    return bits_per_byte(nats[0], n_bytes), bits_per_byte(nats[1], n_bytes)


@torch.inference_mode()
def our_logits(s: Source, ids: list[int]) -> Tensor:
    """(T, V) of the model."""
    return s.model(torch.tensor([ids]))[0]


def their_logits(llama: Any, ids: list[int]) -> Tensor:
    """(T, V) of llama.cpp, from an empty context."""
    llama.reset()
    llama.eval(ids)
    return torch.from_numpy(llama.scores[: len(ids)].copy())


# --- using -----------------------------------------------------------------------------------------------------------


def advice(s: Source, path: Path, encoding: str) -> list[str]:
    """The commands that use the export in `path`."""
    file, name = path / file_name(s, encoding), name_of(s)
    longest = s.run.config.model.block_size
    n = longest // 2
    model = f"Llama({file.as_posix()!r}, n_ctx={longest}, verbose=False)"
    text = f"{model}('Once upon a', max_tokens={n})['choices'][0]['text']"
    python = python_command(f"from llama_cpp import Llama; print({text})")
    commands = [
        f'With llama.cpp:  llama-completion -m {shlex.quote(str(file))} -p "Once upon a" -n {n} -no-cnv',
        f"With llama-cpp-python:  {python}",
        f"With Ollama:  ollama create {name} -f {shlex.quote(str(path / 'Modelfile'))}",
        f'  and then  ollama run {name} "Once upon a"',
    ]
    if architecture(s.run.config.model) == "gpt2" and longest % CONTEXT_STEP:
        commands.append(
            f"llama.cpp takes {CONTEXT_STEP} tokens for the shortest context, and aborts where GPT-2's positions end: "
            f"keep prompt and continuation within {longest} tokens together."
        )
    return commands
