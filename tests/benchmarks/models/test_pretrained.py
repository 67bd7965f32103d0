"""Networks of transformers: ids in, logits out, with a mask that is derived from padding."""

import importlib.util

import pytest
import torch

from benchmarks.data.tokens import Tokens
from benchmarks.models import build
from benchmarks.records.keys import cell_key
from benchmarks.storage import pretrained
from methods.errors import BadInput
from methods.network.graph import NetworkGraph

TARGET = "benchmarks.models.pretrained.transformer"
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
GPT = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
SENTENCES = Tokens("text_classification", 11, 0)


def made(tokens=SENTENCES, classes=3, **arguments):
    return build({"_target_": TARGET, "name": "mine", **arguments}, (8,), classes, 0, tokens).eval()


@pytest.fixture
def folder(tmp_path):
    made(config=BERT).network.save_pretrained(tmp_path / "net")
    return tmp_path / "net"


def test_padding_is_not_read():
    model = made(config=BERT)
    ids = torch.tensor([[4, 5, 6, 0, 0, 0, 0, 0], [4, 5, 6, 7, 8, 9, 1, 2]])
    with torch.no_grad():
        padded, short = model(ids), model(ids[:1, :3])
        assert padded.shape == (2, 3) and torch.allclose(padded[:1], short, atol=1e-6)
        assert not torch.allclose(model(ids[1:, :3]), padded[1:], atol=1e-6)
        assert torch.isfinite(model(torch.zeros(1, 8, dtype=torch.long))).all()


def test_a_causal_network_has_logits_for_every_token_and_sees_no_later_one():
    tokens = Tokens("language_model", 7)
    model = made(tokens, classes=7, config=GPT)
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 5, 6]])
    with torch.no_grad():
        assert model(first).shape == (1, 4, 7)
        assert torch.allclose(model(first)[:, :2], model(second)[:, :2], atol=1e-6)
        assert not torch.allclose(model(first)[:, 2], model(second)[:, 2], atol=1e-6)


def test_weights_of_a_folder_are_taken_and_its_embeddings_stay_as_they_are(folder):
    first, second = made(config=BERT), made(path=str(folder), frozen="embeddings")
    ids = SENTENCES.probe(4, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(first(ids), second(ids), atol=1e-6)
    frozen = [name for name, parameter in second.named_parameters() if not parameter.requires_grad]
    assert frozen and all("embeddings" in name for name in frozen)


def test_heads_and_widths_of_a_transformer_are_groups():
    model = made(config=BERT)
    groups = NetworkGraph(model, SENTENCES.probe(2, 8, torch.Generator().manual_seed(1))).groups
    assert {group.size for group in groups} >= {2, 24}


WRONG = [
    ({}, "either the weights"),
    ({"path": "x/y", "config": BERT}, "either the weights"),
    ({"config": {"hidden_size": 8}}, "no model_type"),
    ({"config": {"model_type": "nonsense"}}, "model.config cannot be used"),
    ({"path": "/no/such/folder"}, "no network of transformers"),
]


@pytest.mark.parametrize("arguments,message", WRONG, ids=[message for _, message in WRONG])
def test_what_makes_no_network_is_said_in_two_lines(arguments, message):
    with pytest.raises(BadInput, match=message) as caught:
        made(**arguments)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_tokenizer_of_another_network_is_refused(folder):
    with pytest.raises(BadInput, match="reads 11 ids, but the tokenizer gives 99"):
        made(Tokens("text_classification", 99, 0), path=str(folder))


def test_without_the_packages_it_is_said_how_to_install_them(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(BadInput, match="needs the package transformers, not installed here; type pip install"):
        made(config=BERT)


def test_a_place_on_this_machine_is_no_part_of_the_key():
    def key(path, tokenizer="characters"):
        return cell_key({"model": {"name": "mine", "path": path}, "dataset": {"name": "d", "tokenizer": tokenizer}})

    assert key("/home/me/nets/small") == key("~/other/small") == key("./small")
    assert len({key("/a/small"), key("/a/large"), key("owner/small"), key("other/small"), key(None)}) == 5
    assert key(None, "/a/tokenizer.json") == key(None, "/b/tokenizer.json") != key(None)
