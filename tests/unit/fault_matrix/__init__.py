"""
Every call that can go wrong, in every way: what becomes of the job, and what the user reads.

``faults``: what goes wrong. ``roles``: who makes the call, and what must come of it. ``page``: ``docs/faults.md``.
"""
