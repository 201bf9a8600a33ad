"""
The kill contract, for a job of any kind.

``run.py`` brings one try of a task to its end: it takes up a job of an earlier try (``takeover.py``) or starts one
(``start.py``), waits for it here or in a triggerer (``deferral.py``), and has it cancelled when the task is killed
(``kill.py``).
"""
