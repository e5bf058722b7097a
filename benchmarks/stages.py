"""Runs commands one after another, each within a budget of seconds, whatever becomes of the others.

What a stage leaves of its budget, later ones may use. A stage that overruns is interrupted, as by
Ctrl-C, so that it can keep what it has; if it does not end then, it is killed with its children.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO

GRACE_SECONDS = 8.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """command(allowance) -> arguments: a stage may fit its work to the seconds that it gets."""

    name: str
    seconds: float
    command: Callable[[float], Sequence[str]]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    name: str
    seconds: float
    complaint: str = ""  # empty: exit code 0 in time

    @property
    def passed(self) -> bool:
        return not self.complaint


def run_stages(
    stages: Sequence[Stage], log: IO[str], say: Callable[[str], None], clock=time.monotonic
) -> list[Outcome]:
    """All stages in order; their output goes into the log, a line per stage to say()."""
    outcomes = []
    start = clock()
    due = 0.0
    for stage in stages:
        due += stage.seconds
        outcome = run_stage(stage, due - (clock() - start), log, clock)
        say(f"{outcome.name}: {outcome.complaint or 'ok'} ({outcome.seconds:.0f} s)")
        outcomes.append(outcome)
    return outcomes


def run_stage(stage: Stage, allowance: float, log: IO[str], clock=time.monotonic) -> Outcome:
    start = clock()

    def outcome(complaint: str) -> Outcome:
        return Outcome(stage.name, clock() - start, complaint)

    if allowance <= GRACE_SECONDS:
        return outcome("not run: no time was left")
    command = list(stage.command(allowance - GRACE_SECONDS))
    log.write(f"\n==== {stage.name}: {' '.join(command)}\n")
    log.flush()
    try:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | stage.environment,
            start_new_session=True,  # a process group of its own, to be stopped as a whole
        )
    except OSError as error:
        return outcome(f"not run: {command[0]}: {error.strerror}")
    try:
        code = process.wait(allowance - GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        stop(process)
        return outcome(f"stopped after {allowance - GRACE_SECONDS:.0f} s")
    except BaseException:
        stop(process)
        raise
    return outcome("" if code == 0 else f"exit code {code}")


def stop(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
