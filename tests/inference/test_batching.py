from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skembed.inference.batching import halve, plan_batches

lengths = st.lists(st.integers(1, 600), min_size=1, max_size=60)


@given(lengths, st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 2000), st.booleans())
def test_every_item_is_in_one_batch_within_the_limits(lengths, batch_size, budget, pads):
    plan = plan_batches(lengths, batch_size=batch_size, token_budget=budget, batch_limit=8, pads=pads)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        longest = max(lengths[i] for i in batch)
        assert len(batch) <= (batch_size or 8)
        assert batch_size or len(batch) == 1 or len(batch) * longest <= budget
        assert pads or len({lengths[i] for i in batch}) == 1


@given(lengths)
def test_longest_first(lengths):
    firsts = [lengths[batch[0]] for batch in plan_batches(lengths)]
    assert firsts == sorted(firsts, reverse=True)


@given(st.lists(st.integers(), min_size=2))
def test_halves_keep_everything(batch):
    first, second = halve(batch)
    assert first + second == batch
    assert 0 <= len(first) - len(second) <= 1
