"""Methods, models and data sets as readers know them."""

NAMES = {
    "full": "Full training",
    "shorter": "Shorter training",
    "linear": "Linear freezing",
    "autofreeze": "AutoFreeze",
    "smartfrz": "SmartFRZ",
    "similarity": "Similarity-guided",
    "displacement": "Displacement rule",
    "random": "Random order",
    "simfreeze": "CKA to the start",
    "resnet50": "ResNet50",
    "vgg11": "VGG11",
    "mobilenet_v2": "MobileNetV2",
    "deit_tiny": "DeiT-T",
    "bert_base": "BERT-base",
    "bert_mini": "BERT-mini",
    "bert_tiny": "BERT-tiny",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "mrpc": "MRPC",
    "cola": "CoLA",
    "sst2": "SST-2",
    "sentences": "sentences",
}


def display_name(name: str) -> str:
    """A method, model or dataset as readers know it; ``linear t0=0.3`` keeps its setting."""
    base, space, setting = name.partition(" ")
    return NAMES.get(base, base) + space + setting
