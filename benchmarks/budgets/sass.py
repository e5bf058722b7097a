"""NVIDIA's machine code, as `cuobjdump -sass` prints it: kernels, their loops, their loads."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import triton

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
INSTRUCTION = re.compile(
    r"^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<condition>@!?U?P\w+\s+)?"
    r"(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>[^;\n]*);",
    re.MULTILINE,
)
REGISTER = re.compile(r"(?<![A-Z])R(\d+)(\.64)?")
LOADS = {"global": "LDG", "shared": "LDS"}
ENDS = ("BRA", "BRX", "EXIT", "JMP", "RET")
LOAD_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


class Instruction(NamedTuple):
    address: int
    opcode: str  # with its modifiers: LDG.E.128.CONSTANT
    operands: str
    conditional: bool

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    def loads(self, memory: str) -> int:
        """How many bytes each thread loads from "global" or "shared" memory; 0 of other things."""
        if self.name != LOADS[memory]:
            return 0
        sizes = [LOAD_BYTES[part] for part in self.opcode.split(".")[1:] if part in LOAD_BYTES]
        return sizes[0] if sizes else 4

    @property
    def load_bytes(self) -> int:
        return self.loads("global")

    @property
    def target(self) -> int | None:
        """Where a branch goes to."""
        if not self.opcode.startswith("BRA"):
            return None
        found = re.search(r"0x([0-9a-f]+)", self.operands)
        return int(found[1], 16) if found else None

    @property
    def falls_through(self) -> bool:
        """A branch's condition may be in front of it or its first operand: BRA.U !UP0, 0x90."""
        conditional = self.conditional or re.match(r"!?U?P\d", self.operands) is not None
        return conditional or self.name not in ENDS

    def registers(self) -> list[set[int]]:
        """Of each operand, the registers that it names; .64 is a pair of them."""
        return [
            {
                int(number) + i
                for number, pair in REGISTER.findall(operand)
                for i in range(1 + bool(pair))
            }
            for operand in self.operands.split(",")
        ]


def functions(machine_code: Path, architecture: str) -> dict[str, list[Instruction]]:
    """The kernels of an object by their mangled names."""
    command = [str(CUOBJDUMP), "-sass", "-arch", architecture, str(machine_code)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, *kernels = printed.split("Function : ")
    found: dict[str, list[Instruction]] = {}
    for kernel in kernels:
        name, code = kernel.split("\n", 1)
        found[name.strip()] = [
            Instruction(int(address, 16), opcode, operands.strip(), bool(condition))
            for address, condition, opcode, operands in INSTRUCTION.findall(code)
            if opcode != "NOP"
        ]
    return found


@dataclasses.dataclass
class Block:
    """Instructions that run one after another."""

    instructions: list[Instruction]
    after: list[int]


def blocks(code: list[Instruction]) -> list[Block]:
    starts = {code[0].address} | {i.target for i in code if i.target is not None}
    starts |= {b.address for a, b in itertools.pairwise(code) if a.name in ENDS}
    found: list[Block] = []
    for instruction in code:
        if instruction.address in starts:
            found.append(Block([], []))
        found[-1].instructions.append(instruction)
    # A target may lie behind the last instruction: the NOPs that fill the kernel up.
    number = {block.instructions[0].address: i for i, block in enumerate(found)}
    for i, block in enumerate(found):
        last = block.instructions[-1]
        if last.target in number:
            block.after.append(number[last.target])
        if last.falls_through and i + 1 < len(found):
            block.after.append(i + 1)
    return found


def loops(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """The innermost loops, each as its instructions in the order of their addresses."""
    graph = blocks(code)
    bodies = _bodies(graph)
    for header, body in sorted(bodies.items()):
        if not any(other in body for other in bodies if other != header):
            yield _instructions(graph, body)


def loops_around(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """Those that go around other loops, by the instructions that are in none of these."""
    graph = blocks(code)
    bodies = _bodies(graph)
    for header, body in sorted(bodies.items()):
        within = [bodies[other] for other in bodies if other != header and other in body]
        if within:
            yield _instructions(graph, body.difference(*within))


def _instructions(graph: list[Block], body: set[int]) -> list[Instruction]:
    return [instruction for i in sorted(body) for instruction in graph[i].instructions]


def _bodies(graph: list[Block]) -> dict[int, set[int]]:
    """The blocks of each loop, by that where it begins."""
    before: list[list[int]] = [[] for _ in graph]
    for i, block in enumerate(graph):
        for after in block.after:
            before[after].append(i)
    dominators = _dominators(before)
    bodies: dict[int, set[int]] = {}
    for i, block in enumerate(graph):
        for header in block.after:
            if dominators[i] >> header & 1:
                bodies.setdefault(header, {header}).update(_reaching(before, i, header))
    return bodies


def _dominators(before: list[list[int]]) -> list[int]:
    """Of each block, those that every way to it passes, as bits."""
    everything = (1 << len(before)) - 1
    found = [1, *[everything] * (len(before) - 1)]
    changed = True
    while changed:
        changed = False
        for i in range(1, len(before)):
            common = everything
            for other in before[i]:
                common &= found[other]
            common = (common | 1 << i) if before[i] else 1 << i
            changed |= common != found[i]
            found[i] = common
    return found


def _reaching(before: list[list[int]], end: int, header: int) -> set[int]:
    """The blocks from which `end` is reached without passing the header."""
    found, todo = {header}, [end]
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            todo += before[i]
    return found


def in_flight(code: list[Instruction], width: int, memory: str = "global") -> int:
    """The most loads of `width` bytes that a thread has issued when it first needs one of them.

    The loop goes round twice, for loads that one round issues and the next one uses.
    """
    most = 0
    waiting: list[set[int]] = []
    for instruction in [*code, *code]:
        is_load = instruction.loads(memory) == width
        if not (waiting or is_load):
            continue
        to, *sources = instruction.registers() or [set()]
        # What is first is written, except by a store, whose first operand is an address.
        used = set().union(*sources, *([to] if instruction.name[:2] == "ST" else []))
        if any(load & used for load in waiting):
            most = max(most, len(waiting))
            waiting = [load for load in waiting if not load & used]
        if is_load:
            first = min(to, default=0)
            waiting.append(set(range(first, first + max(1, width // 4))))
    return most
