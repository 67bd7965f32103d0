"""Write PyTorch's attention out as four linear layers, and put it together again after heads have been removed.

``nn.MultiheadAttention`` holds the weights of queries, keys and values in one parameter, multiplies by them without
calling a layer, and requires the total width of its heads to equal the width of its input. :class:`SeparateAttention`
computes the same with a layer for each of them and any number of heads, so that heads can be removed. It stays in the
pruned network unless it still fits ``nn.MultiheadAttention``.

    head_h = softmax(Q_h K_h^T / sqrt(d) + mask) V_h;   attention = output(head_1, ..., head_H)    (Vaswani et al. 2017)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from methods.network.ownership import borrowed_weights

PARTS = ("q", "k", "v")  # as PyTorch calls them, in the order in which they lie in one parameter


class SeparateAttention(nn.Module):
    """What ``nn.MultiheadAttention`` computes, with the linear layers ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``.

    Args:
        layer: the module that it replaces; ``out_proj`` is the same module, parts of a joint parameter are copies.

    Attributes:
        head_dim: width d of a head.
        dropout: probability with which an attention weight is dropped in training.
        batch_first: as in ``nn.MultiheadAttention``; so are the attributes that are None, which tell PyTorch's
            transformers not to bypass this module on their fast path.
    """

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim: int = layer.head_dim
        self.dropout: float = layer.dropout
        self.batch_first: bool = layer.batch_first
        self.in_proj_weight = self.in_proj_bias = None
        biases = [None] * 3 if layer.in_proj_bias is None else _thirds(layer.in_proj_bias)
        for part, weight, bias in zip(PARTS, _weights(layer), biases, strict=True):
            self.add_module(f"{part}_proj", _linear(weight, bias))
        self.out_proj: nn.Module = layer.out_proj
        self.train(layer.training)

    @property
    def num_heads(self) -> int:
        """How many heads there are."""
        return self.q_proj.out_features // self.head_dim  # type: ignore[operator, union-attr, return-value]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what ``nn.MultiheadAttention`` does, also for a single sample.

        Args:
            query: (n, L, in), or (L, n, in) unless ``batch_first``; so are ``key`` and ``value``, of length S.
            key: as above.
            value: as above.
            key_padding_mask: (n, S) bool, true where a key is ignored, or numbers that are added.
            need_weights: whether weights are returned, too.
            attn_mask: (L, S) or (n x heads, L, S), true where a query does not see a key, or numbers that are added.
            average_attn_weights: whether the weights that are returned are the means over the heads.
            is_causal: a hint that ``attn_mask`` is causal; the mask alone counts.

        Returns:
            The shape of ``query``, and (n, L, S) or (n, heads, L, S) weights or None.
        """
        del is_causal
        batched = query.dim() == 3
        read = [each if batched else each.unsqueeze(0) for each in (query, key, value)]
        read = [each if self.batch_first or not batched else each.transpose(0, 1) for each in read]
        q, k, v = (
            getattr(self, f"{part}_proj")(each).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for part, each in zip(PARTS, read, strict=True)
        )
        mask = _mask(attn_mask, key_padding_mask, q)
        drop, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)
            weights = functional.dropout((scores if mask is None else scores + mask).softmax(3), drop)
            seen = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            seen = functional.scaled_dot_product_attention(q, k, v, mask, drop)
        written = self.out_proj(seen.transpose(1, 2).flatten(2))
        if not batched:
            return written.squeeze(0), None if weights is None else weights.squeeze(0)
        return written if self.batch_first else written.transpose(0, 1), weights

    @torch.no_grad()
    def put_together(self) -> nn.Module:
        """An ``nn.MultiheadAttention``; this module itself if the heads together are not as wide as the input."""
        layers = [getattr(self, f"{part}_proj") for part in PARTS]
        if not all(isinstance(each, nn.Linear) for each in (*layers, self.out_proj)):
            return self
        q, k, v = layers
        out: nn.Linear = self.out_proj  # type: ignore[assignment]  # its class has been checked
        widths = {q.in_features, *(each.out_features for each in layers), out.in_features, out.out_features}
        biases = {each.bias is None for each in (*layers, out)}
        if len(widths) > 1 or len(biases) > 1:
            return self
        made = nn.MultiheadAttention(  # on no device, so that no initial values are drawn from the global random state
            q.in_features, self.num_heads, self.dropout, out.bias is not None, kdim=k.in_features, vdim=v.in_features,
            batch_first=self.batch_first, device="meta", dtype=q.weight.dtype,
        )  # fmt: skip
        if made.in_proj_weight is None:
            made.q_proj_weight, made.k_proj_weight, made.v_proj_weight = (each.weight for each in layers)
        else:
            made.in_proj_weight = _joined([each.weight for each in layers])
        if out.bias is not None:
            made.in_proj_bias = _joined([each.bias for each in layers])
        made.out_proj = out  # type: ignore[assignment]  # PyTorch has a subclass of its own for it
        return made.train(self.training)

    def put_together_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks by parameter names of ``nn.MultiheadAttention``, if :meth:`put_together` returns one."""
        whole = self.put_together()
        if not isinstance(whole, nn.MultiheadAttention):
            return dict(masks)
        names = {f"out_proj.{own}": f"out_proj.{own}" for own in ("weight", "bias")}
        if whole.in_proj_weight is None:
            names |= {f"{part}_proj.weight": f"{part}_proj_weight" for part in PARTS}
        found = {names[name]: mask for name, mask in masks.items() if name in names}
        for own in ("weight", "bias"):
            each = [(f"{part}_proj.{own}", getattr(getattr(self, f"{part}_proj"), own)) for part in PARTS]
            if any(name in masks and name not in names for name, _ in each):
                parts = [masks.get(name, torch.ones_like(of, dtype=torch.bool)) for name, of in each]
                found[f"in_proj_{own}"] = torch.cat(parts)
        return found


def attention_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Paths and modules of PyTorch's attention in a network that can be written out.

    Attention that adds keys and values of its own (``add_bias_kv``, ``add_zero_attn``) is left as it is.
    """
    borrowed = borrowed_weights(model)
    return {
        path: module
        for path, module in model.named_modules()
        if path
        and type(module) is nn.MultiheadAttention
        and borrowed.keys().isdisjoint((path, f"{path}.out_proj"))
        and module.bias_k is None
        and not module.add_zero_attn
    }


def _weights(layer: nn.MultiheadAttention) -> list[nn.Parameter]:
    """(embed_dim, in) weights of queries, keys and values."""
    if layer.in_proj_weight is not None:
        return _thirds(layer.in_proj_weight)
    return [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]


def _thirds(joined: nn.Parameter) -> list[nn.Parameter]:
    return [nn.Parameter(part.clone(), joined.requires_grad) for part in joined.detach().chunk(3)]


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer: nn.Linear = skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


def _joined(parts: list[nn.Parameter]) -> nn.Parameter:
    return nn.Parameter(torch.cat([each.detach() for each in parts]), any(each.requires_grad for each in parts))


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor) -> Tensor | None:
    """What is added to the (n, heads, L, S) scores, of a shape that broadcasts to theirs; None if nothing is."""
    added = None if attn_mask is None else _numbers(attn_mask, query)
    if added is not None and added.dim() == 3:
        added = added.unflatten(0, (len(query), -1))
    if key_padding_mask is None:
        return added
    padding = key_padding_mask if key_padding_mask.dim() == 2 else key_padding_mask.unsqueeze(0)
    padding = _numbers(padding, query)[:, None, None]
    return padding if added is None else added + padding


def _numbers(mask: Tensor, query: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    return torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(mask, float("-inf"))
