"""Look at a policy before it is trained: what was found, and the exact prompts that both roles will see.

    python -m experiments.check policy=DIR prompts=default
    python -m experiments.check policy=owner/name prompts=base_model
    python -m experiments.check experiment=smollm2_135m

Takes what `experiments.run` takes and loads the policy as a run does; a run says the notes of this table and stops at
what is refused. Control tokens are shown as they are spelled, and what would act on a terminal as an escape.

Exit codes: 0 it can be trained; 1 something is refused; 2 a wrong value, path or place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.command_line import DONE, UNMET, add_overrides, check, command_parser, exit_code, expand_policy, say
from experiments.compose import compose
from experiments.parts import check_keys, made
from experiments.terminal import print_table, quiet_libraries
from rzero.escaping import terminal_text

if TYPE_CHECKING:
    from rzero.policy_check import Finding


def table_of(found: Sequence[Finding]) -> Table:
    table = Table(title="policy")
    for column in ("what", "state", "found"):
        table.add_column(column)
    for finding in found:
        table.add_row(*(Text(cell) for cell in (finding.subject, finding.state, finding.text)))
    return table


def shown(text: str) -> Iterator[str]:
    """A prompt line by line; `|` stands where a line begins, so that white space at its ends is seen."""
    for line in text.split("\n"):
        yield f"| {terminal_text(line)}|"


def look(overrides: Sequence[str], *, console: Console, config_dir: Path | None = None) -> int:
    """Load the policy of these overrides, print what is found; return the exit code."""
    from experiments import composition
    from rzero.policy_check import TEMPLATE, findings, requests
    from rzero.processes.cpu import set_up_cpu
    from rzero.prompts import set_day

    cfg = compose(*expand_policy(overrides, config_dir=config_dir), config_dir=config_dir)
    check(cfg)
    check_keys(cfg)
    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    quiet_libraries()
    prompts = made(cfg, "prompts")
    policy = composition.policy_loader(cfg.policy)(str(cfg.policy.path_or_id))
    set_day(policy.tokenizer, datetime.now(UTC).date())
    found = findings(policy, prompts)
    print_table(console, table_of(found))
    refused = [finding.subject for finding in found if finding.state == "refused"]
    if TEMPLATE not in refused:
        for role, (tokens, text) in requests(policy, prompts).items():
            say(f"\n{role}, {tokens} tokens:", console=console)
            for line in shown(text):
                say(line, console=console)
    return UNMET if refused else DONE


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.check", __doc__)
    add_overrides(parser)
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        return look(options.overrides, console=Console(), config_dir=options.config_dir)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
