"""Fuzzing: what a stranger writes comes to a value or to a declared refusal, and to nothing else.

    python -m tests.fuzz --help

A *target* (target.py, targets/) is one parser with the properties that it promises; an *engine* makes up inputs for it:
our own (engine_own.py), Hypothesis, or atheris where it is installed.  Inputs that once broke something are kept in
regressions/ and come first, always.
"""
