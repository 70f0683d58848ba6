"""The growth of one tensor, block by block, by the path that is chosen for it.

    write   rows of a producer      new row j = write[j] · old row source[j];   fresh: 0, random or the mean
    read    columns of a consumer   the copies of column i share it;            fresh: 0 where unread, else random
    gain    a norm's weight         gain[j] · old source[j]
    shift   a norm's bias           old source[j], 0 on fresh coordinates

`grow.applying.reference` does so with a whole tensor, plainly. Here one of any size grows in blocks of rows: each old
row is read once and finished rows are handed out in any order, so the memory needed is a block. No family and no file
is known here.
"""

from __future__ import annotations

import numpy as np

from grow.applying.arithmetic import ReadRows, WriteRows
from grow.applying.filled_rows import fill_rows, redrawn
from grow.applying.matrix_rows import MatrixRows
from grow.applying.norms import grow_norm
from grow.applying.row_methods import Path, path_of
from grow.notation.origins import Constant, Drawn, Read, Stack
from grow.planning.tensor import TensorPlan

BLOCK = 1 << 18  # elements of a source block: about a megabyte in float32


def grow_tensor(
    t: TensorPlan,
    read_rows: ReadRows,
    write_rows: WriteRows,
    *,
    split: str,
    seed: int,
) -> None:
    """Compute every row of the result exactly once. A vector is a matrix of one column; a stack grows part by part.

    Raises BadInput on NaN or Inf in the source, Refused when the stored dtype cannot hold a result.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused when it is stored
        match t.origin:
            case Read() as read:
                _grow_read(t, read, read_rows, write_rows, split, seed)
            case Constant() | Drawn() as origin:
                fill_rows(t, origin, read_rows, write_rows, seed, BLOCK)
            case Stack():
                raise TypeError(f"{t.name}: a stack grows part by part")


def _grow_read(t: TensorPlan, read: Read, read_rows: ReadRows, write_rows: WriteRows, split: str, seed: int) -> None:
    path = path_of(t, split)
    if read.twin is not None and read.twin.redraw is not None:
        write_rows = redrawn(t, read_rows, write_rows, read, read.twin.redraw, seed, BLOCK)
    if path is Path.WHOLE:
        write_rows(0, grow_norm(t, read, read_rows(t.old, 0, t.matrix[0]), split, seed))
    else:
        MatrixRows(t, read, split, seed, BLOCK, path).run(read_rows, write_rows)
