"""Chaos: the whole road under a seeded sequence of faults, and a count of what was lost, doubled or changed.

`plan` says what goes wrong and when (a function of the seed alone), `faults` makes it go wrong, `ledger` notes what
each outbox committed, `stores` reads what the store has, `verify` compares the two, `report` prints it.
"""
