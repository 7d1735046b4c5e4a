"""Runs loads against subjects, in rounds: A B C A B C …, each in a fresh process."""

import json
import subprocess
from pathlib import Path

from loads import Effort, Load
from subjects import BenchError, Running, Subject, cores, prepare_child

GENERATOR_DEADLINE = 120.0


def say(text: str) -> None:
    print(text, flush=True)


class Bench:
    def __init__(self, generator: Path, effort: Effort, directory: Path, is_realtime: bool):
        self.generator = generator
        self.effort = effort
        self.directory = directory
        self.is_realtime = is_realtime
        self.relay_core, self.generator_core = cores()
        self.started = 0

    def start(self, subject: Subject) -> Running:
        self.started += 1
        return Running(subject, self.directory / f"{self.started:03}", self.relay_core, self.is_realtime)

    def generate(self, running: Running, scenario: str, arguments: list[str]) -> dict:
        """Runs the generator against a started relay; its report, or a BenchError with its own sentence."""
        subject = running.subject
        scenario = subject.scenario or scenario
        return self.run_generator(f"{subject.name}, {scenario}", [scenario] + running.arguments() + arguments,
                                  running.last_words, subject.generator_wrapper)

    def run_generator(self, title: str, arguments: list[str], last_words, wrapper: tuple[str, ...] = ()) -> dict:
        process = subprocess.Popen(
            [*wrapper, str(self.generator), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, preexec_fn=prepare_child(self.generator_core, self.is_realtime))
        try:
            output, errors = process.communicate(timeout=GENERATOR_DEADLINE)
        except BaseException as error:
            process.kill()
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise BenchError(f"{title}: no end within {GENERATOR_DEADLINE:g} s") from None
            raise
        if process.returncode != 0:
            raise BenchError(f"{title}: {errors.strip()} {last_words()}")
        return json.loads(output)

    def window(self, warmup: float = 0, seconds: float = 0) -> list[str]:
        return ["--warmup", str(max(warmup, self.effort.warmup)), "--seconds", str(max(seconds, self.effort.seconds))]

    def rounds(self, title: str, subjects: list[Subject], scenario: str, arguments: list[str], summary,
               window: list[str] | None = None) -> dict:
        """Results by subject, one of each round; `summary` is what to say of one."""
        window = window or self.window()
        results = {subject.name: [] for subject in subjects}
        for number in range(self.effort.rounds):
            for subject in subjects:
                with self.start(subject) as running:
                    result = self.generate(running, scenario, arguments + window)
                results[subject.name].append(result)
                say(f"{title}  {number + 1}/{self.effort.rounds}  {subject.name:<17} {summary(result)}")
        return results

    def messages(self, scenario: str, subjects: list[Subject], load: Load) -> dict:
        return self.rounds(load.name, subjects, scenario, load.arguments(), lambda result: (
            f"{result['relay']['cpuMicrosecondsPerMessage']:8.2f} µs CPU per message, "
            f"{result['messagesPerSecond']:>9,.0f} messages/s"))

    def setup(self, title: str, subjects: list[Subject], concurrency: int) -> dict:
        return self.rounds(title, subjects, "setup", ["--concurrency", str(concurrency)], lambda result: (
            f"{result['relay']['cpuMicrosecondsPerConnection']:8.1f} µs CPU per connection, "
            f"{result['connectionsPerSecond']:>9,.0f} connections/s"))

    def growth(self, subject: Subject, loads: list[Load]) -> dict:
        """By load: the few and the many in turn, warmed up for longer than a message is under way among the many."""
        results = {load.name: [] for load in loads}
        for number in range(self.effort.rounds):
            for load in loads:
                with self.start(subject) as running:
                    result = self.generate(running, "pair", load.arguments() + self.window(warmup=2))
                results[load.name].append(result)
                say(f"{load.name}  {number + 1}/{self.effort.rounds}  "
                    f"{result['relay']['cpuMicrosecondsPerMessage']:8.2f} µs CPU per message")
        return results

    def replace(self, subject: Subject, load: Load) -> dict:
        """The same load without and with replacing, in turn."""
        results = {"forward": [], "replace": []}
        for number in range(self.effort.rounds):
            for scenario, rounds in results.items():
                with self.start(subject) as running:
                    arguments = load.arguments() + self.window()
                    if scenario == "replace":
                        arguments += self.replacing(subject, running)
                    result = self.generate(running, scenario, arguments)
                rounds.append(result)
                say(f"replacing {'on ' if scenario == 'replace' else 'off'}  {number + 1}/{self.effort.rounds}  "
                    f"longest delivery {result['latencyMicroseconds']['maximum'] / 1e3:.2f} ms")
        return results

    def replacing(self, subject: Subject, running: Running) -> list[str]:
        arguments = []
        for number, body in enumerate(subject.bodies):
            path = running.directory / f"body{number}.txt"
            path.write_text(body)
            arguments += ["--body-file", str(path)]
        return arguments

    def idle(self, title: str, subject: Subject, connections: int) -> dict:
        with self.start(subject) as running:
            result = self.generate(running, "idle", ["--connections", str(connections), "--seconds", "1"])
        say(f"{title}, {connections:,} idle connections  {subject.name:<17} {result['bytesPerConnection']:,.0f} B each")
        return result
