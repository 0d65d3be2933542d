"""Errors a person can act on.

One base, three facts: what was expected, what was found, what to do. The command line prints exactly these and
exits with `exit_code`; a traceback means a bug of ours.
"""


class VitalsError(Exception):
    """Base of every error that is the input's or the environment's fault, not ours."""

    exit_code = 1

    def __init__(self, problem: str, *, expected: str = "", found: str = "", do: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.found = found
        self.do = do

    def __str__(self) -> str:
        lines = [self.problem]
        for label, text in (("expected", self.expected), ("found", self.found), ("to do", self.do)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


class SettingsError(VitalsError):
    """The settings file or an environment override is wrong; nothing was started."""

    exit_code = 2


class OutboxError(VitalsError):
    """The gateway's outbox file cannot be used."""

    exit_code = 3


class StoreError(VitalsError):
    """The store cannot be opened (wrong file, wrong token, missing bucket)."""

    exit_code = 3


class BrokerError(VitalsError):
    """The broker refused us for a reason that waiting will not mend (bad credentials, bad address)."""

    exit_code = 4


class DeviceError(VitalsError):
    """A device, serial path or Bluetooth adapter named by the user does not exist or cannot be opened."""

    exit_code = 5


class PortTaken(VitalsError):
    """Another program listens on the port we were told to use."""

    exit_code = 6
