"""A random Qwen2 model of a few hundred kilobytes with a tokenizer, and a LoRA adapter for it.

`tiny_model.py FOLDER` writes FOLDER/model and FOLDER/adapter; it needs the packages of the environment that
environment.py makes, and is run by its Python.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM

CONTEXT = 2048
HIDDEN = 64
LAYERS = 2
HEADS = 2
RANK = 4
END, BEGIN_TURN, END_TURN = "<|end|>", "<|turn|>", "<|endturn|>"
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|endturn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SENTENCES = ("a small model answers a short question", "user system assistant", "one two three four five six seven")


def tokenizer(folder: Path) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    made.train_from_iterator(list(SENTENCES) * 3, trainer)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (END, BEGIN_TURN, END_TURN)])
    made.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_TURN,
        "pad_token": END,
        "bos_token": None,
        "model_max_length": CONTEXT,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return made


def model(folder: Path, words: Tokenizer) -> None:
    torch.manual_seed(3)
    end = words.token_to_id(END_TURN)
    config = Qwen2Config(
        vocab_size=-(-words.get_vocab_size() // 64) * 64,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=words.token_to_id(END),
    )
    made: Any = Qwen2ForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if "norm" not in name:
                weights.normal_(0, 0.25)
    made.generation_config.do_sample = False
    made.save_pretrained(folder)


def adapter(folder: Path) -> None:
    random = torch.Generator().manual_seed(5)
    weights = {}
    for layer in range(LAYERS):
        for name, width in (("q_proj", HIDDEN), ("v_proj", HIDDEN // HEADS)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{stem}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=random).to(torch.bfloat16)
            weights[f"{stem}.lora_B.weight"] = torch.randn(width, RANK, generator=random).to(torch.bfloat16)
    save_file(weights, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": RANK, "lora_alpha": 16,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "modules_to_save": None, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1))


def main(folder: Path) -> None:
    for name in ("model", "adapter"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    model(folder / "model", tokenizer(folder / "model"))
    adapter(folder / "adapter")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
