"""Write the demo model: a tiny GGUF whose weights are chosen so that a real engine recites one sentence.

Every word of the sentence has an embedding along an axis of its own; all other tokens (the 256 bytes, into
which every prompt falls apart) lie along one shared axis, each with a small mark of its own so that texts
differ as embeddings. The output matrix sends the shared axis to the first word, each word's axis to the
next word, and the last word's to the end of the text. The attention and feed-forward blocks are computed
for real but are too small to change the order, so the text is the same at every usual temperature.
The same sentence and name give the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path

SENTENCE = (
    "This tiny model just woke up on your own machine because you asked: FlexInfer started it, "
    "streamed these words one by one, and will let it sleep again once nobody calls."
)
NAME = "flexinfer-demo"

WIDTH = 64
FEED_FORWARD = 128
BLOCKS = 2
HEADS = 4
KV_HEADS = 2
CONTEXT = 8192
MAX_WORDS = WIDTH - 1
"""One axis is left for every token that is no word of the sentence."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)

_GGUF_VERSION = 3
_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_UNK_ID, _BOS_ID, _EOS_ID = 0, 1, 2
_SPACE = "▁"
# RMS norm makes the state 8 long; with this gain the right word leads the others by more than 50 in
# the logits, which no usual temperature closes.
_OUTPUT_GAIN = 8.0
_MARK = 1 / 16
_BLOCK_SCALE = 1 / 128

Value = tuple[int, object]
"""A GGUF metadata value: its type and what it holds; a list's type is that of its elements."""


def word_tokens(sentence: str) -> list[str]:
    """The sentence's words as the vocabulary holds them; ValueError if no model can be made of it."""
    words = sentence.split()
    if not words:
        raise ValueError("the sentence has no words")
    if len(words) > MAX_WORDS:
        raise ValueError(f"the sentence has {len(words)} words, at most {MAX_WORDS} fit")
    tokens = [words[0], *(_SPACE + word for word in words[1:])]
    seen: set[str] = set()
    for token, word in zip(tokens, words, strict=True):
        # The next word follows from the word alone, and llama.cpp aborts on equal tokens.
        if token in seen:
            raise ValueError(f"the word {word!r} is there twice; each word must be unique")
        if token in {_SPACE, "<unk>", "<s>", "</s>"} or token.startswith("<0x"):
            raise ValueError(f"the word {word!r} is a token of its own in every vocabulary")
        seen.add(token)
    return tokens


def gguf(sentence: str = SENTENCE, name: str = NAME) -> bytes:
    """The model file. ValueError if the sentence repeats a word or has too many."""
    words = word_tokens(sentence)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), _SPACE, *words]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *([_BYTE] * 256), _NORMAL, *([_NORMAL] * len(words))]
    first_word = len(tokens) - len(words)
    metadata = _metadata(name, tokens, kinds)
    tensors = [
        ("token_embd.weight", (WIDTH, len(tokens)), _embeddings(len(tokens), first_word)),
        ("output_norm.weight", (WIDTH,), array("f", [1.0] * WIDTH)),
        ("output.weight", (WIDTH, len(tokens)), _output(len(tokens), first_word)),
    ]
    for block in range(BLOCKS):
        tensors += _block(block)
    return _encode(metadata, tensors)


