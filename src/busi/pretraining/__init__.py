"""Making a backbone's starting weights: the stream of training images and the network with its tasks.

Fine-tuning on a data set is in `busi.model`.
"""
