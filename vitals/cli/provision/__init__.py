"""`vitals provision`: a small certificate authority, and everything the broker and its clients need from it.

Wires nothing of the running parts: it writes files, once, on the machine of whoever looks after the clinic.
"""
