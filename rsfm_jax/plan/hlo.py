"""Reads a compiled program's text: which instructions run, how often, on how many bytes.

XLA prints one instruction a line, `%name = shape opcode(%operand, ...), attribute=value, ...`,
in computations that loops, branches and fusions call by name.
"""

import dataclasses
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")
# The width of a type is in its name, `f8e4m3fn` and `pred` apart.
_BITS = re.compile(r"^(?:bf|f|s|u|c)(\d+)")
# Memory spaces other than 0 lie on the chip itself (TPU's vector and scalar memories).
_ON_CHIP = re.compile(r"S\([1-9]\)")

# Opcodes that only name, order or await values.
_BOOKKEEPING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
    "partition-id", "replica-id", "opt-barrier", "add-dependency", "while", "call",
    "conditional",
}  # fmt: skip
# Copies that run beside the computation.
_DMA = {"copy-start", "slice-start", "dynamic-slice-start"}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape: `bf16[512,2048]{1,0:T(8,128)S(1)}`."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def bytes(self) -> int:
        """Without padding."""
        size = 1
        for dimension in self.shape:
            size *= dimension
        bits = _BITS.match(self.dtype)
        return size * int(bits[1]) // 8 if bits else size

    @property
    def in_memory(self) -> bool:
        """Whether it lies in the device's main memory."""
        return not _ON_CHIP.search(self.layout)


def arrays(text: str) -> list[Array]:
    """All arrays of a shape, tuples flattened."""
    return [
        Array(dtype, tuple(int(x) for x in sizes.split(",") if x), layout)
        for dtype, sizes, layout in _ARRAY.findall(text)
    ]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `text` is the shape, `rest` everything after the operands' parenthesis opens."""

    name: str
    text: str
    opcode: str
    rest: str

    @property
    def results(self) -> list[Array]:
        """What it makes."""
        return arrays(self.text)

    @property
    def operands(self) -> list[str]:
        """Names of what it reads."""
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    @property
    def called(self) -> list[str]:
        """Names of the computations it calls."""
        return [
            name for group in _CALLED.findall(self.rest) for name in re.findall(r"[\w.\-]+", group)
        ]

    @property
    def constant(self) -> int | None:
        """Its value, where it is an integer constant."""
        found = re.match(r"(\d+)\)", self.rest) if self.opcode == "constant" else None
        return int(found[1]) if found else None

    def attribute(self, pattern: str) -> str | None:
        """The first group of `pattern` in its attributes."""
        found = re.search(pattern, self.rest)
        return found[1] if found else None

    def required(self, pattern: str) -> str:
        """`attribute` of an instruction that has to have it; raises `ValueError`."""
        found = self.attribute(pattern)
        if found is None:
            raise ValueError(f"no {pattern} in {self.rest}")
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program: computations by name, each an ordered dict of its instructions."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def launched(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, times it runs) of all that is not inside a fusion."""
        yield from self._walk(self.entry, 1, inside=("while", "call", "conditional"))

    def everything(self) -> Iterator[tuple[str, Instruction, int]]:
        """As `launched`, with what fusions and asynchronous wrappers hold."""
        yield from self._walk(self.entry, 1, inside=None)

    def _walk(
        self, computation: str, times: int, inside: tuple[str, ...] | None
    ) -> Iterator[tuple[str, Instruction, int]]:
        for instruction in self.computations[computation].values():
            yield computation, instruction, times
            if inside is not None and instruction.opcode not in inside:
                continue
            trips = self.trip_count(instruction) if instruction.opcode == "while" else 1
            for called in instruction.called:
                yield from self._walk(called, times * trips, inside)

    def trip_count(self, loop: Instruction) -> int:
        """How often a `while` runs: what XLA found out, or the bound and stride of its counter.

        1 where neither tells (a loop whose length depends on data).
        """
        known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
        if known:
            return int(known)
        condition = self.computations[loop.required(r"condition=%?([\w.\-]+)")]
        bound = max((i.constant for i in condition.values() if i.constant), default=1)
        counters = [i for i in condition.values() if i.opcode == "get-tuple-element"]
        if len(counters) != 1:
            return bound
        body = self.computations[loop.required(r"body=%?([\w.\-]+)")]
        index = int(counters[0].required(r"index=(\d+)"))
        stride = _added(body, list(body.values())[-1].operands[index])
        return -(-bound // max(stride, 1))

    def operand_arrays(self, computation: str, instruction: Instruction) -> list[Array]:
        """What an instruction reads, each array once."""
        scope = self.computations[computation]
        names = dict.fromkeys(instruction.operands)
        return [array for name in names if name in scope for array in scope[name].results]


def _added(scope: dict[str, Instruction], name: str) -> int:
    """The sum of constants that `name` is ahead of the loop's counter it derives from."""
    instruction = scope[name]
    if instruction.opcode not in ("add", "copy", "bitcast"):
        return instruction.constant or 0
    return sum(_added(scope, operand) for operand in instruction.operands)


def parse(text: str) -> Module:
    """The module of `jax.stages.Compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, body = "", {}
    for line in text.splitlines():
        opened = _COMPUTATION.match(line)
        if opened:
            body = computations.setdefault(opened[2], {})
            entry = opened[2] if opened[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        if found:
            body[found[1]] = Instruction(*found.groups())
    return Module(computations, entry)


def is_kernel(instruction: Instruction) -> bool:
    """Whether the device launches something for it."""
    opcode = instruction.opcode
    if opcode in _BOOKKEEPING | _DMA or opcode.endswith("-done"):
        return False
    # A TPU's scalar unit computes loop counters and offsets.
    scalar = all(not array.shape for array in instruction.results)
    return not scalar or opcode in ("fusion", "custom-call") or "-start" in opcode


def kernels(module: Module) -> int:
    """How many kernels one step launches."""
    return sum(times for _, instruction, times in module.launched() if is_kernel(instruction))


def bytes_moved(module: Module) -> int:
    """Bytes that kernels and copies read from and write to the device's main memory.

    Every operand counts once a kernel, whole: no reuse between kernels, and no credit where a
    kernel reads a slice.
    """
    total = 0
    for computation, instruction, times in module.launched():
        if is_kernel(instruction) or instruction.opcode in _DMA:
            touched = instruction.results + module.operand_arrays(computation, instruction)
            total += times * sum(array.bytes for array in touched if array.in_memory)
    return total


def estimated_cycles(
    module: Module, kernels: dict[tuple[str, tuple[int, ...]], int] | None = None
) -> int:
    """The TPU compiler's own estimate of one step; 0 where the target gives none.

    Args:
      module: the program.
      kernels: cycles of a call of each Pallas kernel, which it does not estimate, by name and
        result's shape.
    """
    total = 0
    for _, instruction, times in module.launched():
        cycles = int(instruction.attribute(r'"estimated_cycles":"(\d+)"') or 0)
        pallas = instruction.attribute(r'op_name="[^"]*?(\w+)/pallas_call"')
        if kernels and pallas and instruction.opcode == "custom-call":
            cycles = kernels[pallas, instruction.results[0].shape]
        total += times * cycles
    return total
