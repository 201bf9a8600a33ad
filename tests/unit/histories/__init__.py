"""
A simulation of DLI and Airflow with a fake clock, around the real operators, trigger, hook and kill switch.

``simulation`` has processes, threads, signals and event loops that run in one real thread and in a fixed order;
``fake_dli`` and ``fake_airflow`` are what the provider talks to; ``history`` runs a list of events and tells what must
not have happened.
"""
