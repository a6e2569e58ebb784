"""Run every check and print what it finds."""

import re

from pipeline.doctor import checkout, machine
from pipeline.doctor.finding import NOTE, PROBLEM, Finding, counted

CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")  # user and password in an address
CHECKS = {
    "folder": checkout.folder,
    "Python": machine.python,
    "packages": machine.packages,
    "programs": machine.programs,
    "variables": machine.variables,
    "machine": machine.machine,
    "ports": machine.ports,
    "git": checkout.repository,
    "files": checkout.files,
    "data": checkout.data,
    "store": checkout.store,
    "Prefect": checkout.prefect,
    "at work": checkout.at_work,
}


def run() -> int:
    """Print what every check finds; 1 when there is a problem, else 0."""
    problems, notes = 0, 0
    for title, check in CHECKS.items():
        for finding in findings(check):
            problems, notes = problems + (finding.level == PROBLEM), notes + (finding.level == NOTE)
            print(f"{finding.level:<7}  {title:<11}  {_indented(finding.what)}", flush=True)
            if finding.remedy:
                print(f"{'':<22}-> {_indented(finding.remedy)}", flush=True)
    counts = f"{counted(problems, 'problem')}, {counted(notes, 'note')}"
    print(f"\n{counts}: " + ("mend the problems, then repeat busi doctor" if problems else "the pipeline can run"))
    return int(problems > 0)


def findings(check) -> list[Finding]:
    """What a check finds; what it can't find out is a finding too, so that one broken thing hides no other."""
    found = []
    try:
        for finding in check():
            found.append(finding)
    except ModuleNotFoundError as error:
        found.append(Finding(NOTE, f"not checked: package {error.name} is missing", "make env"))
    except Exception as error:  # whatever is broken here, the other checks must still be made
        found.append(Finding(NOTE, f"not checked: {type(error).__name__}: {error}"))
    return found


def _indented(text: str) -> str:
    return CREDENTIALS.sub("", text).replace("\n", "\n" + " " * 22)
