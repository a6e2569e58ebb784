"""What the pipeline computes, apart from how it runs.

Modules here take values and return values: they know no working directory, no `params.yaml`, and import
neither DVC, MLflow nor Prefect. `pipeline/` wires them together.
"""

DISCLAIMER = "For research and education only. Not a medical device."
