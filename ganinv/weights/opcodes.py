"""Pickles looked at without building anything: whole, regular, and what they would unfold to within bounds."""

from __future__ import annotations

import pickletools
from typing import BinaryIO

MOST_OPERATIONS = 5_000_000  # a checkpoint of thousands of tensors has some hundred thousand
MOST_UNFOLDED = 10_000_000  # parts of one value, those that it holds twice counted twice: what hashing or printing it visits
MOST_DEPTH = 400  # of values in values; modules in modules in modules reach about 50
GROWS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}  # operations that change the value below them
FILLERS = ("bytearray", "builtins bytearray", "__builtin__ bytearray")  # given a number, it makes so many bytes


class Value:
    """What is known of a value on a pickle's stack: of how many parts it is, and how deep. mark: it is none."""

    __slots__ = ("depth", "mark", "size")

    def __init__(self, parts: list[Value] = (), *, mark: bool = False):
        self.size, self.depth, self.mark = 1, 1, mark
        self.take(parts)

    def take(self, parts: list[Value]) -> None:
        """Counts more parts. Raises: ValueError for too many, or too deep ones."""
        self.size += sum(part.size for part in parts)
        self.depth = max([self.depth, *(part.depth + 1 for part in parts)])
        if self.size > MOST_UNFOLDED or self.depth > MOST_DEPTH:
            what = f"{self.size} parts" if self.size > MOST_UNFOLDED else f"{self.depth} levels"
            raise ValueError(f"a value of {what}")


def check_opcodes(file: BinaryIO) -> None:
    """Reads a pickle to its end without building anything.

    Each memo index is at most the number of operations so far, as every pickler writes it: the C unpickler would allocate
    a table of any size that a few bytes ask for. A tuple in a tuple, each twice, has 2**60 parts after sixty levels, which
    its hash visits one by one.
    Raises: ValueError when it is not whole, not regular, or out of the bounds above.
    """
    stack: list[Value] = []
    memo: dict[int, Value] = {}
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        name = operation.name
        if count > MOST_OPERATIONS:
            raise ValueError(f"more than {MOST_OPERATIONS} operations")
        if argument in FILLERS:
            raise ValueError("bytes made of a number")
        if "PUT" in name or name == "MEMOIZE":
            index = len(memo) if argument is None else int(argument)
            if index > count:
                raise ValueError(f"memo index {index} after {count} operations")
            memo[index] = last(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if int(argument) not in memo:
                raise ValueError(f"memo index {argument}, which nothing was put at")
            stack.append(memo[int(argument)])
        elif name == "DUP":
            stack.append(last(stack))
        elif name == "MARK":
            stack.append(Value(mark=True))
        else:
            apply(operation, stack)


def last(stack: list[Value]) -> Value:
    """Returns the value on top. Raises: ValueError where there is none."""
    if not stack:
        raise ValueError("an operation on nothing")
    return stack[-1]


def apply(operation: pickletools.OpcodeInfo, stack: list[Value]) -> None:
    """Takes from a stack what an operation takes, and puts there what it makes. Raises: ValueError where it lacks that."""
    before, taken = operation.stack_before, []
    if pickletools.markobject in before:
        while not last(stack).mark:
            taken.append(stack.pop())
        stack.pop()
        below = before.index(pickletools.markobject)
    else:
        below = len(before)
    if len(stack) < below:
        raise ValueError("an operation on nothing")
    own = stack[len(stack) - below :]
    del stack[len(stack) - below :]
    if operation.name in GROWS and own:
        own[0].take([*own[1:], *taken])
        stack.append(own[0])
    else:
        stack += [Value([*own, *taken]) for _ in operation.stack_after]
