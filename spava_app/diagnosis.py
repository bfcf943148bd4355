"""What was found when a machine was looked at, for people and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "absent", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name, found: what, and how it is.
        status: "absent" where nothing is needed, "warning" where something works less well,
            "problem" where it does not work.
        fix: what to do, in a line; empty without a warning or problem.
    """

    name: str
    found: str
    status: Status = "ok"
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst of all."""
        found = {check.status for check in self.checks}
        return "problem" if "problem" in found else "warning" if "warning" in found else "ok"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"status": self.status, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            status = "--" if check.status == "absent" else check.status
            lines.append(f"{status:8} {check.name:{width}}  {check.found}")
            if check.fix:
                lines.append(f"{'':8} {'':{width}}  -> {check.fix}")
        return "\n".join(lines)
