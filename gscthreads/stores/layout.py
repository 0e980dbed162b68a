"""The order in which a slice's rows are written: by page id and rank, as if appended to the key of the table."""

from __future__ import annotations

import itertools
import operator
from typing import Any, List, NamedTuple, Optional, Sequence

from ..model import Rows


class Layout(NamedTuple):
    """The columns of gsc_fact, each as long as there are rows; None where all rows have the same value: page 0,
    rank 1, segment 0, else NULL."""

    page: Optional[Sequence[int]]
    rank: Optional[Sequence[int]]
    query: Optional[Sequence[str]]
    segment: Optional[Sequence[int]]
    clicks: Sequence[int]
    impressions: Sequence[int]
    ctr: Optional[Sequence[Optional[float]]]
    position: Optional[Sequence[Optional[float]]]


def laid_out(rows: Rows, ids: Sequence[int], segments: Optional[Sequence[int]]) -> Layout:
    """*rows* in the order of their pages' *ids* (one for each of ``rows.pages``; 0 for a report without page)."""
    counts: Sequence[int] = rows.counts
    columns: List[Any] = [rows.query, segments, rows.clicks, rows.impressions, rows.ctr, rows.position]
    groups = sorted(range(len(ids)), key=ids.__getitem__)
    if groups != list(range(len(ids))):
        starts = list(itertools.accumulate(counts, initial=0))
        take = operator.itemgetter(
            *itertools.chain.from_iterable([range(starts[group], starts[group + 1]) for group in groups])
        )
        columns = [None if column is None else take(column) for column in columns]
        ids = [ids[group] for group in groups]
        counts = [counts[group] for group in groups]
    pages: Optional[Sequence[int]] = None if list(ids) == [0] else ids
    ranks: Optional[List[int]] = None
    if rows.kept != len(ids):
        pages = pages and list(itertools.chain.from_iterable(map(itertools.repeat, ids, counts)))
        ranks = list(itertools.chain.from_iterable([range(1, count + 1) for count in counts]))
    return Layout(pages, ranks, *columns)
