"""The three bundled models, trained on the State of the Union addresses alone.

does     splits the text into speeches, keeps a seeded choice of whole speeches aside (heldout.txt.xz), trains
         one byte-level BPE tokenizer on the rest and, with it, `small` (Llama), `small-gpt2` and `small-bert`
         (masked LM); writes stock bfloat16 checkpoints, then measures those files on the held-out speeches
         (results.json)
needs    the text: one speech per paragraph, separated by blank lines (10.8 MB, public domain), plain or .xz

    python recipes/small_models.py --text sotu.txt.xz --out grow/zoo --models llama,gpt2,bert

costs    26, 29 and 19 minutes of wall time, one thread each, llama beside gpt2, on 2 CPU cores that others used too
gave     measured 2026-11-22 (bert 2026-11-23), five held-out speeches of 296 kB, 3.62 bytes per token:
         small       1.3156 bits per byte    3200 steps, 6.6M tokens (2.3 epochs)
         small-gpt2  1.4966 bits per byte    the same
         small-bert  4.8099 bits per masked token, 34.0% of them right    3600 steps, 7.4M tokens
         Of all runs of 12 words in the held-out speeches 0.9 % also stand in a training speech.

bert starts from the word embeddings of `small` (train llama first) and with its first layer's heads aimed at
the neighbouring tokens (`head_start`). Two of those stay there (0.97 of the attention on the token before, on the
token after); the attention of its layers 1 to 3 is still close to even.
"""

import argparse
import json
import lzma
import math
import random
import sys
import time
from copy import deepcopy
from datetime import date
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>"]
PAD, UNK, CLS, SEP, MASK, END = range(len(SPECIAL))
VOCAB, CONTEXT, STRIDE = 2048, 256, 128
FOLDERS = {"llama": "small", "gpt2": "small-gpt2", "bert": "small-bert"}
MODELS = {
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=END,
            eos_token_id=END,
        ),
    ),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=VOCAB,
            n_embd=128,
            n_inner=512,
            n_layer=6,
            n_head=4,
            n_positions=CONTEXT,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            summary_first_dropout=0.0,
            bos_token_id=END,
            eos_token_id=END,
        ),
    ),
    "bert": (
        BertForMaskedLM,
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
            pad_token_id=PAD,
        ),
    ),
}
SCHEDULE = {
    "llama": {"steps": 3200, "batch": 8, "lr": 3e-3},
    "gpt2": {"steps": 3200, "batch": 8, "lr": 3e-3},
    "bert": {"steps": 3600, "batch": 8, "lr": 1e-3},
}
PROMPTS = ["The American people", "Fellow citizens of the Senate"]


def split(text: str, seed: int, heldout_bytes: int = 300_000) -> tuple[list[str], list[str]]:
    """Whole speeches, (training, held out); a seeded choice of about `heldout_bytes`."""
    speeches = [part.strip() for part in text.split("\n\n") if part.strip()]
    order = list(range(len(speeches)))
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    size = 0
    for index in order:
        bytes_here = len(speeches[index].encode())
        if size + bytes_here <= heldout_bytes * 1.05:
            chosen.add(index)
            size += bytes_here
        if size >= heldout_bytes * 0.95:
            break
    return (
        [speech for i, speech in enumerate(speeches) if i not in chosen],
        [speech for i, speech in enumerate(speeches) if i in chosen],
    )


def train_tokenizer(speeches: list[str]) -> Tokenizer:
    """A byte-level BPE of 2048 tokens: any text goes in, and decoding gives it back byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        speeches,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def wrap(tokenizer: Tokenizer, name: str) -> PreTrainedTokenizerFast:
    """The same tokenizer for transformers: bare for the causal models, [CLS] text [SEP] for BERT."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    roles = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    if name == "bert":
        roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
        )
    else:
        roles |= {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        model_input_names=[*inputs, "token_type_ids"] if name == "bert" else inputs,
        clean_up_tokenization_spaces=False,
        **roles,
    )


def build(name: str) -> torch.nn.Module:
    kind, config = MODELS[name]
    return kind(deepcopy(config))


def stream(tokenizer: Tokenizer, speeches: list[str]) -> torch.Tensor:
    """(tokens,) int64: every speech as <|endoftext|> speech blank-line, one after the other."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch([speech + "\n\n" for speech in speeches]):
        ids += [END, *encoding.ids]
    return torch.tensor(ids)


def batches(tokens: torch.Tensor, width: int, batch: int, seed: int):
    """Endless (batch, width) windows; an epoch cuts the stream once, from a new phase, and shuffles."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        phase = int(torch.randint(width, (1,), generator=generator))
        rows = (len(tokens) - phase) // width
        windows = tokens[phase : phase + rows * width].view(rows, width)
        order = torch.randperm(rows, generator=generator)
        for start in range(0, rows - batch + 1, batch):
            yield windows[order[start : start + batch]]


