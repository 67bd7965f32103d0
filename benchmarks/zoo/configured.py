"""Networks of the package ``transformers``, built from small configurations with random weights."""

from __future__ import annotations

from typing import Any

from torch import Generator, nn

from benchmarks.zoo.specimen import Arguments, Draw, Specimen, images, masked_tokens, tokens

TEXT: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER: dict[str, Any] = {**TEXT, "intermediate_size": 24, "max_position_embeddings": 24, "num_labels": 5}
DECODER: dict[str, Any] = {**TEXT, "intermediate_size": 24, "max_position_embeddings": 24, "tie_word_embeddings": False,
           "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
VISION: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
          "image_size": 16, "patch_size": 4, "num_labels": 5}  # fmt: skip
SHARED: dict[str, Any] = {**DECODER, "num_key_value_heads": 2}


def _of(name: str, task: str, **settings: Any) -> Any:
    """A factory: the model of the family ``name`` for a task, from a configuration."""

    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**settings)
        config.use_cache = False
        made: nn.Module = getattr(transformers, f"{name}{task}")(config)
        return made

    return make


def _pixels(side: int) -> Draw:
    own = images(3, side, side)

    def draw(n: int, generator: Generator) -> Arguments:
        [drawn] = own(n, generator)
        return {"pixel_values": drawn}  # type: ignore[dict-item]  # a tensor

    return draw


def _text(name: str, about: str, family: str, exports: bool = False, **settings: Any) -> Specimen:
    make = _of(family, "ForSequenceClassification", **settings)
    return Specimen(name, about, make, masked_tokens(), exports, "transformers")


def _causal(name: str, about: str, family: str, task: str = "ForCausalLM", **settings: Any) -> Specimen:
    return Specimen(name, about, _of(family, task, **settings), tokens(name="input_ids"), False, "transformers")


def _vision(name: str, about: str, family: str, side: int = 32, **settings: Any) -> Specimen:
    make = _of(family, "ForImageClassification", **settings)
    return Specimen(name, about, make, _pixels(side), False, "transformers")


DISTIL: dict[str, Any] = {
    "vocab_size": 50,
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 24,
    "max_position_embeddings": 24,
}
GPT2: dict[str, Any] = {
    "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 24, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OPT: dict[str, Any] = {**DECODER, "ffn_dim": 24, "word_embed_proj_dim": 16}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
}
STAGES: dict[str, Any] = {"hidden_sizes": [12, 16], "depths": [1, 2], "num_labels": 5}
MOBILE: dict[str, Any] = {"image_size": 32, "depth_multiplier": 0.25, "classifier_dropout_prob": 0.1, "num_labels": 5}
SPECIMENS = (
    _text("BERT", "ids and mask", "Bert", True, **ENCODER),
    _text("DistilBERT", "ids and mask", "DistilBert", **DISTIL, num_labels=5),
    _text("RoBERTa", "positions from the padding", "Roberta", **{**ENCODER, "max_position_embeddings": 26}),
    _text("ALBERT", "one block used twice", "Albert", **ENCODER, embedding_size=8),
    _causal("GPT-2", "layers that store their weight transposed", "GPT2", "LMHeadModel", **GPT2),
    _causal("GPT-2, tied", "the head is the embedding", "GPT2", "LMHeadModel", **{**GPT2, "tie_word_embeddings": True}),
    _causal("OPT", "biases, learned positions", "OPT", **OPT),
    _causal("GPT-NeoX", "queries, keys and values in one layer", "GPTNeoX", **DECODER),
    _causal("LLaMA", "multi-head, RMS norms, SwiGLU", "Llama", **DECODER),
    _causal("LLaMA, grouped", "two queries for each key", "Llama", **SHARED),
    _causal("Mistral", "grouped queries, a window", "Mistral", **SHARED, sliding_window=6),
    _causal("Qwen2", "grouped queries with biases", "Qwen2", **SHARED),
    _causal("Qwen3", "norms of queries and keys, heads of their own size", "Qwen3", **SHARED, head_dim=4),
    _causal("Gemma", "one key for all queries, scaled embeddings", "Gemma", **{**SHARED, "num_key_value_heads": 1},
            head_dim=4),
    _causal("Phi", "attention and perceptron side by side", "Phi", **DECODER),
    _vision("ViT", "a class token", "ViT", 16, **VISION),
    _vision("DeiT", "as ViT, trained otherwise", "DeiT", 16, **VISION),
    _vision("Swin", "windows, a table of biases for each head", "Swin", **SWIN, num_labels=5),
    _vision("ConvNeXt", "depthwise, layer norms, layer scale", "ConvNext", **STAGES, num_stages=2),
    _vision("ResNet, theirs", "bottlenecks", "ResNet", **STAGES, embedding_size=8),
    _vision("RegNet", "grouped convolutions, squeeze and excitation", "RegNet", **STAGES, embedding_size=8,
            groups_width=4),
    _vision("MobileNetV1", "separable convolutions", "MobileNetV1", **MOBILE),
    _vision("MobileNetV2, theirs", "inverted residuals", "MobileNetV2", **MOBILE),
)  # fmt: skip
