#!/usr/bin/env python3
"""cvc5's Python module as the program `cvc5`: reads SMT-LIB, answers each command as it comes.

Reads whole commands, by their brackets: the module's parser takes what it is given as complete.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cvc5  # noqa: E402  (it lies beside this file)


def commands(lines):
    """Texts that hold whole commands."""
    text, depth, quote = "", 0, None
    for line in lines:
        comment = False
        for char in line:
            if comment:
                continue
            if quote:
                quote = None if char == quote else quote
            elif char in '"|':
                quote = char
            elif char == ";":
                comment = True
            elif char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
        text += line
        if depth == 0 and quote is None and text.strip():
            yield text
            text = ""


def start():
    """A solver that knows nothing yet, and what reads for it."""
    solver = cvc5.Solver()
    for argument in sys.argv[1:]:
        name, found, value = argument.removeprefix("--").partition("=")
        if found:
            # For each question, after which the answer is "unknown"; the program's own ends the program.
            solver.setOption("tlimit-per" if name == "tlimit" else name, value)
    return solver, cvc5.InputParser(solver)


def main():
    solver, parser = start()
    for text in commands(sys.stdin):
        if text.strip() == "(reset)":
            # The parser would remember the logic.
            solver, parser = start()
            continue
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "stdin")
        while not (command := parser.nextCommand()).isNull():
            sys.stdout.write(command.invoke(solver, parser.getSymbolManager()))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