def hide(windows: torch.Tensor, generator: torch.Generator, always: bool = False):
    """Inputs and labels of the masked LM, (batch, n) -> (batch, n + 2) each: [CLS] window [SEP].

    15 % of the tokens are chosen; of these 80 % become [MASK], 10 % a random token, 10 % stay. With `always`
    (how we measure) all chosen ones become [MASK]. Labels are -100 where nothing was chosen.
    """
    chosen = torch.rand(windows.shape, generator=generator) < 0.15
    fate = torch.rand(windows.shape, generator=generator)
    other = torch.randint(len(SPECIAL), VOCAB, windows.shape, generator=generator)
    inputs = torch.where(chosen & (always | (fate < 0.8)), MASK, windows)
    if not always:
        inputs = torch.where(chosen & (fate >= 0.9), other, inputs)
    labels = torch.where(chosen, windows, -100)
    edge = torch.ones(len(windows), 1, dtype=torch.long)
    return (
        torch.cat([CLS * edge, inputs, SEP * edge], 1),
        torch.cat([-100 * edge, labels, -100 * edge], 1),
    )


def feed(name: str, tokens: torch.Tensor, plan: dict):
    """Endless keyword arguments of the model's forward, one dict per step, batch * 256 tokens each."""
    seed, batch = plan["seed"], plan["batch"]
    generator = torch.Generator().manual_seed(seed + 1)
    for windows in batches(tokens, CONTEXT - 2 if name == "bert" else CONTEXT, batch, seed):
        if name == "bert":
            inputs, labels = hide(windows, generator)
            yield {"input_ids": inputs, "labels": labels}
        else:
            yield {"input_ids": windows, "labels": windows, "use_cache": False}


def save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path, name: str) -> None:
    """A stock bfloat16 checkpoint in `folder`; the model in memory stays float32."""
    copy = build(name)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.config.dtype = torch.bfloat16
    if name != "bert":
        copy.generation_config = GenerationConfig(bos_token_id=END, eos_token_id=END, pad_token_id=PAD)
    copy.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)


