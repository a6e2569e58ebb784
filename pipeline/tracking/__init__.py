"""The only code that talks to MLflow: the store, runs, registered versions, the logged model.

What a version must fulfil to be promoted is in `pipeline.registry`.
"""
