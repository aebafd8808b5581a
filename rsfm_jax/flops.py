"""Counting FLOPs: a model's products as terms that name the formula they come from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Term:
    """Some of the products that one image takes.

    Attributes:
      name: which.
      forward: their FLOPs in the forward pass.
      formula: where `forward` comes from.
      passes: how often training computes as much: 3 with the backward pass of both sides.
    """

    name: str
    forward: int
    formula: str
    passes: int = 3

    @property
    def training(self) -> int:
        """FLOPs of forward and backward pass."""
        return self.passes * self.forward


def training_flops(terms: list[Term]) -> int:
    """Forward + backward FLOPs of one image."""
    return sum(term.training for term in terms)


def product(name: str, rows: int, inputs: int, outputs: int, passes: int = 3) -> Term:
    """One product of a matrix of `rows` rows with a weight [inputs, outputs]."""
    forward = 2 * rows * inputs * outputs
    return Term(name, forward, f"2 x {rows} rows x {inputs} x {outputs}", passes)