def write(path: str | os.PathLike[str], *, sentence: str = SENTENCE, name: str = NAME) -> int:
    """Write the model to `path` whole or not at all; the number of bytes."""
    target = Path(path)
    content = gguf(sentence, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(content)


def _metadata(name: str, tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Value]:
    return {
        "general.architecture": (_STRING, "llama"),
        "general.name": (_STRING, name),
        "general.file_type": (_UINT32, 0),
        "llama.context_length": (_UINT32, CONTEXT),
        "llama.embedding_length": (_UINT32, WIDTH),
        "llama.block_count": (_UINT32, BLOCKS),
        "llama.feed_forward_length": (_UINT32, FEED_FORWARD),
        "llama.attention.head_count": (_UINT32, HEADS),
        "llama.attention.head_count_kv": (_UINT32, KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": (_FLOAT32, 1e-5),
        "llama.rope.dimension_count": (_UINT32, WIDTH // HEADS),
        "llama.rope.freq_base": (_FLOAT32, 10_000.0),
        "llama.vocab_size": (_UINT32, len(tokens)),
        "tokenizer.ggml.model": (_STRING, "llama"),
        "tokenizer.ggml.tokens": (_STRING, list(tokens)),
        "tokenizer.ggml.scores": (_FLOAT32, [-float(place) for place in range(len(tokens))]),
        "tokenizer.ggml.token_type": (_INT32, list(kinds)),
        "tokenizer.ggml.bos_token_id": (_UINT32, _BOS_ID),
        "tokenizer.ggml.eos_token_id": (_UINT32, _EOS_ID),
        "tokenizer.ggml.unknown_token_id": (_UINT32, _UNK_ID),
        "tokenizer.ggml.add_bos_token": (_BOOL, True),
        "tokenizer.ggml.add_space_prefix": (_BOOL, False),
        "tokenizer.chat_template": (_STRING, CHAT_TEMPLATE),
    }


def _embeddings(tokens: int, first_word: int) -> array[float]:
    rows = array("f")
    for token in range(tokens):
        if token >= first_word:
            row = [0.0] * WIDTH
            row[token - first_word] = 1.0
        else:
            signs = hashlib.shake_128(f"mark {token}".encode()).digest(WIDTH)
            row = [_MARK if sign & 1 else -_MARK for sign in signs]
            row[WIDTH - 1] = 1.0
        rows.extend(row)
    return rows


def _output(tokens: int, first_word: int) -> array[float]:
    rows = array("f", bytes(4 * WIDTH * tokens))
    words = tokens - first_word
    for word in range(words):
        axis = word - 1 if word else WIDTH - 1
        rows[(first_word + word) * WIDTH + axis] = _OUTPUT_GAIN
    rows[_EOS_ID * WIDTH + words - 1] = _OUTPUT_GAIN
    return rows


def _block(block: int) -> list[tuple[str, tuple[int, ...], array[float]]]:
    kv_width = WIDTH // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, kv_width),
        "attn_v": (WIDTH, kv_width),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (WIDTH, FEED_FORWARD),
        "ffn_up": (WIDTH, FEED_FORWARD),
        "ffn_down": (FEED_FORWARD, WIDTH),
    }
    tensors = []
    for part, shape in shapes.items():
        name = f"blk.{block}.{part}.weight"
        weights = array("f", [1.0] * WIDTH) if len(shape) == 1 else _small(name, shape[0] * shape[1])
        tensors.append((name, shape, weights))
    return tensors


def _small(name: str, count: int) -> array[float]:
    """Weights in ±_BLOCK_SCALE that follow from the name alone; exact in float32."""
    steps = [(step - 127.5) / 128 * _BLOCK_SCALE for step in range(256)]
    return array("f", [steps[byte] for byte in hashlib.shake_128(name.encode()).digest(count)])


def _encode(metadata: dict[str, Value], tensors: Sequence[tuple[str, tuple[int, ...], array[float]]]) -> bytes:
    head = bytearray(b"GGUF")
    head += struct.pack("<IQQ", _GGUF_VERSION, len(tensors), len(metadata))
    for key, (kind, value) in metadata.items():
        head += _string(key)
        if isinstance(value, list):
            head += struct.pack("<IIQ", _ARRAY, kind, len(value))
            head += b"".join(_scalar(kind, item) for item in value)
        else:
            head += struct.pack("<I", kind) + _scalar(kind, value)
    data = bytearray()
    for name, shape, weights in tensors:
        head += _string(name)
        head += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        little_endian = array("f", weights)
        if sys.byteorder == "big":
            little_endian.byteswap()
        data += little_endian.tobytes()
        data += bytes(-len(data) % _ALIGNMENT)
    head += bytes(-len(head) % _ALIGNMENT)
    return bytes(head + data)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _scalar(kind: int, value: object) -> bytes:
    if kind == _STRING:
        return _string(str(value))
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)
