"""Plans of batches: lengths in, positions out."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["halve", "plan_batches"]


def plan_batches(
    lengths: Sequence[int],
    *,
    batch_size: int | None = None,
    token_budget: int = 4096,
    batch_limit: int = 32,
    pads: bool = True,
) -> list[list[int]]:
    """Group positions into batches of similar length.

    Parameters
    ----------
    lengths : sequence of int
        Length of each item.
    batch_size : int, optional
        Number of items per batch. None lets `token_budget` and `batch_limit` decide.
    token_budget : int
        Largest number of positions (items times longest item) in a batch; a longer item goes alone.
    batch_limit : int
        Largest number of items in a batch, however short they are.
    pads : bool
        True if items of unequal length may share a batch.

    Returns
    -------
    list of list of int
        Positions in `lengths`; each occurs exactly once.

    Examples
    --------
    >>> plan_batches([3, 9, 3, 8], batch_size=2)
    [[1, 3], [0, 2]]
    >>> plan_batches([3, 9, 3, 8], batch_size=2, pads=False)
    [[1], [3], [0, 2]]
    """
    # Longest first, so running out of memory shows in the first batch.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        if batches and _fits(len(batches[-1]) + 1, longest, lengths[i], batch_size, token_budget, batch_limit, pads):
            batches[-1].append(i)
        else:
            batches.append([i])
            longest = lengths[i]
    return batches


def _fits(count, longest, length, batch_size, token_budget, batch_limit, pads) -> bool:
    if not pads and length != longest:
        return False
    if batch_size is not None:
        return count <= batch_size
    return count <= batch_limit and count * longest <= token_budget


def halve(batch: list[int]) -> tuple[list[int], list[int]]:
    """Return two halves of a batch that was too large.

    Examples
    --------
    >>> halve([4, 7, 1])
    ([4, 7], [1])
    """
    middle = (len(batch) + 1) // 2
    return batch[:middle], batch[middle:]
