"""`busi doctor`: what is wrong with this machine and checkout, and what to do.

It runs where the rest can't: modules here import Python's own library and `pipeline.runtime` alone; a check imports
what else it needs, and says so where that is missing. Nothing here mends anything, or loads TensorFlow or MLflow.
"""
