"""Showing the Production model to people and programs: the app, the command line, the REST endpoint, the MLflow UI.

What the model does with an image is in `busi.serving`.
"""
