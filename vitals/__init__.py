"""The shared vocabulary of the vitals pipeline: nouns, metrics, wire primitives, messages, settings, outbox.

Everything else (drivers, simulators, ingest, dashboards) knows this package; this package knows none of them,
except `vitals.cli`, the one place where the parts are wired together.
"""

__version__ = "0.1.0"
