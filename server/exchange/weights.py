"""How much each site counts in a mean or a sum over sites: as its rows say, up to a share.

How many rows a site states, and how many its counts are of, is its own word. Whoever had all the rows of the
world would be the mean, the figures over all sites, and the pooled drift check. So no site counts for more
than `LARGEST_SHARE` of three sites or more, and of two for no more than half-way from there to all: what
lies above is cut off its weight. With a share S the others keep at least 1 - S between them.

A model is weighed by the rows that its site states, and a sum of counts by the rows that are in it. A row of
a site that was cut counts for less than one, and its noise for less by the same factor. This is made of what
was released, and costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LARGEST_SHARE", "row_weights", "site_weights"]

LARGEST_SHARE = 0.5


def site_weights(rows: Mapping[str, float], largest_share: float = LARGEST_SHARE) -> dict[str, float]:
    """How many rows each site counts for.

    Args:
        rows: of each site, at least 1.
        largest_share: what no site of three or more may pass; less than an equal part for each means
            equal parts.

    >>> site_weights({"north": 200, "south": 300, "west": 10**12})
    {'north': 200, 'south': 300, 'west': 500.0}
    >>> site_weights({"north": 200, "south": 300, "west": 400})
    {'north': 200, 'south': 300, 'west': 400}
    >>> site_weights({"north": 100, "west": 10**12})
    {'north': 100, 'west': 300.0}
    """
    share = largest_share if len(rows) > 2 else (1 + largest_share) / 2
    limit = _limit(sorted(rows.values()), share)
    return {site: number if number <= limit else limit for site, number in rows.items()}


def row_weights(rows: Mapping[str, float], largest_share: float = LARGEST_SHARE) -> dict[str, float]:
    """For how much each row of a site counts: 1, but at a site whose weight was cut.

    Args:
        rows: of each site, as counted: noise may make them none or less, which counts as 1.
        largest_share: see `site_weights`.

    >>> row_weights({"north": 200, "south": 300, "west": 1000})
    {'north': 1.0, 'south': 1.0, 'west': 0.5}
    """
    counted = {site: max(1.0, number) for site, number in rows.items()}
    weights = site_weights(counted, largest_share)
    return {site: weights[site] / number for site, number in counted.items()}


def _limit(ascending: list[float], share: float) -> float:
    """The greatest weight of which no site passes the share, once those above have been cut to it."""
    for cut in range(len(ascending)):
        kept = ascending[: len(ascending) - cut]
        if cut * share >= 1:
            break
        limit = share * sum(kept) / (1 - cut * share)
        if kept[-1] <= limit:
            return limit
    return float(min(ascending, default=0))  # equal parts
