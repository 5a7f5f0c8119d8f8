"""A network of a picture and numbers beside it: two_inputs.py weights.pt mycode:Network picture.jpg 0.3,1.2 out.png"""

import sys

import torch

import camhelpers as ch

weights, architecture, picture, numbers, out = sys.argv[1:]
model = ch.load_model(weights, architecture, classes=["healthy", "ill"], size=(128, 128))
beside = torch.tensor([[float(number) for number in numbers.split(",")]])
model.register_forward_pre_hook(lambda net, args: (args[0], beside.expand(len(args[0]), -1)))  # every pass gets them
ex = ch.explain(model, picture)
print(ex.title(), "by", ex.layers[0])
ch.images.save_image(out, ex.overlay("hybrid"))