def rate(step: int, warmup: int, steps: int) -> float:
    """The share of the peak learning rate: linear warmup, then a cosine down to 2 %."""
    done = max(0, step - warmup) / max(1, steps - warmup)
    return min((step + 1) / warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def head_start(model: BertForMaskedLM, small: Path, size: float = 0.05) -> None:
    """Start words from `small`, positions as waves, and the first layer's heads at the tokens 1 and 2 to either side.

    From a random start the masked LM predicts bare word frequencies for longer than we train: a masked word tells
    nothing until some head finds its neighbours. Position p starts as (sin s p, cos s p) for 64 speeds s; the 16
    fastest are a head's keys, the same turned by s * offset its queries, so the score of (p, p') is a sum of
    cos s (p + offset - p'), highest at p' = p + offset. Everything is trained from there.
    """
    words = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32).get_input_embeddings().weight
    words = words - words.mean(0)
    model.bert.embeddings.word_embeddings.weight.copy_(words * size / words.square().mean().sqrt())
    table = model.bert.embeddings.position_embeddings.weight
    positions, hidden = table.shape
    speed = 2.5 * 0.004 ** (torch.arange(hidden // 2) * 2 / hidden)
    angle = torch.arange(positions)[:, None] * speed
    table.copy_(size * 2**0.5 * torch.stack([angle.sin(), angle.cos()], -1).flatten(1))
    attention = model.bert.encoder.layer[0].attention.self
    head_dim = attention.attention_head_size
    for head, offset in enumerate((-1, 1, -2, 2)):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        turn = speed[: head_dim // 2] * offset
        cos, sin = torch.diag(turn.cos()), torch.diag(turn.sin())
        attention.key.weight[rows, :head_dim] = torch.eye(head_dim)
        rotation = torch.zeros(head_dim, head_dim)
        rotation[0::2, 0::2], rotation[0::2, 1::2] = cos, sin
        rotation[1::2, 0::2], rotation[1::2, 1::2] = -sin, cos
        attention.query.weight[rows, :head_dim] = 3 * rotation


def train(name: str, tokens: torch.Tensor, tokenizer: PreTrainedTokenizerFast, folder: Path, plan: dict) -> dict:
    """What the run cost; the checkpoint lies in `folder`, an unfinished one every `save_every` steps.

    AdamW on float32 weights, weight decay on matrices only, gradients clipped to norm 1.
    """
    seed = plan["seed"]
    torch.manual_seed(seed)
    model = build(name).train()
    if name == "bert":
        head_start(model, folder.parent / FOLDERS["llama"])
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=plan["lr"], betas=(0.9, 0.95 if name != "bert" else 0.98))
    steps = plan["steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, plan["warmup"], steps))
    source = feed(name, tokens, plan)
    began, mean = time.perf_counter(), None
    for step in range(1, steps + 1):
        loss = model(**next(source)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"{name} {step}/{steps} loss {mean:.3f} {time.perf_counter() - began:.0f} s", flush=True)
        if step % plan["save_every"] == 0 or step == steps:
            save(model, tokenizer, folder, name)
    return {
        "steps": steps,
        "tokens_seen": steps * plan["batch"] * CONTEXT,
        "training_seconds": round(time.perf_counter() - began),
        "final_training_loss_nats": round(mean, 4),
        "batch": plan["batch"],
        "learning_rate": plan["lr"],
        "warmup": plan["warmup"],
        "seed": seed,
    }


@torch.no_grad()
def bits_per_byte(folder: Path, text: str) -> dict:
    """Held-out bits per UTF-8 byte of the saved weights in float32; every token is predicted once.

    Windows of 256 tokens, 128 apart, over <|endoftext|> + text: after the first window every token is
    predicted from the 128 to 255 tokens before it.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([END, *AutoTokenizer.from_pretrained(folder)(text, verbose=False)["input_ids"]])
    nats, counted = 0.0, 1
    for start in range(0, len(ids), STRIDE):
        window = ids[start : start + CONTEXT]
        fresh = start + len(window) - counted
        if fresh <= 0:
            break
        logits = model(input_ids=window[None]).logits[0, :-1]
        nats += torch.nn.functional.cross_entropy(logits[-fresh:], window[-fresh:], reduction="sum").item()
        counted += fresh
    size = len(text.encode())
    return {
        "heldout_bits_per_byte": round(nats / math.log(2) / size, 4),
        "heldout_nats_per_token": round(nats / (counted - 1), 4),
        "context": CONTEXT,
        "stride": STRIDE,
    }


@torch.no_grad()
def masked_bits(folder: Path, text: str, seed: int = 0) -> dict:
    """Held-out cross entropy (bits) and accuracy at 15 % of the tokens, each of them shown as [MASK]."""
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    width = CONTEXT - 2
    windows = ids[: len(ids) // width * width].view(-1, width)
    inputs, labels = hide(windows, torch.Generator().manual_seed(seed), always=True)
    nats, right, count = 0.0, 0, 0
    for x, y in zip(inputs.split(32), labels.split(32), strict=True):
        logits, wanted = model(input_ids=x).logits[y >= 0], y[y >= 0]
        nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        right += int((logits.argmax(-1) == wanted).sum())
        count += len(wanted)
    return {
        "heldout_bits_per_masked_token": round(nats / math.log(2) / count, 4),
        "heldout_masked_accuracy": round(right / count, 4),
        "masked_tokens": count,
        "mask_seed": seed,
    }


def continuations(folder: Path) -> list[dict]:
    """What the saved model writes after each prompt, sampled with the settings that stand beside the text."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    told = []
    for prompt in PROMPTS:
        torch.manual_seed(0)
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=80, do_sample=True, temperature=0.8, top_k=50)
        how = {"prompt": prompt, "seed": 0, "temperature": 0.8, "top_k": 50}
        told.append(how | {"text": tokenizer.decode(out[0])})
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="the addresses, plain or .xz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints and results.json")
    parser.add_argument("--models", default="llama,gpt2,bert", help="any of llama,gpt2,bert")
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of each model's own number")
    parser.add_argument("--lr", type=float, help="peak learning rate, instead of each model's own")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=400, help="steps between unfinished checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    names = args.models.split(",")
    if unknown := set(names) - set(FOLDERS):
        parser.error(f"--models: {', '.join(sorted(unknown))} is not one of {', '.join(FOLDERS)}")

    torch.set_num_threads(args.threads)
    raw = args.text.read_bytes()
    text = (lzma.decompress(raw) if args.text.suffix == ".xz" else raw).decode()
    training, heldout = split(text, seed=0)
    heldout_text = "\n\n".join(heldout) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    texts = {"heldout": heldout_text, "sotu": "\n\n".join(training) + "\n"}
    for name, speeches in texts.items():
        (args.out / f"{name}.txt.xz").write_bytes(lzma.compress(speeches.encode(), preset=9 | lzma.PRESET_EXTREME))
    bare = train_tokenizer(training)
    tokens = stream(bare, training)
    compression = {
        "heldout_speeches": len(heldout),
        "heldout_bytes": len(heldout_text.encode()),
        "heldout_bytes_per_token": round(len(heldout_text.encode()) / len(bare.encode(heldout_text).ids), 3),
        "training_speeches": len(training),
        "training_tokens": len(tokens),
    }
    print(compression, flush=True)
    for name in names:
        folder = args.out / FOLDERS[name]
        chosen = {key: getattr(args, key) for key in ("steps", "lr", "warmup", "save_every", "seed")}
        plan = SCHEDULE[name] | {key: value for key, value in chosen.items() if value is not None}
        started = date.today().isoformat()
        told = train(name, tokens, wrap(bare, name), folder, plan)
        told |= masked_bits(folder, heldout_text) if name == "bert" else bits_per_byte(folder, heldout_text)
        told |= {"parameters": sum(p.numel() for p in build(name).parameters())}
        told |= compression
        told |= {"measured": started, "machine": "2 CPU cores", "threads": args.threads}
        told |= {"command": "python " + " ".join(sys.argv)}
        if name != "bert":
            told["samples"] = continuations(folder)
        path = args.out / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results[FOLDERS[name]] = told
        path.write_text(json.dumps(dict(sorted(results.items())), indent=2, ensure_ascii=False) + "\n")
        print(json.dumps(told, indent=2, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
