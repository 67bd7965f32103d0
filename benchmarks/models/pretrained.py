"""Adapt networks of the package ``transformers`` to this suite: ids in, logits out.

The mask of a sequence is derived from the id of padding, so that one tensor is all there is to hand over. Everything is
read from this machine first: a folder, an installed package that holds one, or what the hub's cache has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.settings.tasks import LANGUAGE_MODEL, TEXT_CLASSIFICATION
from benchmarks.storage.pretrained import had, needs_transformers
from methods.errors import BadInput, first_line

INSTEAD = "choose a model of ours: model=char_gpt, char_llama or text_encoder"


class Transformer(nn.Module):
    """A network of ``transformers`` that is called with ids alone.

    Args:
        network: with ``forward(input_ids, attention_mask)`` and an output that has ``logits``.
        padding: the id of no token; None where there is none, and then no mask is given.
        classes: of a language model; the logits beyond are of no token, and are left out.
    """

    def __init__(self, network: nn.Module, padding: int | None, classes: int | None) -> None:
        super().__init__()
        self.network = network
        self.padding = padding
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) or (B, T, classes) of ids (B, T)."""
        if self.padding is None:
            logits = self.network(input_ids=x).logits
        else:
            present = x != self.padding
            present = present | ~present.any(1, keepdim=True)  # a text of nothing is read as it is
            logits = self.network(input_ids=x, attention_mask=present.long()).logits
        return logits if self.classes is None else logits[..., : self.classes]


def transformer(
    path: str | None = None,
    config: str | Mapping[str, Any] | None = None,
    frozen: str | None = None,
    *,
    classes: int,
    vocabulary: int | None = None,
    padding: int | None = None,
    task: str | None = None,
) -> Transformer:
    """A causal language model, or a network with a head for ``classes``, by what the data set asks for.

    Attention is computed step by step ("eager"): fused kernels have no second derivatives, and hide their products.

    Args:
        path: a folder, an installed package that holds one, or a name on the hub; its weights are taken.
        config: in place of ``path``, for random weights: a folder or ``config.json``, a name on the hub, or the values
            of a configuration themselves, with ``model_type``.
        frozen: parameters whose names begin so are not trained, ``embeddings`` for all embeddings.
        classes: number of outputs.
        vocabulary: ids there are to read.
        padding: the id of no token.
        task: ``text_classification`` or ``language_model``.
    """
    if (path is None) == (config is None):
        raise BadInput(
            "model=hf needs either the weights of a network or a configuration for random ones\n"
            "type model.path=<folder, installed package or hub name>, or model.config=<folder or values>"
        )
    needs_transformers("model", "hf", INSTEAD)
    if task not in (LANGUAGE_MODEL, TEXT_CLASSIFICATION):
        raise BadInput("model=hf reads tokens; choose dataset=tinyshakespeare, sentence_polarity, text or sentences")
    import transformers

    transformers.logging.set_verbosity_error()  # of heads that are new, at every cell
    transformers.logging.disable_progress_bar()
    language = task == LANGUAGE_MODEL
    factory = transformers.AutoModelForCausalLM if language else transformers.AutoModelForSequenceClassification
    settings = _configuration(path if path is not None else config)
    settings._attn_implementation = "eager"
    settings.use_cache = False
    settings.pad_token_id = padding
    if not language:
        settings.num_labels = classes
    if config is not None and vocabulary is not None:
        settings.vocab_size = vocabulary
    network = _made(factory, path, settings)
    _require_vocabulary(network, vocabulary)
    for name, parameter in network.named_parameters():
        if frozen is not None and (name.startswith(frozen) or (frozen == "embeddings" and frozen in name)):
            parameter.requires_grad_(False)
    return Transformer(network, padding, classes if language else None)


def _configuration(source: str | Mapping[str, Any] | None) -> Any:
    import transformers

    if isinstance(source, Mapping):
        values = dict(source)
        kind = values.pop("model_type", None)
        if kind is None:
            raise BadInput("model.config has no model_type; type for instance model.config.model_type=bert")
        try:
            return transformers.AutoConfig.for_model(kind, **values)
        except Exception as error:  # an unknown type, values that do not fit
            raise BadInput(f"model.config cannot be used: {first_line(error)}") from error
    assert source is not None
    place = Path(source).expanduser()
    try:
        return had(transformers.AutoConfig.from_pretrained, str(place) if place.is_file() else source)
    except Exception as error:  # of the library, of the file, of the network
        raise BadInput(
            f"{source} is no network of transformers that can be had here: {first_line(error)}\n"
            "expected a folder with config.json, an installed package that holds one, or a name on the hub"
        ) from error


def _made(factory: Any, path: str | None, settings: Any) -> nn.Module:
    try:
        if path is None:
            made: nn.Module = factory.from_config(settings, trust_remote_code=False)
        else:
            made = had(factory.from_pretrained, path, config=settings, dtype=torch.float32)
    except Exception as error:  # of the library: weights that are missing, a task that the network does not do
        raise BadInput(f"{path or 'model.config'} gives no network for this task: {first_line(error)}") from error
    return made


def _require_vocabulary(network: Any, vocabulary: int | None) -> None:
    """Ids beyond the embedding would be read out of bounds."""
    known = network.get_input_embeddings().weight.shape[0]
    if vocabulary is not None and vocabulary > known:
        raise BadInput(
            f"the network reads {known} ids, but the tokenizer gives {vocabulary}; it needs its own one\n"
            "type dataset.tokenizer=<what model.path says>"
        )
