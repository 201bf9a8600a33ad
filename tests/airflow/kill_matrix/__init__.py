"""
The kill matrix: whatever can kill a task (paths) at whatever moment of its life (moments), on a real Airflow.

``cases`` says what is done when and what must come of it, ``stage`` does it, many cases side by side, and
``verdict`` counts what went wrong. The judge is the job table of the local DLI.
"""
