"""Everything that talks to MLflow: the connection, runs, registered versions and the logged model with its code.

What a version is worth, and which one is Production, is in `pipeline.registry`.
"""

import os

# Set here because MLflow reads them at import. No hints and links on the terminal, and no retries that take minutes
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}.items():
    os.environ.setdefault(_name, _value)
