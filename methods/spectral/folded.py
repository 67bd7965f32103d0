"""Two symmetric matrices in the memory of one.

A symmetric (m, m) matrix is known from the blocks on and below its diagonal, and another one from those on and above.
Both fit into one (m, m) array but for the diagonal blocks of the second, (m, block) numbers, which stand apart:

    array          R_11  T_12  T_13        apart    T_11
                   R_21  R_22  T_23                 T_22
                   R_31  R_32  R_33                 T_33

Updates touch one triangle each and therefore cost half of what they would on whole matrices.
"""

import torch
from torch import Tensor


class Folded:
    """R, the first matrix, and T, the second, both (m, m), symmetric and of one dtype; R starts as a copy, T undefined.

    Args:
        first: R, (m, m), symmetric up to rounding; only the blocks on and below the diagonal are taken.
        block: width of the blocks.
    """

    def __init__(self, first: Tensor, block: int) -> None:
        m = len(first)
        self.array = first.clone()
        self.blocks = [slice(start, min(start + block, m)) for start in range(0, m, block)]
        self.apart = [first.new_empty(each.stop - each.start, each.stop - each.start) for each in self.blocks]
        self.width = block
        self.number = torch.arange(m, device=first.device) // block

    def first_diagonal(self) -> Tensor:
        """(m,) the diagonal of R, a view."""
        return self.array.diagonal()

    def second_diagonal(self) -> Tensor:
        """(m,) the diagonal of T, a copy."""
        if not self.apart:
            return self.array.new_empty(0)
        return torch.cat([each.diagonal() for each in self.apart])

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
        middle = self.apart[node // self.width][node - own.start]
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
        for own, diagonal in zip(self.blocks, self.apart, strict=True):
            diagonal.addmm_(left[:, own].T, right[:, own], alpha=alpha)
            self.array[own, own.stop :].addmm_(left[:, own].T, right[:, own.stop :], alpha=alpha)

    def set_second(self, number: int, rows: Tensor) -> None:
        """One block of rows of T, (block, m - start): the columns from the block on the diagonal on."""
        own, diagonal = self.blocks[number], self.apart[number]
        diagonal.copy_(rows[:, : len(diagonal)])
        self.array[own, own.stop :] = rows[:, len(diagonal) :]
