"""Parts of blocks of scores."""

from typing import NamedTuple

Area = tuple[slice, slice]  # which images and which captions; both ends are given


class Part(NamedTuple):
    """What two areas have in common, not empty."""

    rows: slice
    columns: slice

    def within(self, area: Area) -> Area:
        """The part as indices of an array that holds one of the areas."""
        rows, columns = area
        return (
            slice(self.rows.start - rows.start, self.rows.stop - rows.start),
            slice(self.columns.start - columns.start, self.columns.stop - columns.start),
        )


def common_part(a: Area, b: Area) -> Part | None:
    """What two areas have in common; None if nothing.

    >>> common_part((slice(0, 4), slice(0, 9)), (slice(2, 6), slice(5, 7)))
    Part(rows=slice(2, 4, None), columns=slice(5, 7, None))
    """
    rows, columns = (
        slice(max(one.start, other.start), min(one.stop, other.stop)) for one, other in zip(a, b, strict=True)
    )
    return Part(rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
