from __future__ import annotations

import pytest
import torch

from mllmrec.baselines.bert4rec import Bert4Rec
from mllmrec.baselines.gru4rec import Gru4Rec
from mllmrec.baselines.sasrec import SasRec


def causal_network(name: str):
    return sharp({"sasrec": SasRec, "gru4rec": Gru4Rec}[name](hidden_size=16).build(12, None))


def sharp(network):
    """Make item vectors larger than at initialisation, so that items make a difference."""
    with torch.no_grad():
        network.items.own.weight *= 20
    return network.eval()


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_a_later_item_changes_no_earlier_state(name):
    network = causal_network(name)
    vectors, lengths = network.items(), torch.tensor([5, 5])
    states = network.states(torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 5]]), lengths, vectors)
    assert torch.allclose(states[0, :3], states[1, :3], atol=1e-6)
    # From the changed item on, every state differs.
    assert ((states[0, 3:] - states[1, 3:]).abs().amax(dim=1) > 1e-3).all()


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_the_loss_is_of_every_next_item(name):
    network = causal_network(name)
    vectors = network.items()
    items, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    expected = []
    for history, following in (([1, 2], [2, 3]), ([4], [5])):
        states = network.states(torch.tensor([history]), torch.tensor([len(history)]), vectors)[0]
        shares = torch.log_softmax(states @ vectors.T, dim=-1)
        expected += [-shares[place, item].item() for place, item in enumerate(following)]
    assert network.loss(items, lengths).item() == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_sasrec_counts_places_back_from_the_latest_item():
    network = causal_network("sasrec")
    vectors = network.items()
    with torch.no_grad():
        network.places.weight[1:] += 5
    one = network.query(torch.tensor([[3, 0]]), torch.tensor([1]), vectors)
    with torch.no_grad():
        network.places.weight[1:] -= 5
    # A single item is at place 0 whatever the padding, and sees no other place.
    assert torch.allclose(one, network.query(torch.tensor([[3]]), torch.tensor([1]), vectors), atol=1e-6)


def bert(**settings):
    return sharp(Bert4Rec(hidden_size=16, **settings).build(12, None))


def test_bert4rec_sees_both_sides_but_not_what_is_masked():
    network = bert()
    vectors, lengths = network.items(), torch.tensor([3, 3, 3])
    items = torch.tensor([[1, 2, 3], [1, 2, 9], [1, 8, 3]])
    masked = torch.tensor([[False, True, False]]).expand(3, 3)
    middle = network.states(items, lengths, masked, vectors)[:, 1]
    assert (middle[0] - middle[1]).abs().max() > 1e-3
    assert torch.allclose(middle[0], middle[2], atol=1e-6)


def test_bert4rec_asks_at_a_mask_behind_the_history():
    network = bert()
    vectors = network.items()
    query = network.query(torch.tensor([[1, 2, 0]]), torch.tensor([2]), vectors)
    masked = torch.tensor([[False, False, True]])
    states = network.states(torch.tensor([[1, 2, 7]]), torch.tensor([3]), masked, vectors)
    assert torch.allclose(query[0], states[0, 2], atol=1e-6)


def test_bert4rec_masks_a_share_and_at_least_one_and_no_padding():
    lengths = torch.tensor([10] * 2000 + [2] * 2000)
    masked = bert(masked_share=0.3, last_share=0.0).draw_masks(lengths, 12)
    assert not masked[:2000, 10:].any()
    assert not masked[2000:, 2:].any()
    assert masked.any(dim=1).all()
    # Expected for ten items: 3, plus 0.7^10 = 0.03 for the forced one.
    assert masked[:2000].sum(1).float().mean().item() == pytest.approx(3.03, abs=0.15)
    # Expected for two items: 0.6, plus 0.7^2 = 0.49; the forced one may be either.
    assert masked[2000:].sum(1).float().mean().item() == pytest.approx(1.09, abs=0.05)
    assert masked[2000:, 0].float().mean().item() == pytest.approx(1.09 / 2, abs=0.05)


def test_bert4rec_masks_the_last_item_alone_in_a_share_of_the_sequences():
    lengths = torch.tensor([5] * 2000)
    masked = bert(masked_share=0.9, last_share=0.25).draw_masks(lengths, 6)
    alone = (masked == torch.tensor([False, False, False, False, True, False])).all(dim=1)
    assert alone.float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_bert4rec_learns_from_the_masked_items_only():
    network = bert(masked_share=0.0, last_share=0.999999)
    items, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    vectors = network.items()
    expected = 0.0
    for history, last in (([1, 2], 3), ([4], 5)):
        query = network.query(torch.tensor([history]), torch.tensor([len(history)]), vectors)[0]
        expected -= torch.log_softmax(query @ vectors.T, dim=-1)[last].item() / 2
    assert network.loss(items, lengths).item() == pytest.approx(expected, abs=1e-5)
