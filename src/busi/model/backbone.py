"""Names and numbers of DenseNet121 as keras.applications has it; reading them costs no TensorFlow."""

# Statistics of ImageNet's training images in 0-1, as keras.applications' "torch" mode applies them to DenseNet
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Published with keras.applications; fetched by `make weights`
IMAGENET_FILE = "densenet121_imagenet_notop.h5"
IMAGENET_MD5 = "30ee3e1110167f948a6b9946edeeb738"

# The usual places to cut at, first to last; `cut` accepts any other layer at which the backbone narrows to one tensor
BOUNDARIES = ("input", "pool1", "pool2_pool", "pool3_pool", "pool4_pool", "levels")

LEVELS = ("pool2_pool", "pool3_pool", "pool4_pool", "relu")  # read by the head; the last is DenseNet121's own
