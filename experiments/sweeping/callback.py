"""Hydra's hook into a multirun: names every job, lets the others go on when one fails, and reports at the end.

It is called where a job runs, on this machine or another, whatever the launcher is. Hydra turns an exception of a hook
into a warning; what must stop the command leaves as SystemExit.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.command_line import UNMET
from experiments.sweeping import jobs
from experiments.sweeping.jobs import Job
from experiments.sweeping.places import spoken_overrides
from rzero.escaping import terminal_text
from rzero.processes.parent import die_with
from rzero.runs.directory import RunDirectory

FAILED = UNMET  # some jobs failed: the command itself came to its end


class SweepCallback(Callback):
    """Silent in a single run. It travels to the jobs by pickle, with the process id of the command."""

    command: int | None = None

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        self.command = os.getpid()
        sweep = Path(config.hydra.sweep.dir)
        jobs.folder(sweep).mkdir(parents=True, exist_ok=True)
        jobs.forget(sweep)
        _say(f"sweep directory: {sweep} (the same command goes on where it was stopped)")

    def on_job_start(self, config: DictConfig, **_: object) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        if self.command is not None and os.getppid() == self.command:
            die_with(self.command)  # joblib's workers outlive a command that was killed, and hang, holding their memory
        job = _job(config)
        jobs.write(_sweep(config), job)
        _say(f"job {job.number}: {job.name}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: object) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        job = ended(_job(config), job_return)
        jobs.write(_sweep(config), job)
        _say(f"job {job.number}: {job.state} {job.message}".rstrip())
        # the sweeper would raise what a job raised and leave the report unwritten; the record has it
        job_return.status, job_return.return_value = JobStatus.COMPLETED, objective(job)

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        # after the jobs and not at the start: pictures and tables take a second to import
        from experiments.sweeping.report import show, write_sweep_report
        from experiments.sweeping.summary import arms

        sweep = Path(config.hydra.sweep.dir)
        all_jobs = jobs.read(sweep)
        failed = [job for job in all_jobs if not job.done]
        try:
            found = arms(all_jobs)
            path = write_sweep_report(sweep, all_jobs, found)
        except (OSError, ValueError) as error:
            print(f"error: no report of {sweep}: {terminal_text(str(error))}", file=sys.stderr)
            sys.exit(FAILED)
        if found:
            show(found)
        _say(f"report: {path}")
        for job in failed:
            what = job.message or "ended without a word"
            print(
                f"error: job {job.number} ({job.name}) {job.state}: {terminal_text(what)}; "
                f"{jobs.log_path(sweep, job.number)}",
                file=sys.stderr,
            )
        if failed:
            sys.exit(FAILED)


def ended(job: Job, job_return: JobReturn) -> Job:
    """Return the record of a job that came back: what `experiments.run.execute` said, or what the job raised."""
    if job_return.status == JobStatus.FAILED:
        error = job_return._return_value
        return replace(job, state="failed", message=f"{type(error).__name__}: {error}")
    ending = job_return.return_value
    return replace(
        job,
        state="failed" if ending.code else "skipped" if ending.skipped else "finished",
        directory=str(ending.directory or ""),
        message=ending.message,
    )


def objective(job: Job) -> float:
    """Return what a sweeper that searches maximises: `overall` after the last iteration; nan for a failed job."""
    there = RunDirectory(Path(job.directory))
    evaluated = there.evaluated() if job.done else []
    return (
        float(json.loads(there.scores(evaluated[-1]).read_text(encoding="utf-8"))["overall"]) if evaluated else math.nan
    )


def _job(config: DictConfig) -> Job:
    job = config.hydra
    return Job(
        number=job.job.num, overrides=tuple(job.overrides.task), name=" ".join(spoken_overrides(job)), state="started"
    )


def _sweep(config: DictConfig) -> Path:
    return Path(config.hydra.runtime.output_dir)


def _say(text: str) -> None:
    print(terminal_text(text), flush=True)
