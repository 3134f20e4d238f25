"""Reads a compiled program's text (HLO): estimated cycles, collectives, operations.

TPU programs carry the compiler's own estimate of the cycles of every fusion. `cost_analysis()` counts the
body of a loop once; here it counts once per iteration. Estimates leave out collectives, gathers,
scatters, sorts and latency.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|f8\w+)\[([\d,]*)\]")
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


class Instruction(NamedTuple):
    """An operation of a program.

    Attributes:
        name: of the result.
        type: of the result, as text.
        opcode: such as "fusion" or "while".
        attributes: the rest of the line.
    """

    name: str
    type: str
    opcode: str
    attributes: str

    def attribute(self, pattern: str) -> str:
        """What the group of a pattern matches in the attributes; "" if it does not match."""
        match = re.search(pattern, self.attributes)
        return match.group(1) if match else ""

    @property
    def scope(self) -> str:
        """The names of the functions and scopes that the operation comes from."""
        return self.attribute(r'op_name="([^"]*)"')

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 where it has none."""
        return int(self.attribute(r'estimated_cycles":"(\d+)"') or 0)

    @property
    def elements(self) -> int:
        """Elements of the largest array of the result."""
        return max((elements for elements, _ in arrays(self.type)), default=0)


class Program(NamedTuple):
    """The computations of a program by name, and the one that is run."""

    computations: dict[str, list[Instruction]]
    entry: str


def arrays(type_: str) -> list[tuple[int, int]]:
    """(elements, bytes) of each array of a type."""
    found = []
    for kind, axes in ARRAY.findall(type_):
        elements = 1
        for axis in filter(None, axes.split(",")):
            elements *= int(axis)
        bits = 8 if kind == "pred" or kind.startswith("f8") else int(re.sub(r"\D", "", kind))
        found.append((elements, elements * bits // 8))
    return found


def parse(text: str) -> Program:
    """The program of `compiled.as_text()`."""
    computations: dict[str, list[Instruction]] = {}
    entry = ""
    current: list[Instruction] = []
    for line in text.splitlines():
        header = HEADER.match(line)
        if header and not line.startswith("HloModule"):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif match := INSTRUCTION.match(line):
            current.append(_instruction(match[1], match[2]))
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    type_, _, rest = text.partition(" ")
    if text.startswith("("):  # a tuple: up to the bracket that closes it
        depth = 0
        for end, letter in enumerate(text, start=1):
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                type_ = text[:end]
                rest = text[end + 1 :]
                break
    opcode, _, attributes = rest.partition("(")
    return Instruction(name, type_, opcode, attributes)


def executed(program: Program) -> Iterator[tuple[Instruction, int]]:
    """Every instruction of the program with how often it is run; of branches, the dearest."""
    yield from _executed(program, program.entry, 1)


def _executed(program: Program, name: str, times: int) -> Iterator[tuple[Instruction, int]]:
    for instruction in program.computations.get(name, []):
        if instruction.opcode == "while":
            body = instruction.attribute(r"body=%?([\w.\-]+)")
            yield instruction, times
            yield from _executed(program, body, times * trips(program, instruction))
        elif instruction.opcode == "conditional":
            branches = instruction.attribute(r"branch_computations=\{([^}]*)\}").split(",")
            if not branches[0]:
                branches = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", instruction.attributes)
            names = [branch.strip(" %") for branch in branches]
            yield from max((list(_executed(program, branch, times)) for branch in names), key=_cycles)
        elif instruction.opcode == "call":
            yield from _executed(program, instruction.attribute(r"to_apply=%?([\w.\-]+)"), times)
        else:
            yield instruction, times


def _cycles(instructions: list[tuple[Instruction, int]]) -> int:
    return sum(instruction.cycles * times for instruction, times in instructions)


def trips(program: Program, loop: Instruction) -> int:
    """How often a loop turns; 1 where only its data tell."""
    if known := loop.attribute(r'known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    names = [loop.attribute(r"condition=%?([\w.\-]+)")]
    bounds = []
    for instruction in program.computations.get(names[0], []):
        names += re.findall(r"calls=%?([\w.\-]+)", instruction.attributes)
    for name in names:
        for instruction in program.computations.get(name, []):
            if instruction.opcode == "constant" and (bound := re.match(r"(\d+)\)", instruction.attributes)):
                bounds.append(int(bound[1]))
    return max(bounds, default=1)


class Collective(NamedTuple):
    """The collectives of one kind in one run of a program.

    Attributes:
        kind: such as "all-gather".
        count: how many.
        bytes: of their results on one device.
        distance: the most links that a permute crosses; 0 for the other kinds.
        overlapped: how many of them overlap with computation.
    """

    kind: str
    count: int
    bytes: int
    distance: int
    overlapped: int


def collectives(program: Program, coordinates: list[tuple[int, ...]]) -> list[Collective]:
    """What devices send to one another; `coordinates` of the chips in the order of the mesh."""
    rows: dict[str, Collective] = {}
    for instruction, times in executed(program):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        started = instruction.opcode.endswith("-start")
        sizes = [size for elements, size in arrays(instruction.type) if elements > 1]
        size = sum(sizes)
        if started and kind != "all-reduce":  # the type names what is sent, too
            size = max(sizes, default=0) if kind == "all-gather" else size // 2
        row = rows.get(kind, Collective(kind, 0, 0, 0, 0))
        distance = max(row.distance, _distance(instruction, coordinates))
        overlapped = row.overlapped + times * started
        rows[kind] = Collective(kind, row.count + times, row.bytes + times * size, distance, overlapped)
    return sorted(rows.values())


def _distance(permute: Instruction, coordinates: list[tuple[int, ...]]) -> int:
    pairs = re.findall(r"\{(\d+),(\d+)\}", permute.attribute(r"source_target_pairs=\{(.*?)\}\}") + "}")
    if not coordinates or permute.opcode.removesuffix("-start") != "collective-permute":
        return 0
    ends = [(coordinates[int(a)], coordinates[int(b)]) for a, b in pairs]
    return max((sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in ends), default=0)


def cycles_by(program: Program, parts: dict[str, str]) -> dict[str, int]:
    """Estimated cycles of every part, {name: pattern of the scope}; the rest is "other"."""
    total = dict.fromkeys([*parts, "other"], 0)
    for instruction, times in executed(program):
        part = next((name for name, word in parts.items() if re.search(word, instruction.scope)), "other")
        total[part] += instruction.cycles * times
    return total
