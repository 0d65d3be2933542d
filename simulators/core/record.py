"""A WFDB record (PhysioNet) as a source of samples, for `vitals replay`. Needs the optional package wfdb.

The digital values of the record are sent as they are, to the bit. A WFDB header gives `gain` (ADC units a mV),
`baseline` (the digital value of 0 mV) and `adc_zero`; a front end is AC-coupled and its counts are about 0, so only
the scale (1000 / gain microvolt a count) is declared and the baseline is left in the samples: a constant the EKG
filters take out. Subtracting it would make replayed bytes differ from the published file.
"""

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulators.core.samples import ArraySource
from vitals.errors import VitalsError

DEFAULT_GAIN: Final = 200.0
"""WFDB's own default when a header states none (header(5))."""
SUFFIXES: Final = (".hea", ".dat", ".atr", ".mat")


class RecordSource(ArraySource):
    """One lead of a record. `counts` are the digital values, int16 of shape (samples,)."""

    def __init__(
        self, counts: npt.NDArray[np.int16], rate_hz: float, name: str, lead: str, gain: float, baseline: int
    ) -> None:
        super().__init__(counts, rate_hz)
        self.counts = counts
        self.name = name
        self.lead = lead
        self.gain = gain
        self.baseline = baseline
        """Digital value of 0 mV, left in the samples."""

    @property
    def uv_per_count(self) -> float:
        return 1000.0 / self.gain


def open_record(path: str | Path, lead: str | int = 0) -> RecordSource:
    """The record at `path` (with or without `.hea`); `lead` by name (`MLII`) or number from 0.

    Raises VitalsError when wfdb is not installed, the record is absent or broken, there is no such lead, or its
    values do not fit 16 bits.
    """
    stem = Path(path)
    if stem.suffix in SUFFIXES:
        stem = stem.with_suffix("")
    record = _read(stem)
    index = _lead(stem, lead, list(record.sig_name))
    values = record.d_signal[:, index]
    if len(values) == 0 or values.min() < -32_768 or values.max() > 32_767:
        raise VitalsError(
            f"Lead {record.sig_name[index]} of {stem} cannot be sent.", expected="values of 16 bits",
            found=f"{len(values)} values" if len(values) == 0 else f"{values.min()} to {values.max()}",
            do="Choose another lead or record.",
        )  # fmt: skip
    gain = float(record.adc_gain[index]) or DEFAULT_GAIN
    counts = values.astype(np.int16)
    return RecordSource(
        counts, float(record.fs), stem.name, str(record.sig_name[index]), gain, int(record.baseline[index])
    )


def _read(stem: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wfdb 4.3 trips over pandas 3.1's deprecations while it is imported
            import wfdb
    except ImportError:
        raise VitalsError(
            "Replaying a record needs the package wfdb.", expected="wfdb installed", found="no such package",
            do="pip install 'exam-room-vitals[records]'",
        ) from None  # fmt: skip
    if not stem.with_suffix(".hea").is_file():
        raise VitalsError(
            f"There is no record {stem}.", expected=f"{stem.name}.hea and its signal file", found="no header",
            do="Give the path of a WFDB record, with or without .hea.",
        )  # fmt: skip
    try:
        return wfdb.rdrecord(str(stem), physical=False)
    except Exception as error:  # noqa: BLE001  wfdb raises what its numpy and pandas raise
        raise VitalsError(
            f"The record {stem} cannot be read.", expected="a WFDB record with 16-bit signals",
            found=f"{type(error).__name__}: {error}", do="Check that its files are complete.",
        ) from None  # fmt: skip


def _lead(stem: Path, lead: str | int, names: list[str]) -> int:
    index = names.index(lead) if lead in names else int(lead) if str(lead).isdecimal() else -1
    if not 0 <= index < len(names):
        raise VitalsError(
            f"The record {stem} has no lead {lead!r}.", expected=f"one of {', '.join(names)}, or 0 to {len(names) - 1}",
            found=repr(lead), do="Choose a lead of the record.",
        )  # fmt: skip
    return index
