"""`vitals doctor`: looks at one machine's part of the clinic and says what is wrong and what mends it.

It changes nothing and disturbs nothing that works: what a running service says of itself is asked on its health page,
and the broker and the radio are only tried where no running service has them.
"""
