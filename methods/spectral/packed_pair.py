"""Store two symmetric matrices in the memory of one.

The blocks on and below the diagonal determine a symmetric (m, m) matrix, and so do the blocks on and above it. One
(m, m) array therefore holds two such matrices, except for the diagonal blocks of the second, (m, block) numbers, which
are stored separately:

    array          R_11  T_12  T_13        diagonal_blocks    T_11
                   R_21  R_22  T_23                           T_22
                   R_31  R_32  R_33                           T_33

An update touches one triangle of one matrix and costs half of what it would on the whole matrix.
"""

import torch
from torch import Tensor


class PackedPair:
    """Holds R and T, two symmetric (m, m) matrices of one dtype. R starts as a copy of ``first``; T starts undefined.

    Args:
        first: R, (m, m), symmetric up to rounding; only the blocks on and below the diagonal are taken.
        block: width of the blocks.
    """

    def __init__(self, first: Tensor, block: int) -> None:
        m = len(first)
        self.array = first.clone()
        self.blocks = [slice(start, min(start + block, m)) for start in range(0, m, block)]
        self.diagonal_blocks = [first.new_empty(each.stop - each.start, each.stop - each.start) for each in self.blocks]
        self.width = block
        self.number = torch.arange(m, device=first.device) // block

    def first_diagonal(self) -> Tensor:
        """(m,) the diagonal of R, a view."""
        return self.array.diagonal()

    def second_diagonal(self) -> Tensor:
        """(m,) the diagonal of T, a copy."""
        if not self.diagonal_blocks:
            return self.array.new_empty(0)
        return torch.cat([each.diagonal() for each in self.diagonal_blocks])

    def first_rows(self, nodes: Tensor) -> Tensor:
        """(c, m) rows of R."""
        if len(self.blocks) == 1:
            return self.array[nodes]
        below = self.number[nodes, None] >= self.number
        return torch.where(below, self.array[nodes], self.array[:, nodes].T)

    def first_block(self, number: int) -> Tensor:
        """(block, m) the rows of R of one block."""
        own = self.blocks[number]
        if len(self.blocks) == 1:
            return self.array
        return torch.cat([self.array[own, : own.stop], self.array[own.stop :, own].T], 1)

    def first_row(self, node: int) -> Tensor:
        """(m,) one row of R."""
        stop = self.blocks[node // self.width].stop
        if stop == len(self.array):
            return self.array[node]
        return torch.cat([self.array[node, :stop], self.array[stop:, node]])

    def second_row(self, node: int) -> Tensor:
        """(m,) one row of T."""
        own = self.blocks[node // self.width]
        middle = self.diagonal_blocks[node // self.width][node - own.start]
        if len(self.blocks) == 1:
            return middle
        return torch.cat([self.array[: own.start, node], middle, self.array[node, own.stop :]])

    def times_first(self, rows: Tensor, start: int = 0) -> Tensor:
        """The (c, m) rows times R, (c, m - start): its columns from ``start`` on, where a block must begin."""
        result = rows.new_empty(len(rows), len(self.array) - start)
        for own in self.blocks[start // self.width :]:
            part = result[:, own.start - start : own.stop - start]
            torch.mm(rows[:, : own.stop], self.array[own, : own.stop].T, out=part)
            part.addmm_(rows[:, own.stop :], self.array[own.stop :, own])
        return result

    def add_to_first(self, left: Tensor, right: Tensor, alpha: float) -> None:
        """R += alpha left^T right, with (c, m) factors whose product is symmetric."""
        for own in self.blocks:
            self.array[own, : own.stop].addmm_(left[:, own].T, right[:, : own.stop], alpha=alpha)

    def add_to_second(self, left: Tensor, right: Tensor, alpha: float) -> None:
        """T += alpha left^T right, with (c, m) factors whose product is symmetric."""
        for own, diagonal in zip(self.blocks, self.diagonal_blocks, strict=True):
            diagonal.addmm_(left[:, own].T, right[:, own], alpha=alpha)
            self.array[own, own.stop :].addmm_(left[:, own].T, right[:, own.stop :], alpha=alpha)

    def set_second(self, number: int, rows: Tensor) -> None:
        """One block of rows of T, (block, m - start): the columns from the block on the diagonal on."""
        own, diagonal = self.blocks[number], self.diagonal_blocks[number]
        diagonal.copy_(rows[:, : len(diagonal)])
        self.array[own, own.stop :] = rows[:, len(diagonal) :]
