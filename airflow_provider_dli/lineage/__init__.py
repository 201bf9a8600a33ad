"""What OpenLineage is told of jobs. Nothing of OpenLineage is imported where its provider is not installed."""
