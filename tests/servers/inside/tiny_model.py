"""Writes a Llama of some 100,000 random weights, with a tokenizer and a chat template. No network.

    python tiny_model.py DIRECTORY

A token is a printable character, and no other is ever the likeliest: so text and tokens are one, and a reply that is
continued from its text goes on as if it had never been cut.
"""

import string
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WINDOW = 4096
"""Tokens."""
SPECIAL = ("<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>")
CHARACTERS = " " + string.digits + string.ascii_letters + string.punctuation
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate((*SPECIAL, *CHARACTERS.replace(" ", "Ġ")))}
    characterwise = Tokenizer(models.BPE(vocab=words, merges=[]))
    characterwise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    characterwise.decoder = decoders.ByteLevel()
    characterwise.add_special_tokens(list(SPECIAL))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=characterwise, model_max_length=WINDOW, **names)
    made.chat_template = TEMPLATE
    return made


def model(words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        initializer_range=0.5,
        tie_word_embeddings=False,
    )
    made = LlamaForCausalLM(shape)
    said = torch.zeros(shape.vocab_size, 1)
    said[len(SPECIAL) : len(words)] = 1
    made.lm_head.weight.data *= said
    return made


def main(directory: Path) -> None:
    words = tokenizer()
    model(words).save_pretrained(directory)
    words.save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
