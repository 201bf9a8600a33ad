"""How a job is waited for, in a worker and in a triggerer: poll intervals, outages, progress."""
