"""Everything that talks to MLflow: the connection, runs, registered versions and the logged model with its code.

What a version is worth, and which one is Production, is in `pipeline.registry`.
"""
