#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Compare functions of two objects, but for code behind a dormant static key.

Usage: same_code.py READELF OBJDUMP KEY OLD.o NEW.o FUNCTION...

Walks each function from its entry, so that it does not matter where the compiler
lays a block, and never through the static branches of NEW.o that belong to KEY:
these are NOPs while KEY is off. What is left must be the instructions of OLD.o,
within a basic block in any order. Members of structures may have moved, each to
one new offset. Prints KTAP.
"""

import re
import subprocess
import sys

NUMBER = re.compile(r"-?0x[0-9a-f]+")
TARGET = re.compile(r"^0x([0-9a-f]+) <([^>+]+)(?:\+0x[0-9a-f]+)?>$")
CONDITIONAL = re.compile(r"^j(?!mp)[a-z]+$")
# What static_cpu_has() executes until it is patched, in section .altinstr_aux.
CPU_HAS_SIZE = 0x13


class Object:
    """An object file: what is in the relocations that the disassembly does not show."""

    def __init__(self, path, readelf, objdump):
        self.path = path
        self.objdump = objdump
        self.relocations = {}
        section = None
        for line in output(readelf, "-rW", path).splitlines():
            if match := re.match(r"Relocation section '\.rela(\S+)'", line):
                section = self.relocations.setdefault(match[1], [])
            elif " R_X86_64_" in line:
                offset, _, _, _, target = line.split(None, 4)
                section.append((int(offset, 16), target))

    def static_branches(self):
        """The target and the key of each static branch, by its address."""
        targets = [target for _, target in self.relocations.get("__jump_table", [])]
        return {
            in_text(code): (in_text(target), key.split(" + ")[0])
            for code, target, key in zip(targets[0::3], targets[1::3], targets[2::3])
            if code.startswith(".text + ")
        }

    def cpu_has_targets(self, start):
        return [
            in_text(target) + 4  # relative to the end of the jump
            for offset, target in self.relocations[".altinstr_aux"]
            if start <= offset < start + CPU_HAS_SIZE and target.startswith(".text ")
        ]

    def function(self, name):
        """Its instructions, [mnemonic, operands, next address, relocation] by address."""
        code = {}
        last = None
        for line in output(self.objdump, "-dr", "--no-show-raw-insn", "-j", ".text",
                           f"--disassemble-symbols={name}", self.path).splitlines():
            if match := re.match(r"\s+[0-9a-f]+:\s+R_X86_64_\w+\s+(.+)$", line):
                code[last][3] = match[1]
            elif match := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*([^#]*)", line):
                address = int(match[1], 16)
                if last is not None:
                    code[last][2] = address
                code[address] = [match[2], match[3].strip(), None, ""]
                last = address
        if not code:
            sys.exit(f"error: {self.path} has no function {name}; if it was inlined, name its caller")
        return code


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def in_text(target):
    return int(target.split(" + ")[1], 16)


def render(mnemonic, operands, relocation):
    """One instruction without what only says where things lie."""
    if not relocation:
        target = TARGET.match(operands)
        return f"{mnemonic} {target[2] if target else operands}".strip()
    # A constant in .rodata has no name.
    symbol = re.sub(r"^(\.rodata[^+-]*|\.text)[+-].*", r"\1", relocation)
    return f"{mnemonic} {NUMBER.sub('_', operands) if mnemonic != 'callq' else ''} {symbol}"


def basic_blocks(obj, name, key):
    """The function's blocks in the order of execution, each a list of instructions."""
    code = obj.function(name)
    branches = obj.static_branches()
    seen, labels, queue, blocks = {}, {}, [min(code)], []

    def branch(what, *targets):
        queue.extend(targets)
        numbers = [labels.setdefault(target, len(labels)) for target in targets]
        blocks[-1].append(f"{what} -> {numbers}")
        blocks.append([])

    while queue:
        address = queue.pop(0)
        if address in seen:
            continue
        blocks.append([f"label {labels.get(address, 'entry')}"])
        while address is not None and address not in seen:
            mnemonic, operands, following, relocation = code[address]
            seen[address] = len(blocks)
            target = TARGET.match(operands)
            target = int(target[1], 16) if target else None
            dormant, owner = branches.get(address, (None, None))
            if owner not in (None, key):
                branch(f"static branch {owner}", dormant)
            if mnemonic == "jmp" and relocation.startswith(".altinstr_aux"):
                start = int(re.search(r"([+-]0x[0-9a-f]+)$", relocation)[1], 16) + 4
                branch("static_cpu_has", *obj.cpu_has_targets(start))
            elif mnemonic == "jmp" and target in code and not relocation:
                address = target
                continue
            elif CONDITIONAL.match(mnemonic) and target in code:
                branch(mnemonic, target)
            elif not mnemonic.startswith("nop"):
                blocks[-1].append(render(mnemonic, operands, relocation))
            address = None if mnemonic in ("retq", "jmp") and not relocation.startswith(".altinstr") else following
        if address is not None:
            blocks[-1].append(f"goes on in block {seen[address]}")
    return blocks


def same(old, new, moved):
    """Whether two blocks differ in nothing but order and members that moved."""
    masked = lambda text: NUMBER.sub("_", text)
    for before, after in zip(sorted(old, key=masked), sorted(new, key=masked)):
        if masked(before) != masked(after):
            return False
        for was, now in zip(NUMBER.findall(before), NUMBER.findall(after)):
            if moved.setdefault(was, now) != now:
                return False
    return len(old) == len(new)


def main():
    readelf, objdump, key, old_path, new_path, *names = sys.argv[1:]
    old, new = Object(old_path, readelf, objdump), Object(new_path, readelf, objdump)
    print(f"TAP version 13\n1..{len(names)}")
    for number, name in enumerate(names, 1):
        before, after = basic_blocks(old, name, key), basic_blocks(new, name, key)
        moved = {}
        pairs = list(zip(before, after))
        different = next((i for i, pair in enumerate(pairs) if not same(*pair, moved)), None)
        if different is not None:
            print("# unpatched:", *before[different], sep="\n#   ")
            print("# patched:", *after[different], sep="\n#   ")
        count = sum(map(len, before))
        print(f"{'not ' * (different is not None or len(before) != len(after))}ok {number} "
              f"{name}: {count} instructions and branches, the same but for NOPs")


if __name__ == "__main__":
    main()
